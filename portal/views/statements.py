"""What moved an account's balance, month by month: to read, to print, and as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import Http404, HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import currencies, money, statements
from billing.statements import Line, Month
from keys.models import Organization, Role
from portal import spreadsheets
from portal.middleware import MemberRequest
from portal.pages import of_organization, page

LINES_SHOWN = 1_000
HEAD = ("day", "what", "note", "reference", "postings", "amount", "balance", "currency")


@of_organization(role_at_least=Role.BILLING)
@require_safe
def statements_page(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    """The list of months, or the one that `month` names."""
    now = timezone.now()
    there = statements.months(organization, now)
    asked = request.GET.get("month")
    if asked is None:
        return page(request, organization, "balance", "portal/statements.html", {"months": there})
    month = next((month for month in there if str(month) == asked), None)
    if month is None:
        raise Http404("No such month.")
    if request.GET.get("format") == "csv":
        name = f"statement-{organization.slug}-{month}.csv"
        return spreadsheets.Download(name, HEAD, _rows(organization, month))
    _, end = month.bounds(organization.brand)
    context = {"month": month, "until": end, "is_running": now < end, "now": now, **_read(organization, month)}
    return page(request, organization, "balance", "portal/statement.html", context)


def _read(organization: Organization, month: Month) -> dict[str, Any]:
    """All lines are summed; the first LINES_SHOWN are kept."""
    opening = balance = statements.opening_nanos(organization, month)
    shown: list[tuple[Line, int]] = []
    by_kind: dict[str, int] = {}
    count = 0
    for line in statements.lines(organization, month):
        balance += line.amount_nanos
        by_kind[line.kind] = by_kind.get(line.kind, 0) + line.amount_nanos
        count += 1
        if count <= LINES_SHOWN:
            shown.append((line, balance))
    return {
        "opening": opening,
        "closing": balance,
        "by_kind": sorted(by_kind.items(), key=lambda item: -item[1]),
        "lines": shown,
        "hidden": count - len(shown),
    }


def _rows(organization: Organization, month: Month) -> Iterator[tuple[Any, ...]]:
    currency = organization.brand.currency
    balance = statements.opening_nanos(organization, month)

    def amount(nanos: int) -> spreadsheets.Number:
        return spreadsheets.Number(money.decimal(nanos, 9, places_min=currencies.places(currency)))

    yield month.first, "opening balance", "", "", "", "", amount(balance), currency
    for line in statements.lines(organization, month):
        balance += line.amount_nanos
        what = line.kind.replace("_", " ")
        moved, left = amount(line.amount_nanos), amount(balance)
        yield line.day, what, line.memo, line.reference, line.postings, moved, left, currency
    yield "", "closing balance", "", "", "", "", amount(balance), currency
