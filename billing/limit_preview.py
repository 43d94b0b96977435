"""What another amount of a tier's limit had meant for those who stand on it, over the last days. Reads only.

By the rollups of whole brand days: minutes and calls at once are not in them, so of those limits nothing is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Sum
from django.db.models.expressions import RawSQL

from billing.events import COUNTED_SQL
from billing.limits import UNIT_FIELDS
from billing.models import LimitScope, TierAssignment, TierLimit, Unit, UsageDay, Window
from keys.models import Organization

SHOWN_MAX = 10
_SCOPES = {LimitScope.ORGANIZATION: (), LimitScope.KEY: ("key_id",), LimitScope.MODEL: ("model_id",)}


@dataclass(frozen=True, slots=True)
class Effect:
    """Of `standing` organizations, `over` used more than the new amount in some window of the days, `over_before` more
    than the old one or just as much; `most` are those of the first that used most, with how much. `is_known` False: the
    rollups cannot tell."""

    standing: int
    over: int = 0
    over_before: int = 0
    most: tuple[tuple[Organization, int], ...] = ()
    is_known: bool = True


def effect(limit: TierLimit, amount: int, *, days: int, now: datetime) -> Effect:
    """A month counts as the last `days`; a lifetime as all there is."""
    ids = list(TierAssignment.objects.filter(tier=limit.tier).values_list("organization_id", flat=True))
    if limit.unit == Unit.CONCURRENT or limit.window == Window.MINUTE:
        return Effect(len(ids), is_known=False)
    used = _most_used(limit, ids, days, now)
    over = {organization: most for organization, most in used.items() if most > amount}
    first = sorted(over.items(), key=lambda found: (-found[1], found[0]))[:SHOWN_MAX]
    named = Organization.objects.in_bulk([organization for organization, _ in first])
    return Effect(
        standing=len(ids),
        over=len(over),
        over_before=sum(most >= limit.amount for most in used.values()),
        most=tuple((named[organization], most) for organization, most in first),
    )


def _most_used(limit: TierLimit, ids: list[int], days: int, now: datetime) -> dict[int, int]:
    """The most that each used in one window, of one key or model where the limit is theirs."""
    today = now.astimezone(ZoneInfo(limit.tier.brand.timezone)).date()
    since = date.min if limit.window == Window.LIFETIME else today - timedelta(days=days)
    rows = UsageDay.objects.filter(organization_id__in=ids, day__gte=since).order_by()
    if limit.model_id is not None:
        rows = rows.filter(model_id=limit.model_id)
    by: tuple[str, ...] = ("organization_id", *_SCOPES[LimitScope(limit.scope)])
    by += ("day",) if limit.window == Window.DAY else ()
    used: Any = Sum(RawSQL(COUNTED_SQL[UNIT_FIELDS[limit.unit]], ()))  # noqa: S611 - constants
    found: dict[int, int] = {}
    for organization, amount in rows.values(*by).annotate(used=used).values_list("organization_id", "used"):
        found[organization] = max(found.get(organization, 0), int(amount))
    return found
