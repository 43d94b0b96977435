"""Bars of a period, as SVG shapes that carry their own sizes: our pages' policy allows no inline style. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from billing.reports import Usage


@dataclass(frozen=True, slots=True)
class Bar:
    """One step of the period, in the units of the chart's viewBox (height 100)."""

    at: date
    cost_nanos: int
    requests: int
    x: int
    height: float

    @property
    def y(self) -> float:
        return 100 - self.height

    @property
    def hour(self) -> str:
        """As the brand's clock says it; a template's own filter would make it UTC. "" for a day."""
        return f"{self.at:%H:%M}" if isinstance(self.at, datetime) else ""


@dataclass(frozen=True, slots=True)
class Chart:
    """`step` is "day" or "hour"; `most_nanos` is what the highest bar stands for, 0 where bars count requests
    (`most_requests`)."""

    bars: list[Bar]
    step: str
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
    return _chart("day", [(day, *sums.get(day, (0, 0))) for day in _days(first, last)])


def by_hour(rows: Sequence[Usage], since: datetime, until: datetime) -> Chart:
    """A bar for each hour of a day of the brand, which has 23 or 25 of them where clocks change. `rows` are quarters of
    an hour; both moments are the brand's midnights, in its zone."""
    start, end = since.timestamp(), until.timestamp()
    sums = [(0, 0)] * round((end - start) / 3600)
    for row in rows:
        if row.starts_at is not None:
            hour = int(row.starts_at.timestamp() - start) // 3600
            cost, requests = sums[hour]
            sums[hour] = (cost + row.cost_nanos, requests + row.requests)
    hours = [datetime.fromtimestamp(start + number * 3600, since.tzinfo) for number in range(len(sums))]
    return _chart("hour", [(at, *each) for at, each in zip(hours, sums, strict=True)])


def _chart(step: str, sums: Sequence[tuple[date, int, int]]) -> Chart:
    """By cost, or by requests where nothing cost anything."""
    most_nanos = max((cost for _at, cost, _requests in sums), default=0)
    most_requests = max((requests for _at, _cost, requests in sums), default=0)
    bars = []
    for number, (at, cost, requests) in enumerate(sums):
        share = cost * 100 / most_nanos if most_nanos else requests * 100 / most_requests if most_requests else 0
        # A step with a call is never shown as one without.
        bars.append(Bar(at, cost, requests, number * 10, max(round(share, 2), 2) if requests else 0))
    return Chart(bars, step, most_nanos, most_requests)


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
