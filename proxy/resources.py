"""What is read without a hold: models, usage, health, metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import orjson

from billing.events import COUNTED_SQL
from billing.hold import LimitState
from billing.money import price_per_token
from billing.pricing import complete, rate_for
from billing.snapshot import ModelRecord, RateRecord, Snapshot
from billing.tiers import tier_of, unlocks
from billing.windows import day_of
from keys.caller import Caller
from proxy import charges, sessions, standing
from proxy.addresses import read_address
from proxy.answers import Header, Send, send_body
from proxy.authentication import authenticate, refresh
from proxy.call import Call
from proxy.dialects.protocol import DayUsed, Listed, UsageReport
from proxy.endpoints import MODEL_PREFIX, Kind
from proxy.forwarding import extras_of
from proxy.headers import common_headers
from proxy.judging import lowest_tier
from proxy.refusals import Reason, decline
from proxy.requests import accepted
from proxy.worker import Worker

USAGE_DAYS = 30
SETTLING_SECONDS = 0.03
"""A call settles in Redis right behind its last bytes, in milliseconds; /usage promises to include it."""
_METRICS_TYPE: Header = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_PRICES = (
    ("prompt", "input_picos"),
    ("completion", "output_picos"),
    ("input_cache_read", "cache_read_picos"),
    ("input_cache_write", "cache_write_picos"),
    ("internal_reasoning", "reasoning_picos"),
)
_DAYS_SQL = f"""SELECT day, sum({COUNTED_SQL["req"]}), sum({COUNTED_SQL["in"]}), sum({COUNTED_SQL["out"]})
    FROM billing_usageday WHERE organization_id = %s AND day >= %s AND day < %s GROUP BY day"""  # noqa: S608
"""As the counters in Redis count: what an engine failed is given back."""


async def answer(call: Call, worker: Worker, send: Send) -> None:
    kind = call.endpoint.kind
    if kind is Kind.HEALTH:
        await _answer(call, await _health(worker), send)
        return
    if kind in (Kind.MODELS, Kind.MODEL) and await _is_public(call, worker):
        await _answer(call, _catalogue(call, worker, None), send)
        return
    await authenticate(call, worker)
    await refresh(call, worker)
    if kind is Kind.SESSION:
        await sessions.answer(call, worker, send)
        return
    if kind is Kind.CHARGE:
        await _answer(call, await charges.of(call), send, await standing.headers(call, worker))
        return
    stands = await worker.admission.standing(call.caller, call.snapshot)
    if kind is Kind.USAGE:
        if _may_be_settling(stands.every):
            await asyncio.sleep(SETTLING_SECONDS)
            stands = await worker.admission.standing(call.caller, call.snapshot)
        body = call.dialect.usage_report(await _usage_report(call, worker, stands.every), call.snapshot.brand)
    else:
        body = _catalogue(call, worker, call.caller)
    await _answer(call, body, send, call.dialect.limit_headers(stands.upcoming, worker.counters.now_ms()))


async def _answer(call: Call, body: dict[str, Any], send: Send, limits: Iterable[Header] = ()) -> None:
    headers = [*common_headers(call), *limits]
    await send_body(send, 200, headers, orjson.dumps(body), head_only=call.method == "HEAD")


async def _health(worker: Worker) -> dict[str, Any]:
    """Whether this worker may take calls. Says nothing about the house to strangers."""
    if worker.draining or not worker.wal.healthy:
        raise decline(Reason.STORE_UNAVAILABLE)
    return {"status": "ok"}


# models ---------------------------------------------------------------------------------------------------------------


async def _is_public(call: Call, worker: Worker) -> bool:
    """Whether the brand shows its catalogue to everybody; whatever key came is not even read then."""
    brand = call.brand
    if brand is None:
        default = worker.brands.default
        if default is None or _brings_key(call) or not worker.brands.serves(default, call.place):
            return False
        brand = default
    if not brand.is_catalogue_public:
        return False
    worker.strangers.take(call.address)
    call.snapshot = await worker.catalogue.current(brand.id)
    call.brand = call.snapshot.brand
    if call.brand.state != "active":
        raise decline(Reason.BRAND_PAUSED)
    return call.brand.is_catalogue_public


def _brings_key(call: Call) -> bool:
    return b"authorization" in call.fields or b"x-api-key" in call.fields or b"api_key=" in call.query


def _catalogue(call: Call, worker: Worker, caller: Caller | None) -> dict[str, Any]:
    """All models, or the one whose name is in the path, for this caller or for everybody."""
    snapshot, now_ms = call.snapshot, worker.counters.now_ms()
    brand = snapshot.brand
    if call.endpoint.kind is Kind.MODELS:
        return call.dialect.models(list_models(caller, snapshot, now_ms, brand.lists_gated_models), brand)
    name = call.place.rest[len(MODEL_PREFIX) :]
    model = snapshot.models_by_name.get(name)
    if model is None or model.state == "retired" or (caller is not None and not caller.allows_model(model.slug)):
        raise decline(Reason.MODEL_NOT_FOUND, param="model", model=name[:100])
    return call.dialect.model(_listed(model, caller, snapshot, now_ms), brand)


def list_models(caller: Caller | None, snapshot: Snapshot, now_ms: int, gated_too: bool) -> list[Listed]:
    """The models this key may call, in the catalogue's order; with `gated_too` also those of higher tiers. Without a
    caller those that are on sale."""
    found = []
    for model in snapshot.models:
        if model.state == "retired" or (caller is not None and not caller.allows_model(model.slug)):
            continue
        listed = _listed(model, caller, snapshot, now_ms)
        if listed.available or gated_too:
            found.append(listed)
    return found


def _listed(model: ModelRecord, caller: Caller | None, snapshot: Snapshot, now_ms: int) -> Listed:
    rate = rate_for(model, 0 if caller is None else caller.organization.id, now_ms)
    available = caller is None or unlocks(tier_of(snapshot, caller.organization), model)
    accepts = accepted(model, extras_of(model, snapshot), snapshot.brand)
    return Listed(model, available, lowest_tier(model, snapshot), prices_of(rate), accepts)


def prices_of(rate: RateRecord | None) -> dict[str, str]:
    """Prices per token as plain decimals; what is not priced apart is left out, and all of a rate nobody can use."""
    if rate is None or not complete(rate):
        return {}
    return {name: price_per_token(picos) for name, field in _PRICES if (picos := getattr(rate, field)) is not None}


# usage ----------------------------------------------------------------------------------------------------------------


def _may_be_settling(states: tuple[LimitState, ...]) -> bool:
    """Whether a call of the organization holds something, perhaps one just answered by another worker. What is held is
    known of limits only: where there are none, nobody can say."""
    return any(state.held for state in states) or all(state.limit is None for state in states if state.window)


async def _usage_report(call: Call, worker: Worker, states: tuple[LimitState, ...]) -> UsageReport:
    caller, snapshot = call.caller, call.snapshot
    today = day_of(worker.counters.now_ms(), snapshot.brand.timezone)
    days = await _days_before(worker, caller.organization.id, today)
    days.append(_today(states, today))
    limit = _token_limit(states)
    return UsageReport(
        user=caller.organization.slug,
        tier=tier_of(snapshot, caller.organization).slug,
        tokens_used=sum(day.prompt_tokens + day.completion_tokens for day in days) if limit is None else limit.posted,
        tokens_limit=None if limit is None else limit.limit,
        days=days,
    )


def _token_limit(states: tuple[LimitState, ...]) -> LimitState | None:
    """The organization's quota of all tokens with the least room left; what a minute may take is a pace, no quota."""
    limits = [
        state
        for state in states
        if state.unit == "tokens"
        and state.scope == "organization"
        and state.window != "minute"
        and state.limit is not None
    ]
    return min(limits, key=lambda state: (state.limit or 0) - state.posted, default=None)


def _today(states: tuple[LimitState, ...], today: str) -> DayUsed:
    """From Redis, so that the call just answered is in it."""
    posted = {state.unit: state.posted for state in states if state.window == "day" and state.scope == "organization"}
    return DayUsed(
        f"{today[:4]}-{today[4:6]}-{today[6:]}",
        posted.get("requests", 0),
        posted.get("input", 0),
        posted.get("output", 0),
    )


async def _days_before(worker: Worker, organization_id: int, today: str) -> list[DayUsed]:
    last = datetime.strptime(today, "%Y%m%d").date()  # noqa: DTZ007 - a brand day, not an instant
    first = last - timedelta(days=USAGE_DAYS - 1)
    async with worker.postgresql.connection() as connection:
        cursor = await connection.execute(_DAYS_SQL, (organization_id, first, last), prepare=False)
        rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    days = [first + timedelta(days=number) for number in range(USAGE_DAYS - 1)]
    return [DayUsed(day.isoformat(), *map(int, rows.get(day, (0, 0, 0)))) for day in days]


# metrics --------------------------------------------------------------------------------------------------------------


async def metrics(call: Call, worker: Worker, send: Send) -> None:
    """For loopback, or who knows METRICS_TOKEN; everybody else finds nothing here."""
    if not _may_read_metrics(call, worker):
        raise decline(Reason.UNKNOWN_PATH, method=call.method, path=call.path)
    body = await worker.metrics.exposition(worker.redis)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [_METRICS_TYPE, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")],
        }
    )
    await send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else body})


def _may_read_metrics(call: Call, worker: Worker) -> bool:
    if call.method not in ("GET", "HEAD"):
        return False
    if worker.metrics_token:
        expected = b"Bearer " + worker.metrics_token.encode()
        return hmac.compare_digest(call.fields.get(b"authorization", b""), expected)
    address = read_address(call.address)
    # Behind a proxy on this host everybody seems to come from here.
    return address is not None and address.is_loopback and b"x-forwarded-for" not in call.fields
