"""How much of each of its limits an organization has used: what its next call is judged by, for people to look at.

The figures are those of the gateway (window_counts.py), so a page and /usage say the same. Limits on trial are left
out: they refuse nobody. Reads only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q

from billing import ladder, limits, window_counts, windows
from billing.catalogue import limit_record
from billing.limits import CONCURRENT, UNIT_FIELDS
from billing.models import LimitOverride, Model, Payer, Tier
from billing.snapshot import LimitRecord
from billing.window_counts import Counter, Counts, Wanted
from keys.models import ApiKey, Brand, Organization


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A limit as it holds for an organization now. `posted` is settled, `held` set aside by running calls; `posted` is
    None where only Redis could tell and cannot be asked. `key`, `model`: whose it is, with those scopes. `override`:
    the exception that stands in place of the tier's own limit, which is `tier_amount` (None: it has none). `resets_at`:
    None for minutes, lifetimes and calls at once."""

    limit: LimitRecord
    counter: Counter
    resets_at: datetime | None
    posted: int | None = None
    held: int = 0
    key: ApiKey | None = None
    model: Model | None = None
    override: LimitOverride | None = None
    tier_amount: int | None = None

    @property
    def name(self) -> str:
        """As refusals name it: "organization.tokens.day", "key.concurrent"."""
        limit = self.limit
        return f"{limit.scope}.{limit.unit}" + ("" if limit.unit == CONCURRENT else f".{limit.window}")

    @property
    def used(self) -> int:
        return self.posted or 0

    @property
    def left(self) -> int:
        """What a new call may still use, and so without what running calls hold."""
        return max(0, self.limit.amount - self.used - self.held)

    @property
    def percent(self) -> int:
        """Of the limit, in whole percent, rounded down: 100 means used up."""
        return self.used * 100 // self.limit.amount if self.limit.amount else 100

    @property
    def is_quota(self) -> bool:
        """It runs out, until the next day or month; minutes and calls at once are a pace."""
        return self.limit.unit != CONCURRENT and self.limit.window != "minute"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All gauges of an organization at `at`. `today`: every unit's use of the brand's day, limited or not. `is_live`
    False: from the books alone."""

    organization: Organization
    tier: Tier | None
    at: datetime
    is_live: bool
    gauges: tuple[Gauge, ...]
    today: dict[str, int]

    def included(self) -> list[Gauge]:
        """Those that tell how much the whole account may still use without paying."""
        if self.tier is not None and not ladder.includes(self.organization, self.tier):
            return []
        is_free = self.tier is not None and self.tier.payer == Payer.INCLUDED
        whole = [gauge for gauge in self.gauges if gauge.counter.scope == "o" and gauge.is_quota]
        return [gauge for gauge in whole if is_free or gauge.limit.is_allotment]


def of(organization: Organization, tier: Tier | None, now: datetime) -> Reading:
    return of_all(organization.brand, [(organization, tier)], now)[0]


def of_all(brand: Brand, standings: Sequence[tuple[Organization, Tier | None]], now: datetime) -> list[Reading]:
    """Of organizations of one brand with their tiers: a few questions to each store, however many they are."""
    ids = [organization.id for organization, _ in standings]
    keys, overrides = _keys(ids, now), _overrides(ids, now)
    records = _records(tier.id for _, tier in standings if tier is not None)
    house = _House.of(brand, now)
    gauges = [
        house.of_months(organization.month_anchor).gauges(
            tier, records.get(tier.id, ()) if tier else (), overrides[organization.id], keys[organization.id]
        )
        for organization, tier in standings
    ]
    today = {unit: Counter(house.bounds["day"].id, "o", field) for unit, field in UNIT_FIELDS.items()}
    wanted = [
        Wanted(organization_id, frozenset([*(gauge.counter for gauge in own), *today.values()]))
        for organization_id, own in zip(ids, gauges, strict=True)
    ]
    return [
        Reading(
            organization=organization,
            tier=tier,
            at=now,
            is_live=counts.is_live,
            gauges=tuple(_filled(gauge, counts) for gauge in own),
            today={unit: counts.posted[counter] for unit, counter in today.items()},
        )
        for (organization, tier), own, counts in zip(standings, gauges, window_counts.read(wanted, now), strict=True)
    ]


def bounds_at(organization: Organization, tier: Tier | None, at: datetime, keys: Sequence[ApiKey]) -> list[Gauge]:
    """The gauges of a moment by today's limits, unread: what counts in which window."""
    house = _House.of(organization.brand, at).of_months(organization.month_anchor)
    records = _records([tier.pk] if tier else []).get(tier.pk if tier else 0, ())
    return house.gauges(tier, records, _overrides([organization.pk], at)[organization.pk], keys)


def _filled(gauge: Gauge, counts: Counts) -> Gauge:
    return replace(gauge, posted=counts.posted.get(gauge.counter), held=counts.held.get(gauge.counter, 0))


@dataclass(frozen=True, slots=True)
class _House:
    """What all organizations of a brand share at a moment."""

    models: list[Model]
    bounds: dict[str, windows.Bounds]
    now_ms: int
    zone: str

    @classmethod
    def of(cls, brand: Brand, now: datetime) -> _House:
        now_ms = int(now.timestamp() * 1000)
        models = Model.objects.filter(brand=brand).exclude(state=Model.State.RETIRED).order_by("position", "slug")
        bounds = {kind: windows.window_at(now_ms, kind, brand.timezone) for kind in limits.WINDOWS}
        return cls(list(models), bounds, now_ms, brand.timezone)

    def of_months(self, anchor: int) -> _House:
        """For an organization whose months begin on that day."""
        return replace(self, bounds=self.bounds | {"month": windows.window_at(self.now_ms, "month", self.zone, anchor)})

    def gauges(
        self,
        tier: Tier | None,
        own: Sequence[LimitRecord],
        overrides: Sequence[LimitOverride],
        keys: Sequence[ApiKey],
    ) -> list[Gauge]:
        """In the tier's order, keys' own limits last. Of several limits on one counter the tightest."""
        found: dict[tuple[Counter, bool], Gauge] = {}
        for gauge in [*self._of_tier(tier, own, overrides, keys), *self._of_keys(keys)]:
            place = (gauge.counter, gauge.limit.is_allotment)
            if place not in found or gauge.limit.amount < found[place].limit.amount:
                found[place] = gauge
        return list(found.values())

    def _of_tier(
        self,
        tier: Tier | None,
        own: Sequence[LimitRecord],
        overrides: Sequence[LimitOverride],
        keys: Sequence[ApiKey],
    ) -> Iterator[Gauge]:
        in_force, _ = limits.in_force(tuple(own), [_fact(each) for each in overrides], self.now_ms)
        amounts = {limits.place_of(limit): limit.amount for limit in own}
        exceptions = {limits.place_overridden(override, amounts): override for override in overrides}
        for limit in in_force:
            if limit.is_shadow:
                continue
            place = limits.place_of(limit)
            for gauge in self._bound(limit, keys, tier):
                override, of_tier = exceptions.get(place), amounts.get(place)
                if override is not None and override.is_raise and limit.amount != override.amount:
                    override = None  # the tier gives more by now
                yield replace(gauge, override=override, tier_amount=of_tier)

    def _bound(self, limit: LimitRecord, keys: Sequence[ApiKey], tier: Tier | None) -> Iterator[Gauge]:
        """One for each key or model that it holds for."""
        if limit.scope == "key":
            for key in keys:
                yield replace(self._gauge(limit, f"k{key.id}"), key=key)
        elif limit.scope == "model":
            for model in self.models:
                if limit.model_id == model.id or (limit.model_id is None and _unlocks(tier, model)):
                    yield replace(self._gauge(limit, f"m{model.id}"), model=model)
        else:
            yield self._gauge(limit, "o")

    def _of_keys(self, keys: Sequence[ApiKey]) -> Iterator[Gauge]:
        for key in keys:
            for limit in limits.key_limits(key.limits):
                yield replace(self._gauge(limit, f"k{key.id}"), key=key)

    def _gauge(self, limit: LimitRecord, scope: str) -> Gauge:
        if limit.unit == CONCURRENT:
            return Gauge(limit=limit, counter=Counter(CONCURRENT, scope, ""), resets_at=None)
        window = self.bounds[limit.window]
        ends = datetime.fromtimestamp(window.end_ms / 1000, UTC) if limit.window in ("day", "month") else None
        return Gauge(limit=limit, counter=Counter(window.id, scope, UNIT_FIELDS[limit.unit]), resets_at=ends)


def _unlocks(tier: Tier | None, model: Model) -> bool:
    return tier is None or tier.model_slugs is None or model.slug in tier.model_slugs


def _fact(override: LimitOverride) -> dict[str, Any]:
    """As workers are told of it (overrides.ORGANIZATION_FACTS)."""
    ends = override.expires_at
    until_ms = None if ends is None else int(ends.timestamp() * 1000)
    facts = {name: getattr(override, name) for name in ("unit", "window", "scope", "model_id", "amount", "is_raise")}
    return {**facts, "until_ms": until_ms}


def _records(tier_ids: Iterable[int]) -> dict[int, list[LimitRecord]]:
    tiers = Tier.objects.filter(pk__in=set(tier_ids)).prefetch_related("limits")
    return {tier.id: [limit_record(one) for one in sorted(tier.limits.all(), key=lambda row: row.pk)] for tier in tiers}


def _keys(ids: Sequence[int], now: datetime) -> dict[int, list[ApiKey]]:
    """By organization, those that may call."""
    found: dict[int, list[ApiKey]] = defaultdict(list)
    alive = Q(expires_at=None) | Q(expires_at__gt=now)
    for key in ApiKey.objects.filter(alive, organization_id__in=ids, revoked_at=None, manages_as="").order_by("pk"):
        found[key.organization_id].append(key)
    return found


def _overrides(ids: Sequence[int], now: datetime) -> dict[int, list[LimitOverride]]:
    found: dict[int, list[LimitOverride]] = defaultdict(list)
    running = Q(expires_at=None) | Q(expires_at__gt=now)
    for override in LimitOverride.objects.filter(running, organization_id__in=ids).order_by("pk"):
        found[override.organization_id].append(override)
    return found
