"""What is frozen with a call when it is reserved, and the event that it makes of a usage. Pure.

The facts travel as JSON in the hold (Redis) and in the WAL's D line, so that a call whose worker is gone can be settled
by anybody: the lease sweeper, or whoever replays the WAL.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from billing import pricing
from billing.events import Event, counted
from billing.limits import UNIT_FIELDS
from billing.snapshot import RateRecord
from billing.usage import Usage

INCLUDED: Final = "included"
USAGE_ABOVE_HOLD: Final = "usage_above_hold"
USAGE_CLAMPED: Final = "usage_clamped"
TOKENS_MAX: Final = 2**40
"""Far past any context: a number above it, or below 0, is not believed, so that the script's doubles stay exact."""
UNITS: Final = tuple(UNIT_FIELDS.values())
"""Unit fields in the order that the script knows them by."""


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Known before the call is judged. `rates` are the frozen picos per token and nanos per request and image;
    `credits` are those per request."""

    brand_id: int
    tier_id: int | None = None
    rate_id: int
    rates: dict[str, int | None]
    credits: int = 0
    credits_per_1000_tokens: int = 0
    endpoint: str
    stream: bool = False
    started_at_ms: int
    prompt_tokens_max: int
    choices: int = 1
    images_max: int = 0
    address: str | None = None


class Running(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a call has come: kept with its hold at each renewal, and in the WAL's P lines. Cumulative."""

    engine_id: int | None = None
    source: Literal["running", "estimated", "none"] = "none"
    input: int = 0
    cache_read: int | None = None
    cache_write: int | None = None
    output: int = 0
    reasoning: int | None = None
    images: int = 0

    def usage(self) -> Usage:
        return Usage(self.input, self.cache_read, self.cache_write, self.output, self.reasoning, self.images)


class Held(NamedTuple):
    """A hold by its identity and size, as Redis and the WAL keep it."""

    call_id: str
    organization_id: int
    key_id: int
    model_id: int
    day: str
    payer: str
    granted: int
    held_nanos: int


class Price(NamedTuple):
    cost_nanos: int
    list_cost_nanos: int
    above_hold: bool


def rates_of(rate: RateRecord) -> dict[str, int | None]:
    return {
        "input_picos": rate.input_picos,
        "output_picos": rate.output_picos,
        "cache_read_picos": rate.cache_read_picos,
        "cache_write_picos": rate.cache_write_picos,
        "reasoning_picos": rate.reasoning_picos,
        "request_nanos": rate.request_nanos,
        "image_nanos": rate.image_nanos,
    }


def rate_of(facts: Facts) -> RateRecord:
    """The frozen rate again. Whether free was said was judged when the call was reserved."""
    given = {name: value for name, value in facts.rates.items() if value is not None}
    return RateRecord(
        id=facts.rate_id,
        from_ms=0,
        credits_per_request=facts.credits,
        credits_per_1000_tokens=facts.credits_per_1000_tokens,
        is_free=True,
        **given,
    )


def price(
    rate: RateRecord, usage: Usage, *, payer: str, held_nanos: int, buckets: pricing.Buckets | None = None
) -> Price:
    """What the usage costs. The charge never exceeds what was held; an included call costs nothing, and keeps what the
    list says. `buckets`: the rate's, where they are known already."""
    listed = pricing.charge(rate, usage, buckets)
    if payer == INCLUDED:
        return Price(0, listed, False)
    return Price(min(listed, held_nanos), listed, listed > held_nanos)


def possible(usage: Usage) -> Usage:
    """The usage itself, or what of it can be: the meter has judged it, this guards the arithmetic."""
    numbers = (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning, usage.images)
    given = [number or 0 for number in numbers]
    if min(given) >= 0 and max(given) <= TOKENS_MAX:
        return usage
    input_, cache_read, cache_write, output, reasoning, images = (
        None if number is None else max(0, min(number, TOKENS_MAX)) for number in numbers
    )
    return Usage(input_ or 0, cache_read, cache_write, output or 0, reasoning, images or 0)


def beyond_bounds(facts: Facts, granted: int, usage: Usage) -> bool:
    """Whether an engine reports more than was held for: the bound on prompts, or its obedience, was wrong."""
    return usage.prompt_tokens > facts.prompt_tokens_max or usage.output > granted * facts.choices


def unit_amounts(event: Event) -> tuple[int, ...]:
    """What a settled call adds to the counters, in the script's order."""
    found = counted(event)
    return found.req, found.input, found.out, found.tok, found.cred, found.nano


def event_of_lapsed(held: Held, facts: Facts, running: Running, now_ms: int) -> Event:
    """The event of a call that nobody settled: its last running usage. One of which nothing was heard costs nothing."""
    usage = possible(running.usage())
    heard = running.source != "none"
    priced = price(rate_of(facts), usage, payer=held.payer, held_nanos=held.held_nanos) if heard else Price(0, 0, False)
    return Event(
        call_id=held.call_id,
        brand_id=facts.brand_id,
        organization_id=held.organization_id,
        key_id=held.key_id,
        model_id=held.model_id,
        engine_id=running.engine_id,
        tier_id=facts.tier_id,
        rate_id=facts.rate_id or None,
        rates=facts.rates,
        endpoint=facts.endpoint,
        payer="included" if held.payer == INCLUDED else "prepaid",
        uncached_input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        images=usage.images,
        credits=pricing.credits(rate_of(facts), usage) if heard else 0,
        list_cost_nanos=priced.list_cost_nanos,
        cost_nanos=priced.cost_nanos,
        held_nanos=held.held_nanos,
        prompt_tokens_max=facts.prompt_tokens_max,
        granted_tokens=held.granted,
        choices=facts.choices,
        usage_source=running.source,
        end_reason="lapsed",
        flags=(USAGE_ABOVE_HOLD,) if priced.above_hold or beyond_bounds(facts, held.granted, usage) else (),
        http_status=0,
        stream=facts.stream,
        day=held.day,
        started_at_ms=facts.started_at_ms,
        duration_ms=max(0, min(now_ms - facts.started_at_ms, 2**31 - 1)),
        settled_at_ms=now_ms,
        address=facts.address,
    )
