"""Who calls, for which brand, and whether they may at all. Refusals are never given from a worker's memory."""

from __future__ import annotations

from billing.catalogue import BrandUnknown
from billing.snapshot import BrandRecord, ModelRecord, Snapshot
from billing.tiers import TierUnknown
from keys.caller import Caller
from keys.credentials import SPELLED, present
from keys.directory import KeyRefused
from proxy.call import Call
from proxy.dialects import dialect_named
from proxy.judging import judge_caller, judge_model
from proxy.refusals import Declined, Reason, decline
from proxy.worker import Worker

_EVERY_SCHEME = frozenset(SPELLED)


async def authenticate(call: Call, worker: Worker) -> None:
    """Sets caller, brand, dialect and snapshot. The brand of an open place is the key's own."""
    caller, brand = await _found(call, worker)
    if brand is not call.brand:
        call.brand, call.dialect = brand, dialect_named(brand.dialect)
    call.caller = caller
    try:
        call.snapshot = await worker.catalogue.snapshot(brand.id)
    except BrandUnknown:
        raise decline(Reason.INVALID_KEY) from None
    try:
        _judge(call, worker)
    except (Declined, KeyRefused):
        await refresh(call, worker)


async def resolve_model(call: Call, worker: Worker) -> ModelRecord:
    """The model the call names, which this caller may use now."""
    try:
        return judge_model(call.caller, call.snapshot, call.endpoint, call.model_name)
    except (Declined, TierUnknown):
        await refresh(call, worker)
        return judge_model(call.caller, call.snapshot, call.endpoint, call.model_name)


async def refresh(call: Call, worker: Worker) -> None:
    """Caller and snapshot as they hold now (one step in Redis, and a reload of what has changed), and the caller judged
    by them: a record that is new in one point may be new in another."""
    call.caller, call.snapshot = await worker.admission.check(call.caller, call.snapshot)
    call.brand = call.snapshot.brand
    _judge(call, worker)


def _judge(call: Call, worker: Worker) -> None:
    now_ms = worker.counters.now_ms()
    judge_caller(call.caller, call.snapshot, call.endpoint, now_ms=now_ms, address=call.address)


def rejudge(call: Call, worker: Worker, caller: Caller, snapshot: Snapshot) -> ModelRecord:
    """For admission, which has reloaded: everything that was judged before, again."""
    now_ms = worker.counters.now_ms()
    judge_caller(caller, snapshot, call.endpoint, now_ms=now_ms, address=call.address)
    call.caller, call.snapshot, call.brand = caller, snapshot, snapshot.brand
    call.model = judge_model(caller, snapshot, call.endpoint, call.model_name)
    return call.model


async def _found(call: Call, worker: Worker) -> tuple[Caller, BrandRecord]:
    if call.brand is not None:
        presented = present(call.headers, call.query, schemes=call.brand.schemes)
        caller = await worker.directory.find(presented.secret, call.brand)
        return caller, call.brand
    brands = worker.brands
    candidates = [brand for brand in brands.by_id.values() if brands.serves(brand, call.place)]
    if not candidates:
        raise decline(Reason.INVALID_KEY)
    presented = present(call.headers, call.query, schemes=_EVERY_SCHEME)
    caller = await worker.directory.find(presented.secret, *candidates)
    brand = brands.by_id[caller.organization.brand_id]
    present(call.headers, call.query, schemes=brand.schemes)  # the key's brand may not take it this way
    return caller, brand
