"""Who calls, for which brand, and whether they may at all. Refusals are never given from a worker's memory."""

from __future__ import annotations

from functools import partial

from billing.counters import StoreUnavailable
from billing.snapshot import BrandRecord, ModelRecord, Snapshot
from billing.tiers import TierUnknown
from keys.caller import Caller
from keys.credentials import SPELLED, CredentialsReason, CredentialsRefused, present
from keys.directory import DirectoryUnavailable, KeyRefused
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
    worker.guard.enter(call, caller.key_id)
    call.snapshot = await worker.catalogue.snapshot(brand.id)
    try:
        _judge(call, worker)
    except (Declined, KeyRefused, CredentialsRefused):
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
    _judge_scheme(call, call.snapshot.brand)
    judge_caller(call.caller, call.snapshot, call.endpoint, now_ms=now_ms, address=call.address)


def _judge_scheme(call: Call, brand: BrandRecord) -> None:
    """By the snapshot's brand, whose version is checked with every call: the list of brands may be a second old.
    Raises CredentialsRefused."""
    if brand.schemes != call.schemes:
        present(call.headers, call.query, schemes=brand.schemes)
        call.schemes = brand.schemes


def rejudge(call: Call, worker: Worker, caller: Caller, snapshot: Snapshot) -> ModelRecord:
    """For admission, which has reloaded: everything that was judged before, again."""
    now_ms = worker.counters.now_ms()
    _judge_scheme(call, snapshot.brand)
    judge_caller(caller, snapshot, call.endpoint, now_ms=now_ms, address=call.address)
    call.caller, call.snapshot, call.brand = caller, snapshot, snapshot.brand
    call.model = judge_model(caller, snapshot, call.endpoint, call.model_name)
    return call.model


async def _found(call: Call, worker: Worker) -> tuple[Caller, BrandRecord]:
    if call.brand is not None:
        return await _found_within(call, worker, call.brand), call.brand
    brands = worker.brands
    candidates = [brand for brand in brands.by_id.values() if brands.serves(brand, call.place)]
    if not candidates:
        if not worker.catalogue.knows_brands:
            raise StoreUnavailable("the list of brands could not be read yet")
        raise decline(Reason.INVALID_KEY)
    presented = present(call.headers, call.query, schemes=_EVERY_SCHEME)
    caller = await _find(call, worker, presented.secret, *candidates)
    return caller, brands.by_id[caller.organization.brand_id]  # which may not take it this way: judged with the rest


async def _found_within(call: Call, worker: Worker, brand: BrandRecord) -> Caller:
    """A key that came in a way the list of brands does not take is looked up all the same: only the snapshot says for
    sure whether it may. Where there is no such key, the way is what is answered."""
    try:
        secret = present(call.headers, call.query, schemes=brand.schemes).secret
    except CredentialsRefused as refused:
        if refused.reason is not CredentialsReason.SCHEME_NOT_ACCEPTED:
            raise
        secret = present(call.headers, call.query, schemes=_EVERY_SCHEME).secret
        try:
            return await _find(call, worker, secret, brand)
        except KeyRefused:
            raise refused from None
    call.schemes = brand.schemes
    return await _find(call, worker, secret, brand)


async def _find(call: Call, worker: Worker, secret: str, *brands: BrandRecord) -> Caller:
    """A key that is looked up counts for its address, unless it is found (or nobody can say)."""
    try:
        caller = await worker.directory.find(secret, *brands, gate=partial(worker.guard.look_up, call))
    except KeyRefused:
        call.counted_at = None
        raise
    except DirectoryUnavailable:
        worker.guard.leave(call)
        raise
    if call.counted_at is not None:
        worker.guard.leave(call)
    return caller
