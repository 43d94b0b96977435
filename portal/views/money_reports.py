"""For operators: revenue and margin, engines, deferred revenue. Read from rollups and postings, never from calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import deferred, revenue
from billing.engine_returns import Return
from billing.revenue import Line
from keys import staff
from keys.models import Brand
from portal import charts, money_reports, spreadsheets
from portal.money_reports import Period
from portal.views.usage import PERIODS, places

SHOWN_MAX = 200
WALLETS_MAX = 1_000
"""What a page may read while somebody waits; the file and the command have no bound."""
PERMISSION = "billing.view_posting"
TABS = {"revenue": "Revenue and margin", "engines": "Engines", "deferred": "Deferred revenue"}


@dataclass(frozen=True, slots=True)
class Choice:
    label: str
    query: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A line with its fractions rounded to nanos, as a page shows it."""

    label: str
    line: Line
    cost_nanos: int
    margin_nanos: int | None
    margin: str


@dataclass(frozen=True, slots=True)
class EngineRow:
    found: Return
    currency: str
    cost_nanos: int | None
    margin_nanos: int | None
    margin: str
    speed: str
    speed_used: str
    used: str
    load: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for. `brand` None: all of them."""

    brand: Brand | None
    brands: list[Brand]
    days: str
    by: str
    now: datetime

    def query(self, **changes: str) -> str:
        kept = {"brand": self.brand.slug if self.brand else "", "days": self.days, "by": self.by}
        return "?" + urlencode({name: value for name, value in {**kept, **changes}.items() if value})

    def context(self) -> dict[str, Any]:
        chosen = self.brand.slug if self.brand else ""
        groups = money_reports.GROUPS
        return {
            "asked": self,
            "brands": [Choice(brand.name, self.query(brand=brand.slug), brand.slug == chosen) for brand in self.brands],
            "periods": [Choice(text, self.query(days=days), days == self.days) for days, text in PERIODS.items()],
            "groups": [Choice(name.capitalize(), self.query(by=name), name == self.by) for name in groups],
            "tabs": TABS,
        }


def _report(tab: str, *, one_brand: bool) -> Callable[[Callable[[HttpRequest, Any], Any]], Any]:
    """What the reports have in common: who may see them, what is asked, and the page around a report's own facts."""

    def around(report: Callable[[HttpRequest, Any], Any]) -> Callable[[HttpRequest], HttpResponseBase]:
        @require_safe
        def view(request: HttpRequest) -> HttpResponseBase:
            if not request.user.has_perm(PERMISSION):
                raise PermissionDenied
            asked = _asked(request, one_brand=one_brand)
            found = report(request, asked)
            if isinstance(found, HttpResponseBase):
                return found
            context = {**admin.site.each_context(request), "title": TABS[tab], "tab": tab, **asked.context(), **found}
            if not request.user.is_superuser:  # engines serve all brands together
                context["tabs"] = {name: text for name, text in TABS.items() if name != "engines"}
            return render(request, f"admin/report_{tab}.html", context)

        return view

    return around


def _asked(request: HttpRequest, *, one_brand: bool) -> Asked:
    """What is not offered is not asked for."""
    given = request.GET
    brands = list(staff.brands_of(request.user))
    if not brands:
        raise PermissionDenied
    brand = next((brand for brand in brands if brand.slug == given.get("brand")), None)
    if brand is None and one_brand:
        brand = brands[0]
    days, by = given.get("days", "30"), given.get("by", "day")
    return Asked(
        brand=brand,
        brands=brands,
        days=days if days in PERIODS else "30",
        by=by if by in money_reports.GROUPS else "day",
        now=timezone.now(),
    )


@_report("revenue", one_brand=True)
def revenue_report(request: HttpRequest, asked: Asked) -> Any:
    brand, by = asked.brand, money_reports.GROUPS[asked.by]
    assert brand is not None
    over = money_reports.period(brand, int(asked.days), asked.now)
    file = request.GET.get("format")
    name = f"{brand.slug}-{over.first}-{over.last}.csv"
    if file == "detail":
        return spreadsheets.Download(f"usage-{name}", money_reports.DETAIL_HEAD, money_reports.detail(brand, over))
    found = money_reports.grouped(brand, by, over)
    if file == "csv":
        rows = money_reports.grouped_rows(brand, by, found)
        return spreadsheets.Download(f"revenue-by-{by}-{name}", money_reports.head(by), rows)
    total = revenue.total([line for _, line in found])
    shown = [_row(label, line) for label, line in (reversed(found) if by == "day" else found)]
    return {
        "over": over,
        "rows": shown[:SHOWN_MAX],
        "hidden": len(shown[SHOWN_MAX:]),
        "total": _row("Total", total),
        "places": places([row.line.revenue_nanos for row in shown] + [row.cost_nanos for row in shown]),
        "moves": revenue.moves(brand, first=over.first, last=over.last),
        "chart": _chart(brand, over, found if by == "day" else None),
        "currency": brand.currency,
        "label": asked.by.capitalize(),
        "file": asked.query(format="csv"),
        "detail": asked.query(format="detail"),
    }


def _row(label: str, line: Line) -> Row:
    cost, margin = money_reports.nearest(line.cost_nanos), money_reports.rounded(line.margin_nanos)
    return Row(label, line, cost, margin, money_reports.percent(line.margin))


def _chart(brand: Brand, over: Period, by_day: list[tuple[str, Line]] | None) -> charts.Chart:
    lines = by_day if by_day is not None else money_reports.grouped(brand, "day", over)
    sums = {line.day: (line.revenue_nanos, line.requests) for _, line in lines if line.day}
    return charts.of_days(sums, over.first, over.last)


@_report("engines", one_brand=False)
def engines_report(request: HttpRequest, asked: Asked) -> Any:
    found, since, until = money_reports.engines(int(asked.days), asked.now, asked.brand)
    if request.GET.get("format") == "csv":
        rows = money_reports.engine_rows(found, since, until)
        return spreadsheets.Download(f"engines-{since:%Y-%m-%d}-{until:%Y-%m-%d}.csv", money_reports.ENGINES_HEAD, rows)
    shown = [_engine_row(each) for each in found]
    amounts = [row.cost_nanos or 0 for row in shown] + [row.found.revenue_nanos or 0 for row in shown]
    return {"rows": shown, "since": since, "until": until, "places": places(amounts), "file": asked.query(format="csv")}


def _engine_row(found: Return) -> EngineRow:
    return EngineRow(
        found,
        found.cost_currency or "",
        money_reports.rounded(found.cost_nanos),
        money_reports.rounded(found.margin_nanos),
        money_reports.percent(found.margin),
        money_reports.tenths(found.tokens_per_second),
        money_reports.tenths(found.tokens_per_second_used),
        money_reports.percent(found.used),
        money_reports.percent(found.load),
    )


@_report("deferred", one_brand=True)
def deferred_report(request: HttpRequest, asked: Asked) -> Any:
    brand = asked.brand
    assert brand is not None
    if request.GET.get("format") == "csv":
        name = f"deferred-{brand.slug}-{asked.now:%Y-%m-%d}.csv"
        return spreadsheets.Download(name, money_reports.DEFERRED_HEAD, money_reports.deferred_rows(brand))
    found = list(deferred.owed(brand, at_most=WALLETS_MAX))
    return {
        "rows": list(islice(found, SHOWN_MAX)),
        "hidden": len(found[SHOWN_MAX:]),
        "unread": max(deferred.customers(brand).count() - WALLETS_MAX, 0),
        "paid_nanos": sum(owed.paid_nanos for owed in found),
        "other_nanos": sum(owed.other_nanos for owed in found),
        "customers": len(found),
        "currency": brand.currency,
        "file": asked.query(format="csv"),
    }
