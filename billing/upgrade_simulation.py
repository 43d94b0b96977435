"""What other rules would have done: a span of nights judged again, on paper. Reads only.

An organization begins where it stood; what people decided by hand in the span happens on the same day again; only the
ladder's own nights are judged by the rules given. Confirmed addresses and standing are as of today, and use is what it
was: nobody knows how much more would have been asked for with more room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple

from billing import upgrade_facts
from billing.models import Tier
from billing.upgrade_facts import History, Standing
from billing.upgrade_rules import DayUse, Judgement, Rule, days_looked_at, judge
from billing.upgrades import Step, steps_of
from keys.models import Brand, Organization

DAYS_MAX = 90
BATCH = 500


class Move(NamedTuple):
    night: date
    organization: Organization
    from_tier: Tier
    to_tier: Tier
    judgement: Judgement


@dataclass(slots=True)
class Simulation:
    """`higher`: brand days on which an organization (id, day) would have stood higher than it did, and how many more
    calls that tier's daily limits had had room for; None: any number. `seen`: ids of those that were judged."""

    judged: int = 0
    moves: list[Move] = field(default_factory=list)
    higher: dict[tuple[int, date], int | None] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def spared(self, refusals: Mapping[tuple[int, date], int]) -> int:
        """Of the refusals for a used-up daily limit (by organization and day), those on days it would have stood
        higher, and at most what the higher tier had had room for."""
        return sum(
            count if (room := self.higher[place]) is None else min(count, room)
            for place, count in refusals.items()
            if place in self.higher
        )


def simulate(
    brand: Brand,
    rules: dict[str, Rule],
    *,
    first: date,
    last: date,
    at_most: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Simulation:
    """The nights `first` to `last` by `rules` (tier slug → rule to enter it) of the first `at_most` organizations where
    that is given. `progress` hears organizations done."""
    steps = steps_of(brand, rules)
    tiers = {tier.id: tier for tier in Tier.objects.filter(brand=brand)}
    limits = upgrade_facts.daily_limits(tiers.values())
    within = max((days_looked_at(step.rule) for step in steps.values()), default=0)
    found = Simulation()
    total = Organization.objects.filter(brand=brand).count()
    for batch in _batches(brand, at_most):
        earliest = first - timedelta(days=max(0, within - 1))
        known = upgrade_facts.histories(brand, batch, first=earliest, last=last)
        for organization in batch:
            path = _Path(known[organization.id], _standing(organization, tiers), tiers)
            _replay(path, steps, limits, found, (first, last))
        found.judged += len(batch)
        found.seen.update(organization.pk for organization in batch)
        progress(found.judged, total)
    return found


class _Path:
    """Where one organization really stood on each day, and what people decided."""

    def __init__(self, history: History, standing: Tier | None, tiers: Mapping[int, Tier]) -> None:
        self.history = history
        self._standing = standing
        self._tiers = tiers

    def tier_on(self, day: date) -> Tier | None:
        begun = [change for change in self.history.changes if change.on <= day]
        if begun:
            return self._tiers.get(begun[-1].to_tier_id)
        if not self.history.changes:
            return self._standing
        before = self.history.changes[0].from_tier_id
        return _default(self._tiers) if before is None else self._tiers.get(before)

    def decided_on(self, day: date) -> Tier | None:
        """The tier on which people put it that day."""
        found = [change for change in self.history.changes if change.by_hand and change.on == day]
        return self._tiers.get(found[-1].to_tier_id) if found else None


def _replay(
    path: _Path,
    steps: Mapping[int, Step],
    limits: Mapping[int, Mapping[str, int]],
    found: Simulation,
    span: tuple[date, date],
) -> None:
    first, last = span
    organization = path.history.organization
    tier, standing = path.tier_on(first), path.history.standing(first - timedelta(days=1))
    day = max(first, path.history.opened_on)
    while tier is not None and day <= last:
        real = path.tier_on(day)
        decided = path.decided_on(day) if day > first else None
        if decided is not None:
            tier, standing = decided, Standing(day, by_hand=True)
        if real is not None and tier.rank > real.rank:
            found.higher[organization.id, day] = _room(limits[tier.id], path.history.days.get(day, DayUse()))
        step = steps.get(tier.id)
        if step is not None and path.decided_on(day) is None:  # as the night's job: that day judges nothing
            judgement = judge(step.rule, path.history.facts(day, limits[tier.id], standing))
            if judgement.is_met:
                found.moves.append(Move(day, organization, tier, step.to_tier, judgement))
                tier, standing = step.to_tier, Standing(day + timedelta(days=1), by_hand=False)
        day += timedelta(days=1)


def _room(limits: Mapping[str, int], used: DayUse) -> int | None:
    """How many more calls like that day's the limits had let through; None: any number."""
    per_call = {unit: max(1, -(-getattr(used, unit) // max(1, used.requests))) for unit in limits}
    rooms = [max(0, limit - getattr(used, unit)) // per_call[unit] for unit, limit in limits.items()]
    return min(rooms, default=None)


def _batches(brand: Brand, at_most: int | None) -> Iterator[list[Organization]]:
    found = Organization.objects.filter(brand=brand).select_related("standing").order_by("pk")
    last, left = 0, at_most
    while batch := list(found.filter(pk__gt=last)[: BATCH if left is None else min(BATCH, left)]):
        last = batch[-1].pk
        left = None if left is None else left - len(batch)
        yield batch


def _standing(organization: Organization, tiers: Mapping[int, Tier]) -> Tier | None:
    if hasattr(organization, "standing"):
        return tiers[organization.standing.tier_id]
    return _default(tiers)


def _default(tiers: Mapping[int, Tier]) -> Tier | None:
    return next((tier for tier in tiers.values() if tier.is_default), None)
