"""What engines cost per hour, with a history: a report of past days is not changed by today's cost. The only writer of
EngineCost; engines.py asks it whenever the cost of an engine changes.

A cost runs by the clock, also while an engine is down: what is rented is paid for. It ends with a cost of 0. It is in
the currency that was said, else in that of the engine's brand, else in that of all brands where they have the same.
Amounts of different currencies are never added up, nor taken for comparable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

from billing.models import Engine, EngineCost
from keys.models import Brand

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


class Step(NamedTuple):
    since: datetime
    per_hour_nanos: int
    currency: str = ""


def put(engine: Engine, per_hour_nanos: int, since: datetime) -> bool:
    """The cost from then until the next one that is known; whether it is the newest. The caller holds the engine's
    row."""
    values = {"per_hour_nanos": per_hour_nanos, "currency": engine.cost_currency or _usual_currency(engine)}
    EngineCost.objects.update_or_create(engine=engine, since=since, defaults=values)
    return not EngineCost.objects.filter(engine=engine, since__gt=since).exists()


def _usual_currency(engine: Engine) -> str:
    if engine.brand is not None:
        return engine.brand.currency
    found = list(Brand.objects.values_list("currency", flat=True).distinct()[:2])
    return found[0] if len(found) == 1 else ""


def histories() -> dict[int, list[Step]]:
    """Engine id → its costs, oldest first."""
    found: defaultdict[int, list[Step]] = defaultdict(list)
    for cost in EngineCost.objects.order_by("engine_id", "since"):
        found[cost.engine_id].append(Step(cost.since, cost.per_hour_nanos, cost.currency))
    return dict(found)


def nanos_between(steps: Sequence[Step], since: datetime, until: datetime) -> dict[str, Fraction]:
    """What the time from `since` to `until` cost, exactly: currency → nanos, without those in which it cost nothing.
    Pure."""
    ends = [*(step.since for step in steps[1:]), until]
    total: defaultdict[str, Fraction] = defaultdict(Fraction)
    for step, end in zip(steps, ends, strict=False):  # no step has an end, too
        span = min(end, until) - max(step.since, since)
        if span > timedelta(0) and step.per_hour_nanos:
            total[step.currency] += Fraction(span // MICROSECOND, HOUR // MICROSECOND) * step.per_hour_nanos
    return dict(total)
