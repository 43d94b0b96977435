"""What the account used, day by day, model by model or key by key. Read from sums; never from single calls."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import reports
from keys.models import Brand, Organization
from portal.middleware import MemberRequest
from portal.pages import of_organization, page

PERIODS = {"7": "7 days", "30": "30 days", "90": "90 days"}
GROUPS: dict[str, tuple[str, reports.By]] = {
    "day": ("Day", "day"),
    "model": ("Model", "model_id"),
    "key": ("Key", "key_id"),
}


@dataclass(frozen=True, slots=True)
class Choice:
    label: str
    query: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of the chart, in the units of its viewBox (height 100)."""

    day: date
    cost_nanos: int
    requests: int
    x: int
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height


@dataclass(frozen=True, slots=True)
class Chart:
    """`most_nanos` is what the highest bar stands for; 0 where bars count requests (`most_requests`)."""

    bars: list[Bar]
    first: date
    last: date
    most_nanos: int
    most_requests: int


def today(brand: Brand, now: datetime) -> date:
    return now.astimezone(ZoneInfo(brand.timezone)).date()


@require_safe
@of_organization()
def usage(request: MemberRequest, organization: Organization) -> HttpResponse:
    period, group = _chosen(request, "days", PERIODS, "30"), _chosen(request, "by", GROUPS, "day")
    last = today(organization.brand, timezone.now())
    first = last - timedelta(days=int(period) - 1)
    label, by = GROUPS[group]
    by_day = reports.usage(organization.pk, first=first, last=last, by=("day",))
    rows = by_day if group == "day" else reports.usage(organization.pk, first=first, last=last, by=(by,))
    context = {
        "rows": sorted(rows, key=lambda row: row.day or first, reverse=True) if group == "day" else _dearest(rows),
        "total": reports.total(organization.pk, first=first, last=last),
        "places": places([row.cost_nanos for row in rows]),
        "group": group,
        "label": label,
        "chart": chart(by_day, first, last),
        "periods": _choices(PERIODS, "days", period, {"by": group}),
        "groups": _choices({name: text for name, (text, _) in GROUPS.items()}, "by", group, {"days": period}),
    }
    return page(request, organization, "usage", "portal/usage.html", context)


def chart(rows: list[reports.Usage], first: date, last: date) -> Chart:
    """A bar for every day of the period, also the empty ones; by cost, or by requests where nothing cost anything."""
    by_day = {row.day: row for row in rows}
    most_nanos = max((row.cost_nanos for row in rows), default=0)
    most_requests = max((row.requests for row in rows), default=0)
    bars = []
    for offset in range((last - first).days + 1):
        row = by_day.get(first + timedelta(days=offset))
        cost, count = (row.cost_nanos, row.requests) if row else (0, 0)
        share = cost * 100 / most_nanos if most_nanos else count * 100 / most_requests if most_requests else 0
        # A day with a call is never shown as a day without one.
        height = max(round(share, 2), 2) if count else 0
        bars.append(Bar(first + timedelta(days=offset), cost, count, offset * 10, height))
    return Chart(bars, first, last, most_nanos, most_requests)


def places(costs: list[int]) -> int:
    """Decimals of a money column: enough that its smallest amount shows three digits."""
    smallest = min((cost for cost in costs if cost > 0), default=10**9)
    return next((decimals for decimals in (2, 4, 6) if smallest * 10**decimals >= 10**11), 9)


def _dearest(rows: list[reports.Usage]) -> list[reports.Usage]:
    return sorted(rows, key=lambda row: (row.list_cost_nanos, row.total_tokens), reverse=True)


def _chosen(request: MemberRequest, name: str, known: Container[str], default: str) -> str:
    given = request.GET.get(name, default)
    return given if given in known else default


def _choices(known: dict[str, str], name: str, chosen: str, kept: dict[str, str]) -> list[Choice]:
    return [Choice(label, "?" + urlencode({**kept, name: value}), value == chosen) for value, label in known.items()]
