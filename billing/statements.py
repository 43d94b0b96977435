"""What moved an organization's wallet in a calendar month of its brand's zone, by when it was posted, from the books.

    opening + every line = closing, to the nano

The opening balance is the balance less all that was posted since the month began, read in one statement: later
postings do not move it, and it costs what was posted since, not a whole history.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db.models import Count, Min, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import TruncDate

from billing.models import LedgerAccount, Posting, PostingLine
from keys.models import Brand, Organization

SUMMED = (Posting.Kind.USAGE, Posting.Kind.CORRECTION)
"""Posted every few seconds while calls are made: one line a day."""
PAGE = 500


class Month(NamedTuple):
    """Of the calendar; "2026-11" in addresses."""

    year: int
    month: int

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"

    @property
    def first(self) -> date:
        return date(self.year, self.month, 1)

    @property
    def next(self) -> Month:
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    def bounds(self, brand: Brand) -> tuple[datetime, datetime]:
        """The end is not in it."""
        zone = ZoneInfo(brand.timezone)
        return datetime.combine(self.first, time.min, zone), datetime.combine(self.next.first, time.min, zone)


@dataclass(frozen=True, slots=True)
class Line:
    """`day` is the brand's. `postings` were summed to the amount; memo and reference are those of a single one."""

    day: date
    kind: str
    memo: str
    reference: str
    postings: int
    amount_nanos: int


def months(organization: Organization, now: datetime) -> list[Month]:
    """From the month of the first posting to this one, newest first; none before anything was posted."""
    begun = Posting.objects.filter(organization=organization).aggregate(at=Min("posted_at"))["at"]
    found: list[Month] = []
    if begun is not None:
        zone = ZoneInfo(organization.brand.timezone)
        month, last = (Month(at.year, at.month) for at in (begun.astimezone(zone), now.astimezone(zone)))
        while month <= last:
            found.append(month)
            month = month.next
    return found[::-1]


def opening_nanos(organization: Organization, month: Month) -> int:
    begin, _ = month.bounds(organization.brand)
    since = (
        PostingLine.objects.filter(
            account=OuterRef("pk"), posting__organization=organization, posting__posted_at__gte=begin
        )
        .order_by()
        .values("account")
        .annotate(moved=Sum("amount_nanos"))
        .values("moved")
    )
    wallet = LedgerAccount.objects.filter(organization=organization, kind=LedgerAccount.Kind.WALLET)
    found = wallet.values_list("balance_nanos", Subquery(since)).first()
    return found[0] - (found[1] or 0) if found else 0


def lines(organization: Organization, month: Month) -> Iterator[Line]:
    """By day; within one, what was posted by itself in its order, then what was used. Read a page at a time."""
    found: Iterable[Line] = heapq.merge(_single(organization, month), _summed(organization, month), key=_place)
    return iter(found)


def _place(line: Line) -> tuple[date, int]:
    return line.day, SUMMED.index(Posting.Kind(line.kind)) + 1 if line.kind in SUMMED else 0


def _of(organization: Organization, month: Month) -> QuerySet[PostingLine]:
    begin, end = month.bounds(organization.brand)
    return PostingLine.objects.filter(
        account__organization=organization,
        account__kind=LedgerAccount.Kind.WALLET,
        posting__organization=organization,
        posting__posted_at__gte=begin,
        posting__posted_at__lt=end,
    )


def _summed(organization: Organization, month: Month) -> Iterator[Line]:
    day = TruncDate("posting__posted_at", tzinfo=ZoneInfo(organization.brand.timezone))
    rows = _of(organization, month).filter(posting__kind__in=SUMMED).annotate(day=day).order_by()
    sums = rows.values_list("day", "posting__kind").annotate(Count("pk"), Sum("amount_nanos"))
    yield from sorted((Line(on, kind, "", "", count, nanos) for on, kind, count, nanos in sums), key=_place)


def _single(organization: Organization, month: Month) -> Iterator[Line]:
    zone = ZoneInfo(organization.brand.timezone)
    rows = _of(organization, month).exclude(posting__kind__in=SUMMED).select_related("posting")
    last: PostingLine | None = None
    while True:
        part = rows
        if last is not None:
            at = last.posting.posted_at
            part = rows.filter(posting__posted_at__gte=at).exclude(posting__posted_at=at, pk__lte=last.pk)
        found = list(part.order_by("posting__posted_at", "pk")[:PAGE])
        for row in found:
            posting = row.posting
            day = posting.posted_at.astimezone(zone).date()
            yield Line(day, posting.kind, posting.memo, posting.reference, 1, row.amount_nanos)
        if len(found) < PAGE:
            return
        last = found[-1]
