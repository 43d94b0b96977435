"""A bar for each day of a period, as SVG shapes that carry their own sizes: our pages' policy allows no inline style.
Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from billing.reports import Usage


@dataclass(frozen=True, slots=True)
class Bar:
    """One day of the period, in the units of the chart's viewBox (height 100)."""

    at: date
    cost_nanos: int
    requests: int
    x: int
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height


@dataclass(frozen=True, slots=True)
class Chart:
    """`most_nanos` is what the highest bar stands for, 0 where bars count requests
    (`most_requests`)."""

    bars: list[Bar]
    most_nanos: int
    most_requests: int

    @property
    def first(self) -> Bar:
        return self.bars[0]

    @property
    def last(self) -> Bar:
        return self.bars[-1]


def by_day(rows: Sequence[Usage], first: date, last: date) -> Chart:
    """A bar for every day of the period, also the empty ones."""
    return of_days({row.day: (row.cost_nanos, row.requests) for row in rows if row.day}, first, last)


def of_days(sums: Mapping[date, tuple[int, int]], first: date, last: date) -> Chart:
    """The same of (nanos, requests) by day."""
    return _chart([(day, *sums.get(day, (0, 0))) for day in _days(first, last)])


def _chart(sums: Sequence[tuple[date, int, int]]) -> Chart:
    """By cost, or by requests where nothing cost anything."""
    most_nanos = max((cost for _at, cost, _requests in sums), default=0)
    most_requests = max((requests for _at, _cost, requests in sums), default=0)
    bars = []
    for number, (at, cost, requests) in enumerate(sums):
        share = cost * 100 / most_nanos if most_nanos else requests * 100 / most_requests if most_requests else 0
        # A day with a call is never shown as one without.
        bars.append(Bar(at, cost, requests, number * 10, max(round(share, 2), 2) if requests else 0))
    return Chart(bars, most_nanos, most_requests)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
