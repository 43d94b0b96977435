"""What of a reserve does not change from call to call, made once per (key, model) and kept while it holds.

The tier's and key's limits, the rate, the windows and the versions go to the script as ready msgpack; a call adds its
own numbers. Pure but for the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from billing import limits, pricing, script
from billing.facts import UNITS, rates_of
from billing.limits import ConcurrencyLimit, Estimate, Need
from billing.seeds import WantedCounter
from billing.snapshot import ModelRecord, RateRecord, Snapshot, TierRecord
from billing.tiers import as_paid, tier_of
from billing.windows import LIFETIME_ID, Bounds, window_at
from keys.caller import Caller

TEMPLATES_MAX: Final = 10_000
WINDOW_NUMBERS: Final = {"day": 1, "month": 2, "lifetime": 3, "minute": 4}
UNIT_NAMES: Final = {field: unit for unit, field in limits.UNIT_FIELDS.items()}
_SCOPES: Final = {"o": "organization", "k": "key", "m": "model"}
NO_MODEL: Final = "m0"
_ONE_REQUEST: Final = Need(1, 0, 1)
_ONE_CHOICE: Final = Need(0, 1, 1)
_PROBE: Final = Estimate(prompt_tokens_max=1, output_tokens_wanted=1, choices=1, images_max=1)


ANY_MODEL: Final = ModelRecord(
    id=0,
    slug="",
    context_length=0,
    max_completion_tokens=0,
    rates=(RateRecord(id=0, from_ms=0, input_picos=1, output_picos=1),),
)
"""Stands for no model in particular: limits of single models are left out of its template."""


class Counter(NamedTuple):
    """A window counter that a call moves: words for people, fields for Redis."""

    name: str
    window: str
    scope: str
    unit: str
    scope_field: str
    unit_field: str


class Line(NamedTuple):
    """A counter as people are shown it. `ends_ms`: of its day or month; None for a lifetime, and for a minute."""

    number: int
    unit_number: int
    name: str
    unit: str
    window: str
    scope: str
    limit: int | None
    ends_ms: int | None


@dataclass(frozen=True, slots=True)
class Template:
    """`lines`: for each plan the counters that it limits. `every_line`: all counters, each with its first limit.
    `trials`: (counter, unit, name, amount) of limits that refuse nobody yet."""

    caller: Caller
    snapshot: Snapshot
    tier: TierRecord
    rate: RateRecord
    rates: dict[str, int | None]
    price: pricing.Buckets
    counters: tuple[Counter, ...]
    payers: tuple[str, ...]
    limits: tuple[tuple[int | None, ...], ...]
    asks_money: tuple[bool, ...]
    slots: tuple[ConcurrencyLimit, ...]
    day: Bounds
    month: Bounds
    from_ms: int
    until_ms: int
    static: msgspec.Raw
    lines: tuple[tuple[Line, ...], ...]
    every_line: tuple[Line, ...]
    trials: tuple[tuple[int, int, str, int], ...]

    def holds(self, caller: Caller, snapshot: Snapshot, now_ms: int) -> bool:
        same = caller is self.caller and snapshot is self.snapshot
        return same and self.from_ms <= now_ms < self.until_ms

    def wanted(self, number: int) -> WantedCounter:
        """What to seed for a counter that Redis does not know."""
        counter = self.counters[number]
        window_id = {"day": self.day.id, "month": self.month.id}.get(counter.window, LIFETIME_ID)
        return WantedCounter(window_id, self.every_line[number].ends_ms, counter.scope_field, counter.unit_field)


class Templates:
    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Template] = {}

    def of(self, caller: Caller, snapshot: Snapshot, model: ModelRecord, now_ms: int) -> Template:
        """Raises PriceMissing, TierUnknown."""
        name = (caller.key_id, model.id)
        known = self._known.get(name)
        if known is None or not known.holds(caller, snapshot, now_ms):
            if len(self._known) >= TEMPLATES_MAX:
                self._known.clear()
            known = self._known[name] = _made(caller, snapshot, model, now_ms)
        return known


def _made(caller: Caller, snapshot: Snapshot, model: ModelRecord, now_ms: int) -> Template:
    rate = pricing.rate_for(model, caller.organization.id, now_ms)
    if rate is None or not pricing.complete(rate):
        raise pricing.PriceMissing(f"model {model.slug} has no price")
    tier = as_paid(tier_of(snapshot, caller.organization), caller.organization)
    in_force, overridden_until_ms = limits.in_force(tier.limits, caller.organization.overrides, now_ms)
    if in_force is not tier.limits:
        tier = msgspec.structs.replace(tier, limits=in_force)
    key_limits = limits.key_limits(caller.limits)
    found = limits.plans(
        tier=tier, key_id=caller.key_id, key_limits=key_limits, model=model, rate=rate, estimate=_PROBE
    )
    counters, amounts = _union(found.plans)
    zone, anchor = snapshot.brand.timezone, caller.organization.month_anchor
    day, month = (window_at(now_ms, kind, zone, anchor) for kind in ("day", "month"))
    asks_money = tuple(plan.money is not None for plan in found.plans)
    payers = tuple(plan.payer for plan in found.plans)
    # A key's last moment, or an exception's, ends its price: so Redis' clock judges all three, and a worker whose clock
    # is behind hears STALE.
    ends = (rate.until_ms, caller.expires_at_ms, overridden_until_ms)
    until_ms = min((ms for ms in ends if ms is not None), default=0)
    judged = sum(any(own[number] is not None for own in amounts) for number in range(len(counters)))
    trials = _trials(counters, limits.shadows(tier.limits, key_id=caller.key_id, model_id=model.id))
    static = (
        *_identity(caller, snapshot, model),
        *(rate.from_ms, until_ms, *day, *month),
        [part for c in counters for part in (WINDOW_NUMBERS[c.window], c.scope_field, UNITS.index(c.unit_field) + 1)],
        [
            (payer, int(asks), ["" if amount is None else str(amount) for amount in own])
            for payer, asks, own in zip(payers, asks_money, amounts, strict=True)
        ],
        [part for slot in found.concurrency for part in (slot.scope, slot.limit)],
        judged,
        [
            [number for number, counter in enumerate(counters, start=1) if counter.window == window]
            for window in WINDOW_NUMBERS
        ],
        len(counters) if trials else judged,
    )
    return Template(
        caller=caller,
        snapshot=snapshot,
        tier=tier,
        rate=rate,
        rates=rates_of(rate),
        price=pricing.buckets(rate),
        counters=counters,
        payers=payers,
        limits=amounts,
        asks_money=asks_money,
        slots=found.concurrency,
        day=day,
        month=month,
        from_ms=max(rate.from_ms, day.start_ms, month.start_ms),
        until_ms=min(until_ms or day.end_ms, day.end_ms, month.end_ms),
        static=script.embedded(static),
        lines=tuple(
            tuple(line for line in _lines(counters, own, day, month) if line.limit is not None) for own in amounts
        ),
        every_line=_lines(counters, _first_limits(amounts), day, month),
        trials=trials,
    )


def _trials(counters: tuple[Counter, ...], shadows: tuple[limits.Shadow, ...]) -> tuple[tuple[int, int, str, int], ...]:
    places = {(c.scope_field, c.window, c.unit_field): number for number, c in enumerate(counters)}
    return tuple(
        (
            places[shadow.field, shadow.window, shadow.unit_field],
            UNITS.index(shadow.unit_field),
            shadow.name,
            shadow.amount,
        )
        for shadow in shadows
        if (shadow.field, shadow.window, shadow.unit_field) in places
    )


def _first_limits(amounts: tuple[tuple[int | None, ...], ...]) -> tuple[int | None, ...]:
    """Of each counter, its limit under the first plan that has one."""
    return tuple(next((limit for limit in limits if limit is not None), None) for limits in zip(*amounts, strict=True))


def _lines(
    counters: tuple[Counter, ...], limits: tuple[int | None, ...], day: Bounds, month: Bounds
) -> tuple[Line, ...]:
    ends = {"day": day.end_ms, "month": month.end_ms}
    return tuple(
        Line(n, UNITS.index(c.unit_field), c.name, c.unit, c.window, c.scope, limit, ends.get(c.window))
        for n, (c, limit) in enumerate(zip(counters, limits, strict=True))
    )


def _identity(caller: Caller, snapshot: Snapshot, model: ModelRecord) -> tuple[str, ...]:
    return (
        str(caller.organization.id),
        str(caller.key_id),
        str(model.id),
        str(snapshot.brand.id),
        str(caller.key_version),
        str(caller.organization.version),
        str(snapshot.version),
    )


def _union(
    plans: tuple[limits.Plan, ...],
) -> tuple[tuple[Counter, ...], tuple[tuple[int | None, ...], ...]]:
    """Every counter of any plan, and each plan's limit on it: whoever pays, all are counted. Those that a plan judges
    come first."""
    counters: dict[tuple[str, str, str], Counter] = {}
    for plan in plans:
        for limit in plan.limits:
            if limit.scope == NO_MODEL:
                continue
            where = (limit.window, limit.scope, limit.unit)
            scope, unit = _SCOPES[limit.scope[0]], UNIT_NAMES[limit.unit]
            counters.setdefault(where, Counter(limit.name, limit.window, scope, unit, limit.scope, limit.unit))
    given = [{(limit.window, limit.scope, limit.unit): limit.limit for limit in plan.limits} for plan in plans]
    judged_first = sorted(counters, key=lambda where: all(own.get(where) is None for own in given))
    return (
        tuple(counters[where] for where in judged_first),
        tuple(tuple(own.get(where) for where in judged_first) for own in given),
    )


def needs_of(template: Template, estimate: Estimate) -> tuple[Need, ...]:
    """What a call needs of each unit, in the script's order. Raises HoldTooLarge."""
    prompt = estimate.prompt_tokens_max if estimate.quota_prompt_tokens is None else estimate.quota_prompt_tokens
    fixed, per = pricing.hold_picos(
        template.rate,
        estimate.prompt_tokens_max,
        choices=estimate.choices,
        images_max=estimate.images_max,
        price=template.price,
    )
    pricing.worst_case_picos(fixed, per, estimate.output_tokens_wanted)
    return (
        _ONE_REQUEST,
        Need(prompt, 0, 1),
        _ONE_CHOICE if estimate.choices == 1 else Need(0, estimate.choices, 1),
        Need(prompt, estimate.choices, 1),
        Need(*pricing.hold_credits(template.rate, prompt, choices=estimate.choices)),
        Need(fixed, per, pricing.PICOS_PER_NANO),
    )
