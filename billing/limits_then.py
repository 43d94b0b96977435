"""How an account stood with its limits at a moment that has passed, as far as that can still be known. Reads only.

The counters of then are gone. What was used is read from the rollups, to a quarter of an hour; the limits are those
that the tier of then has now, and whether anybody changed a limit since is told beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import QuerySet, Sum
from django.db.models.expressions import RawSQL

from billing import gauges, ladder, windows
from billing.events import COUNTED_SQL
from billing.gauges import Gauge
from billing.limits import CONCURRENT
from billing.models import Tier, TierChange, UsageDay, UsageQuarter
from keys.models import ApiKey, AuditEvent, Organization

QUARTER = timedelta(minutes=15)
Scopes = Mapping[tuple[str, str], int]
"""Scope field and unit field → amount."""


@dataclass(frozen=True, slots=True)
class Stood:
    """`used_from` counts calls that began before the quarter of an hour that `at` lies in, `used_to` those of the
    quarter as well; what calls under way held comes on top. None: of minutes and of calls at once nothing is kept."""

    gauge: Gauge
    used_from: int | None
    used_to: int | None

    @property
    def percent(self) -> int:
        amount = self.gauge.limit.amount
        return 100 if not amount else min(100, (self.used_to or 0) * 100 // amount)


@dataclass(frozen=True, slots=True)
class Then:
    """`changed`: how often the limits of the brand, or of the account, were changed since."""

    at: datetime
    tier: Tier | None
    limits: tuple[Stood, ...]
    changed: int


def of(
    organization: Organization,
    at: datetime,
    *,
    key_id: int | None = None,
    model_id: int | None = None,
    tier_id: int = 0,
) -> Then:
    """Of the limits that a call with that key for that model met. `tier_id` 0: the tier that it stood on then."""
    tier = Tier.objects.filter(pk=tier_id).first() if tier_id else _tier_at(organization, at)
    keys = list(ApiKey.objects.filter(organization=organization, pk=key_id or 0))
    met = [
        gauge
        for gauge in gauges.bounds_at(organization, tier, at, keys)
        if gauge.model is None or model_id is None or gauge.model.pk == model_id
    ]
    used = {window: _used(organization, window, at) for window in {gauge.counter.window_id for gauge in met}}
    changes = AuditEvent.objects.filter(brand=organization.brand, at__gt=at)
    changed = changes.filter(action__startswith="tier.").count()
    changed += changes.filter(organization=organization, action__startswith="limit.").count()
    return Then(at, tier, tuple(_stood(gauge, *used[gauge.counter.window_id]) for gauge in met), changed)


def _tier_at(organization: Organization, at: datetime) -> Tier | None:
    change = TierChange.objects.filter(organization=organization, at__lte=at).order_by("-at", "-pk").first()
    return change.to_tier if change is not None else ladder.standing_of(organization)[0]


def _stood(gauge: Gauge, before: Scopes | None, within: Scopes) -> Stood:
    if before is None:
        return Stood(gauge, None, None)
    place = gauge.counter.scope, gauge.counter.unit
    low = before.get(place, 0)
    return Stood(gauge, low, low + within.get(place, 0))


def _used(organization: Organization, window_id: str, at: datetime) -> tuple[Scopes | None, Scopes]:
    """Before the quarter of an hour that `at` lies in, and within it."""
    if window_id == CONCURRENT or window_id[0] == "i":
        return None, {}
    zone = organization.brand.timezone
    today = windows.window_at(int(at.timestamp() * 1000), "day", zone)
    (day, _), (first, _) = windows.days_of(today.id), windows.days_of(window_id)
    quarter = datetime.fromtimestamp(at.timestamp() // QUARTER.total_seconds() * QUARTER.total_seconds(), UTC)
    since = datetime.fromtimestamp(today.start_ms / 1000, UTC)
    days = UsageDay.objects.filter(organization_id=organization.pk, day__gte=first, day__lt=day)
    quarters = UsageQuarter.objects.filter(organization_id=organization.pk)
    before: dict[tuple[str, str], int] = defaultdict(int)
    for part in (days, quarters.filter(starts_at__gte=since, starts_at__lt=quarter)):
        for place, amount in _sums(part).items():
            before[place] += amount
    return before, _sums(quarters.filter(starts_at=quarter))


def _sums(rows: QuerySet[Any]) -> Scopes:
    counted = {f"sum_{unit}": Sum(RawSQL(sql, ())) for unit, sql in COUNTED_SQL.items()}  # noqa: S611 - constants
    found: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows.order_by().values("key_id", "model_id").annotate(**counted):
        for scope in ("o", f"k{row['key_id']}", f"m{row['model_id']}"):
            for unit in COUNTED_SQL:
                found[scope, unit] += int(row[f"sum_{unit}"])
    return found
