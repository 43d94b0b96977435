"""The reports on money as rows that a page, a file and `manage.py report` share. Amounts in files are whole nanos:
exact fractions are rounded here, at the very end, and nowhere before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import floor
from typing import Any
from zoneinfo import ZoneInfo

from billing import deferred, engine_returns, money, revenue
from billing.engine_returns import Return
from billing.models import Engine, Model
from billing.revenue import By, Line
from keys.models import Brand, Organization

DAYS_MAX = 366
GROUPS: dict[str, By] = {"day": "day", "model": "model", "engine": "engine", "organization": "organization"}
_MEASURES = ("requests", "input_tokens", "output_tokens", "list_nanos", "revenue_nanos", "cost_nanos", "margin_nanos")
DETAIL_HEAD = ("day", "model", "engine", "organization", *_MEASURES, "currency")
ENGINES_HEAD = (
    *("engine", "since", "until", "currency", "requests", "input_tokens", "output_tokens", "output_tokens_per_second"),
    *("output_tokens_per_second_in_use", "in_use_percent", "load_percent", "cost_per_hour_nanos", "revenue_nanos"),
    *("cost_nanos", "margin_nanos", "margin_percent", "cost_currency"),
)
DEFERRED_HEAD = ("organization", "slug", "balance_nanos", "paid_nanos", "other_nanos", "currency")
IDLE = "idle engines"
GONE = "gone"


@dataclass(frozen=True, slots=True)
class Period:
    """Brand days, both inclusive; `now` bounds what engines cost today."""

    first: date
    last: date
    now: datetime


def period(brand: Brand, days: int, now: datetime) -> Period:
    """The last `days` days of the brand, today the last."""
    last = now.astimezone(ZoneInfo(brand.timezone)).date()
    return Period(last - timedelta(days=days - 1), last, now)


def hours(days: int, now: datetime) -> tuple[datetime, datetime]:
    """The same for engines, which belong to no brand's calendar: UTC days until now."""
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC)
    return midnight - timedelta(days=days - 1), now


def nearest(amount: Fraction | int) -> int:
    """Half a nano is rounded up."""
    return floor(amount + Fraction(1, 2))


def rounded(amount: Fraction | None) -> int | None:
    """None where it cannot be told."""
    return None if amount is None else nearest(amount)


def tenths(value: Fraction | None) -> str:
    """ "61.3"; "" where there is none."""
    return "" if value is None else money.decimal(nearest(value * 10), 1, places_min=1)


def percent(share: Fraction | None) -> str:
    return tenths(None if share is None else share * 100)


def label(by: By, line: Line, names: dict[int, str]) -> str:
    """What a line is about: "2026-11-21", "llama-70b", "idle engines"."""
    if by == "day":
        return str(line.day)
    if line.is_idle and by != "engine":
        return IDLE
    return names.get(getattr(line, revenue.COLUMNS[by]), GONE)


def grouped(brand: Brand, by: By, over: Period) -> list[tuple[str, Line]]:
    lines = revenue.grouped(brand, by=by, first=over.first, last=over.last, now=over.now)
    names = revenue.names(brand, by, lines)
    return [(label(by, line, names), line) for line in lines]


def head(by: By) -> tuple[str, ...]:
    return (by, *_MEASURES, "margin_percent", "currency")


def grouped_rows(brand: Brand, by: By, lines: Sequence[tuple[str, Line]]) -> Iterator[tuple[Any, ...]]:
    for name, line in lines:
        yield (name, *_measures(line), percent(line.margin), brand.currency)


def detail(brand: Brand, over: Period) -> Iterator[tuple[Any, ...]]:
    """Usage and cost by day, model, engine and organization; a day at a time, so that its length costs no memory."""
    known = _Names()
    for line in revenue.lines(brand, first=over.first, last=over.last, now=over.now):
        yield (
            line.day,
            "" if line.is_idle else known.of(Model, "slug", line.model_id),
            known.of(Engine, "name", line.engine_id) if line.engine_id else "",
            IDLE if line.is_idle else known.of(Organization, "name", line.organization_id),
            *_measures(line),
            brand.currency,
        )


def engine_rows(found: Sequence[Return], since: datetime, until: datetime) -> Iterator[tuple[Any, ...]]:
    for each in found:
        margin = each.margin_nanos
        yield (
            *(each.engine.name, since.isoformat(), until.isoformat(timespec="seconds"), each.currency),
            *(each.requests, each.input_tokens, each.output_tokens),
            *(tenths(each.tokens_per_second), tenths(each.tokens_per_second_used)),
            *(percent(each.used), percent(each.load), each.per_hour_nanos, each.revenue_nanos),
            *(rounded(each.cost_nanos), rounded(margin), percent(each.margin), each.cost_currency),
        )


def engines(days: int, now: datetime, brand: Brand | None) -> tuple[list[Return], datetime, datetime]:
    since, until = hours(days, now)
    return engine_returns.returns(since=since, until=until, brand=brand), since, until


def deferred_rows(brand: Brand) -> Iterator[tuple[Any, ...]]:
    for owed in deferred.owed(brand):
        who = owed.organization
        yield (who.name, who.slug, owed.balance_nanos, owed.paid_nanos, owed.other_nanos, brand.currency)


def _measures(line: Line) -> tuple[int | None, ...]:
    return (
        *(line.requests, line.input_tokens, line.output_tokens, line.list_nanos, line.revenue_nanos),
        *(nearest(line.cost_nanos), rounded(line.margin_nanos)),
    )


class _Names:
    """Ids → what people call them, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[type, int | None], str] = {}

    def of(self, model: Any, column: str, row_id: int | None) -> str:
        if (model, row_id) not in self._known:
            self._known[model, row_id] = model.objects.filter(pk=row_id).values_list(column, flat=True).first() or GONE
        return self._known[model, row_id]
