"""Tells organizations, once, that a share of a limit is used up. The only writer of AlertPreference and LimitAlert.

Every minute the organizations that called lately are looked at. A share counts as reached when its row is new, and the
row and the notice are written together: two beats at once, or one twice, tell once (a unique constraint).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now

from billing import gauges, notices, upgrade_facts
from billing.gauges import Gauge, Reading
from billing.models import AlertPreference, LimitAlert, Tier, UsageDay
from keys import audit
from keys.audit import Actor
from keys.models import Brand, Organization

DEFAULT_PERCENTS = (80, 100)
DEFAULT_WINDOWS = frozenset({"month", "lifetime"})
"""Told unless asked otherwise: what runs out rarely and for long. A daily limit that is used up every day would be a
mail every day, so its users ask for it."""
PERCENTS_MAX = 10
BATCH = 200
KEPT = timedelta(days=70)
"""Alerts of days and months; a lifetime's are kept, or they would be told again."""
log = logging.getLogger(__name__)


class Thresholds(NamedTuple):
    """`limits` None: the organization chose nothing, so those of DEFAULT_WINDOWS for the whole account."""

    percents: tuple[int, ...]
    limits: frozenset[str] | None

    def watch(self, gauge: Gauge) -> bool:
        if not gauge.is_quota or not gauge.limit.amount:
            return False
        if self.limits is None:
            return gauge.counter.scope == "o" and gauge.limit.window in DEFAULT_WINDOWS
        return gauge.name in self.limits

    def reached(self, gauge: Gauge) -> list[int]:
        """In integers: used · 100 ≥ limit · percent."""
        return [percent for percent in self.percents if gauge.used * 100 >= gauge.limit.amount * percent]


DEFAULT = Thresholds(DEFAULT_PERCENTS, None)


def thresholds_of(organizations: Collection[Organization]) -> dict[int, Thresholds]:
    """By organization id."""
    chosen = AlertPreference.objects.filter(organization__in=organizations)
    found = {row.organization_id: Thresholds(tuple(row.percents), frozenset(row.limits)) for row in chosen}
    return {organization.id: found.get(organization.id, DEFAULT) for organization in organizations}


def choose(
    *,
    organization: Organization,
    percents: Iterable[int],
    limits: Iterable[str],
    actor: Actor,
    address: str | None = None,
) -> AlertPreference:
    """At which shares (1 to 100 percent, none: never) of which limits to write. ValidationError says what is wrong."""
    wanted, names = sorted(set(percents)), sorted(set(limits))
    if len(wanted) > PERCENTS_MAX:
        raise ValidationError({"percents": f"At most {PERCENTS_MAX} percentages."})
    if any(not 1 <= percent <= 100 for percent in wanted):
        raise ValidationError({"percents": "Each percentage is from 1 to 100."})
    with transaction.atomic():
        before = AlertPreference.objects.filter(organization=organization).first()
        row, _ = AlertPreference.objects.update_or_create(
            organization=organization, defaults={"percents": wanted, "limits": names, "changed_at": Now()}
        )
        audit.note(
            *("organization.alerts_chosen", organization.public_id),
            actor=actor,
            organization=organization,
            before={"percents": before.percents, "limits": before.limits} if before else {},
            after={"percents": wanted, "limits": names},
            address=address,
        )
    return row


def judge_all(now: datetime) -> list[LimitAlert]:
    """Look at all who called on their brand's day or the day before; what is new."""
    found: list[LimitAlert] = []
    for brand in Brand.objects.order_by("pk"):
        for organizations in _active(brand, now):
            found += _judged(brand, organizations, now)
    return found


def forget(now: datetime) -> int:
    done, _ = LimitAlert.objects.filter(at__lt=now - KEPT).exclude(window_id="life").delete()
    return done


def _active(brand: Brand, now: datetime) -> Iterator[list[Organization]]:
    """The day before too: who reached a month's share just before midnight is looked at just after."""
    used = UsageDay.objects.filter(brand_id=brand.id, day__gte=upgrade_facts.day_before(now, brand))
    ids = sorted(used.values_list("organization_id", flat=True).distinct())
    for start in range(0, len(ids), BATCH):
        batch = Organization.objects.filter(pk__in=ids[start : start + BATCH]).select_related("brand", "standing__tier")
        yield list(batch.order_by("pk"))


def _judged(brand: Brand, organizations: Sequence[Organization], now: datetime) -> list[LimitAlert]:
    thresholds = thresholds_of(organizations)
    default = Tier.objects.filter(brand=brand, is_default=True).first()
    standings = [
        (one, one.standing.tier if hasattr(one, "standing") else default)
        for one in organizations
        if thresholds[one.id].percents
    ]
    readings = gauges.of_all(brand, standings, now)
    told = _told([organization for organization, _ in standings], readings)
    found = []
    for reading in readings:
        wanted = thresholds[reading.organization.id]
        for gauge in filter(wanted.watch, reading.gauges):
            news = [percent for percent in wanted.reached(gauge) if _place(reading, gauge, percent) not in told]
            if news:
                found += _tell(reading, gauge, news)
    return found


Place = tuple[int, str, str, str, int, int]


def _place(reading: Reading, gauge: Gauge, percent: int) -> Place:
    window_id, scope, _unit = gauge.counter
    return reading.organization.id, window_id, gauge.name, scope, gauge.limit.amount, percent


def _told(organizations: Sequence[Organization], readings: Sequence[Reading]) -> set[Place]:
    """So that what was told already costs no write every minute."""
    running = {gauge.counter.window_id for reading in readings for gauge in reading.gauges if gauge.is_quota}
    rows = LimitAlert.objects.filter(organization__in=organizations, window_id__in=running)
    return set(rows.values_list("organization_id", "window_id", "limit", "scope", "amount", "percent"))


def _tell(reading: Reading, gauge: Gauge, percents: Sequence[int]) -> list[LimitAlert]:
    """Of several shares reached at once only the highest is written about."""
    with transaction.atomic():
        made = [_noted(reading, gauge, percent) for percent in sorted(percents)]
        new = [alert for alert, is_new in made if is_new]
        if new:
            once = f"limit-alert:{new[-1].pk}"
            payload = _payload(reading, gauge, new[-1].percent)
            notices.tell(organization=reading.organization, kind="limit_alert", once=once, payload=payload)
    return new


def _noted(reading: Reading, gauge: Gauge, percent: int) -> tuple[LimitAlert, bool]:
    organization_id, window_id, limit, scope, amount, percent = _place(reading, gauge, percent)
    return LimitAlert.objects.get_or_create(
        organization_id=organization_id,
        window_id=window_id,
        limit=limit,
        scope=scope,
        amount=amount,
        percent=percent,
        defaults={"used": gauge.used},
    )


def _payload(reading: Reading, gauge: Gauge, percent: int) -> dict[str, object]:
    """Facts; who writes the mail has the words."""
    limit, tier = gauge.limit, reading.tier
    return {
        "percent": percent,
        "unit": limit.unit,
        "window": limit.window,
        "scope": limit.scope,
        "whose": f"{gauge.key.name} ({gauge.key.hint})" if gauge.key else gauge.model.slug if gauge.model else "",
        "amount": limit.amount,
        "used": gauge.used,
        "is_allotment": limit.is_allotment,
        "tier": tier.name if tier else "",
        "resets_at": None if gauge.resets_at is None else gauge.resets_at.isoformat(),
    }
