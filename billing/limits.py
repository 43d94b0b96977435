"""Limits of a tier and of a key, and what one call needs of each: the plans that the reserve step judges. Pure.

A limit counts a unit in a window for a scope: "organization.tokens.day". Counters are named here once, for every room:
scope fields `o`, `k<key id>`, `m<model id>`; unit fields in UNIT_FIELDS; windows in windows.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from billing.pricing import PICOS_PER_NANO, hold_credits, hold_picos, worst_case_picos
from billing.snapshot import LimitRecord, ModelRecord, RateRecord, TierRecord

UNIT_FIELDS = {
    "requests": "req",
    "input": "in",
    "output": "out",
    "tokens": "tok",
    "credits": "cred",
    "nanos": "nano",
}
"""A limit's unit → its field in a window counter. `nano` counts what is charged, so included calls add nothing."""

WINDOWS = ("minute", "day", "month", "lifetime")
SCOPES = ("key", "organization", "model")
CONCURRENT = "concurrent"
AMOUNT_MAX = 2**53 - 1
KEY_LIMITS_MAX = 32


class LimitInvalid(ValueError):
    """A limit that cannot be read; the text says which and what to write instead."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The most a call could use. `output_tokens_wanted` is per choice (0 for embeddings). `quota_prompt_tokens`, where
    given, is a likelier bound that token windows may use; money always uses the sure one."""

    prompt_tokens_max: int
    output_tokens_wanted: int
    output_tokens_min: int = 16
    choices: int = 1
    images_max: int = 0
    endpoint: str = "chat"
    quota_prompt_tokens: int | None = None


class Need(NamedTuple):
    """A call granted g output tokens per choice needs ceil((fixed + g·per) / scale)."""

    fixed: int
    per: int
    scale: int

    def at(self, granted: int) -> int:
        return -(-(self.fixed + granted * self.per) // self.scale)


class CounterLimit(NamedTuple):
    """One counter that a call moves. `limit` None: counted only. Each counter occurs once per plan."""

    name: str
    window: str
    scope: str
    unit: str
    limit: int | None
    fixed: int
    per: int
    scale: int


class ConcurrencyLimit(NamedTuple):
    name: str
    scope: str
    limit: int


class Plan(NamedTuple):
    """One way to pay for a call: `money` is None where the balance is not asked."""

    payer: str
    limits: tuple[CounterLimit, ...]
    money: Need | None


class Plans(NamedTuple):
    """The first plan that fits what is wanted is taken, else the one that grants most."""

    plans: tuple[Plan, ...]
    concurrency: tuple[ConcurrencyLimit, ...]


PREPAID_WITHOUT_LIMITS = TierRecord(id=0, rank=0, slug="", name="", payer="prepaid")
"""What an organization without a tier stands on: its balance is the only limit."""


def plans(
    *,
    tier: TierRecord,
    key_id: int,
    key_limits: Sequence[LimitRecord],
    model: ModelRecord,
    rate: RateRecord,
    estimate: Estimate,
) -> Plans:
    """What the reserve step judges. Raises PriceMissing, HoldTooLarge."""
    fixed, per = hold_picos(rate, estimate.prompt_tokens_max, choices=estimate.choices, images_max=estimate.images_max)
    worst_case_picos(fixed, per, estimate.output_tokens_wanted)
    needs = _needs(estimate, rate)
    charged = Need(fixed, per, PICOS_PER_NANO)
    bound = [_bound(limit, key_id, model.id) for limit in (*tier.limits, *key_limits)]
    mine = [limit for limit in bound if limit is not None]
    counted = [limit for limit in mine if limit.unit != CONCURRENT]
    past_allotment = [limit._replace(amount=None) if limit.is_allotment else limit for limit in counted]
    money = charged if fixed or per else None
    free = needs | {"nanos": Need(0, 0, 1)}
    paid = needs | {"nanos": charged}
    if tier.payer == "included":
        found = [Plan("included", _counters(counted, free), None)]
    elif tier.payer == "included_then_prepaid":
        found = [
            Plan("included", _counters(counted, free), None),
            Plan("prepaid", _counters(past_allotment, paid), money),
        ]
    else:
        found = [Plan("prepaid", _counters(past_allotment, paid), money)]
    return Plans(tuple(found), _concurrency(mine))


def in_force(
    limits: tuple[LimitRecord, ...], overrides: Sequence[Mapping[str, Any]], now_ms: int
) -> tuple[tuple[LimitRecord, ...], int | None]:
    """A tier's limits as they hold for one organization now, and until when that is so (None: for good). An override
    stands in place of a limit of its unit, window, scope and model (`place_overridden`); where the tier has none, or
    one on trial only, it is one more. One that was put to raise takes nothing from a tier that gives more."""
    running = [found for found in overrides if found["until_ms"] is None or now_ms < found["until_ms"]]
    if not running:
        return limits, None
    kept = {place_of(found): found for found in limits}
    for found in running:
        record = LimitRecord(**{name: found[name] for name in ("unit", "window", "scope", "model_id", "amount")})
        place = place_overridden(record, kept)
        known = kept.get(place)
        if found.get("is_raise") and (known is None or known.amount >= record.amount):
            continue
        kept[place] = record if known is None else msgspec.structs.replace(known, amount=record.amount)
    return tuple(kept.values()), min((f["until_ms"] for f in running if f["until_ms"] is not None), default=None)


Place = tuple[str, str, str, int | None, bool, bool]
"""Where a tier has at most one limit: unit, window ("" of concurrent ones), scope, model, whether an allotment, whether
on trial: a tighter limit is tried out beside the one that holds."""


class Placed(Protocol):
    """A limit, or an exception to one."""

    @property
    def unit(self) -> str: ...
    @property
    def window(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def model_id(self) -> int | None: ...


def place_of(limit: LimitRecord) -> Place:
    return _place(limit, limit.is_allotment, limit.is_shadow)


def place_overridden(override: Placed, known: Container[Place]) -> Place:
    """Of a tier's allotment and its ceiling on one counter, an exception changes the ceiling; the allotment where it
    is alone; never a limit on trial, or it would refuse nobody."""
    ceiling, allotment = _place(override, False), _place(override, True)
    return allotment if ceiling not in known and allotment in known else ceiling


def _place(limit: Placed, is_allotment: bool, is_shadow: bool = False) -> Place:
    window = "" if limit.unit == CONCURRENT else limit.window
    return limit.unit, window, limit.scope, limit.model_id, is_allotment, is_shadow


class Shadow(NamedTuple):
    """A limit on trial: refuses nobody, but tells whom it would have refused."""

    name: str
    field: str
    window: str
    unit_field: str
    amount: int


def shadows(limits: Iterable[LimitRecord], *, key_id: int, model_id: int) -> tuple[Shadow, ...]:
    """Those that bear on a call of this key and model."""
    found = []
    for limit in limits:
        bound = _bound(limit, key_id, model_id) if limit.is_shadow else None
        if bound is not None:
            name = f"{limit.scope}.{limit.unit}.{limit.window}"
            found.append(Shadow(name, bound.field, limit.window, UNIT_FIELDS[limit.unit], limit.amount))
    return tuple(found)


class _Bound(NamedTuple):
    """A limit with its scope bound to the key and model of a call."""

    unit: str
    window: str
    scope: str
    field: str
    amount: int | None  # None: past an allotment or on trial, counted only
    is_allotment: bool


def _bound(limit: LimitRecord, key_id: int, model_id: int) -> _Bound | None:
    if limit.model_id is not None and limit.model_id != model_id:
        return None
    field = scope_field(limit.scope, key_id=key_id, model_id=model_id)
    amount = None if limit.is_shadow else limit.amount
    return _Bound(limit.unit, limit.window, limit.scope, field, amount, limit.is_allotment)


def scope_field(scope: str, *, key_id: int, model_id: int) -> str:
    if scope == "organization":
        return "o"
    if scope == "key":
        return f"k{key_id}"
    if scope == "model":
        return f"m{model_id}"
    raise LimitInvalid(f"a limit's scope is one of {', '.join(SCOPES)}, not {scope}")


def _needs(estimate: Estimate, rate: RateRecord) -> dict[str, Need]:
    prompt = estimate.prompt_tokens_max if estimate.quota_prompt_tokens is None else estimate.quota_prompt_tokens
    return {
        "requests": Need(1, 0, 1),
        "input": Need(prompt, 0, 1),
        "output": Need(0, estimate.choices, 1),
        "tokens": Need(prompt, estimate.choices, 1),
        "credits": Need(*hold_credits(rate, prompt, choices=estimate.choices)),
    }


def _counters(limits: Iterable[_Bound], needs: Mapping[str, Need]) -> tuple[CounterLimit, ...]:
    """One entry per counter: of several limits on it the tightest judges. The organization's day is always counted, so
    that /usage can show it."""
    found = {
        ("organization", "day", unit): CounterLimit(f"organization.{unit}.day", "day", "o", field, None, *needs[unit])
        for unit, field in UNIT_FIELDS.items()
    }
    for limit in limits:
        if limit.unit == "nanos" and not needs["nanos"].fixed and not needs["nanos"].per:
            continue  # nothing is charged, so a spend limit cannot stand in the way
        counter = (limit.scope, limit.window, limit.unit)
        other = found.get(counter)
        found[counter] = CounterLimit(
            f"{limit.scope}.{limit.unit}.{limit.window}",
            limit.window,
            limit.field,
            UNIT_FIELDS[limit.unit],
            limit.amount if other is None else _tighter(limit.amount, other.limit),
            *needs[limit.unit],
        )
    return tuple(found.values())


def _tighter(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _concurrency(limits: Iterable[_Bound]) -> tuple[ConcurrencyLimit, ...]:
    found: dict[str, ConcurrencyLimit] = {}
    for limit in limits:
        if limit.unit != CONCURRENT or limit.amount is None:
            continue
        other = found.get(limit.field)
        if other is None or limit.amount < other.limit:
            found[limit.field] = ConcurrencyLimit(f"{limit.scope}.{CONCURRENT}", limit.field, limit.amount)
    return tuple(found.values())


def key_limits(raw: Sequence[Mapping[str, Any]]) -> tuple[LimitRecord, ...]:
    """ApiKey.limits as stored: a list of {"unit", "window", "amount"}. Raises LimitInvalid."""
    return tuple(_key_limit(position, item) for position, item in enumerate(raw, start=1))


def normalised_key_limits(raw: Any) -> list[dict[str, int | str]]:
    """What a form or a command gives → what ApiKey.limits stores. Raises LimitInvalid."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise LimitInvalid('limits are a list, e.g. [{"unit": "tokens", "window": "day", "amount": 100000}]')
    if len(raw) > KEY_LIMITS_MAX:
        raise LimitInvalid(f"a key has at most {KEY_LIMITS_MAX} limits")
    found: list[dict[str, int | str]] = [
        {"unit": limit.unit, "window": limit.window, "amount": limit.amount} for limit in key_limits(raw)
    ]
    if len({(limit["unit"], limit["window"]) for limit in found}) < len(found):
        raise LimitInvalid("each unit and window is limited once")
    return found


def _key_limit(position: int, item: Mapping[str, Any]) -> LimitRecord:
    if not isinstance(item, Mapping):
        raise LimitInvalid(f"limit {position} is an object with unit, window and amount")
    unknown = sorted(set(item) - {"unit", "window", "amount"})
    if unknown:
        raise LimitInvalid(f"limit {position} has a field that means nothing here: {', '.join(map(str, unknown))}")
    unit, window, amount = item.get("unit"), item.get("window", ""), item.get("amount")
    if unit not in (*UNIT_FIELDS, CONCURRENT):
        raise LimitInvalid(f"limit {position}: unit is one of {', '.join([*UNIT_FIELDS, CONCURRENT])}")
    if unit == CONCURRENT:
        window = "minute"  # ignored: running calls are counted as they are
    if window not in WINDOWS:
        raise LimitInvalid(f"limit {position}: window is one of {', '.join(WINDOWS)}")
    if type(amount) is not int or not 0 <= amount <= AMOUNT_MAX:
        raise LimitInvalid(f"limit {position}: amount is a whole number from 0 to {AMOUNT_MAX}")
    return LimitRecord(unit=unit, window=window, scope="key", amount=amount)
