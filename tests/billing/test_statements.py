"""A month's statement adds up to the nano, and to what the ledger says, whatever moved the wallet and when."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger, statements
from billing.models import Posting, PostingLine
from billing.statements import Month
from tests import cast
from tests.billing.test_ledger import usage_entry
from tests.billing.test_seals import triggers_off

pytestmark = pytest.mark.django_db
BERLIN = ZoneInfo("Europe/Berlin")
BEGUN = datetime(2026, 9, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SPAN = int((NOW - BEGUN).total_seconds())


def post(customer, kind, nanos, reference, at):
    if kind in ("usage", "correction"):
        entry = ledger.Entry(
            brand_id=customer.brand_id,
            organization_id=customer.pk,
            kind=kind,
            reference=reference,
            lines=ledger.charge_lines(customer.pk, nanos),
        )
        posting = ledger.post(entry).posting
    else:
        posting = ledger.adjust(
            organization=customer, amount_nanos=nanos, reason=reference, reference=reference, kind=kind, actor="test"
        ).posting
    with triggers_off() as cursor:
        cursor.execute("UPDATE billing_posting SET posted_at = %s WHERE id = %s", [at, posting.pk])


def ledger_before(customer, moment):
    rows = PostingLine.objects.filter(account__organization=customer, posting__posted_at__lt=moment)
    return sum(rows.values_list("amount_nanos", flat=True))


@pytest.fixture
def customer():
    house = cast.brand(timezone="Europe/Berlin")
    neighbour = cast.organization(house)
    post(neighbour, "adjustment", 999, "neighbour", BEGUN + timedelta(days=40))
    return cast.organization(house)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["usage", "correction", "adjustment", "refund"]),
        st.integers(-(10**15), 10**15).filter(bool),
        st.integers(0, SPAN - 1),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_each_month_adds_up_and_begins_where_the_one_before_ended(customer, moves):
    for number, (kind, nanos, seconds) in enumerate(moves):
        reference = f"{number}:{Posting.objects.count()}"
        post(customer, kind, nanos, reference, BEGUN + timedelta(seconds=seconds))
    months = statements.months(customer, NOW)[::-1]
    assert months[-1] == Month(2026, 11)
    for month in months:
        begin, end = month.bounds(customer.brand)
        opening = statements.opening_nanos(customer, month)
        lines = list(statements.lines(customer, month))
        assert opening == ledger_before(customer, begin)
        assert opening + sum(line.amount_nanos for line in lines) == ledger_before(customer, end)
        assert [line.day for line in lines] == sorted(line.day for line in lines)
        assert all(month.first <= line.day < month.next.first for line in lines)
    assert ledger_before(customer, NOW) == ledger.balance_nanos(customer)


def test_usage_is_a_line_a_day_of_the_brand_and_all_else_a_line_each(customer):
    for number, (kind, nanos, at) in enumerate(
        [
            ("adjustment", 10_000, datetime(2026, 10, 31, 23, 30, tzinfo=UTC)),  # the first of November in Berlin
            ("usage", 3, datetime(2026, 10, 31, 22, 59, 59, tzinfo=UTC)),  # still October there
            ("usage", 5, datetime(2026, 11, 1, 8, tzinfo=UTC)),
            ("usage", 7, datetime(2026, 11, 1, 9, tzinfo=UTC)),
            ("refund", -100, datetime(2026, 11, 1, 10, tzinfo=UTC)),
            ("correction", -2, datetime(2026, 11, 1, 11, tzinfo=UTC)),
            ("usage", 11, datetime(2026, 11, 1, 23, tzinfo=UTC)),
        ]
    ):
        post(customer, kind, nanos, f"r{number}", at)
    found = [
        (line.day.day, line.kind, line.reference, line.postings, line.amount_nanos)
        for line in statements.lines(customer, Month(2026, 11))
    ]
    assert found == [
        (1, "adjustment", "r0", 1, 10_000),
        (1, "refund", "r4", 1, -100),
        (1, "usage", "", 2, -12),
        (1, "correction", "", 1, 2),
        (2, "usage", "", 1, -11),
    ]
    assert statements.opening_nanos(customer, Month(2026, 11)) == -3
    assert statements.months(customer, NOW) == [Month(2026, 11), Month(2026, 10)]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Auckland", "America/New_York", "UTC"])
def test_what_is_posted_at_midnight_itself_is_on_the_first_of_the_new_month_and_nowhere_else(zone):
    """The start is in, the end is not: also where summer time begins or ends that night, and between two years."""
    customer = cast.organization(cast.brand(timezone=zone))
    months = [Month(2025, 12), Month(2026, 1), Month(2026, 3), Month(2026, 4), Month(2026, 10), Month(2026, 11)]
    posted = {}
    for number, month in enumerate(months):
        for side, microseconds in (("before", -1), ("at", 0), ("after", 1)):
            at = month.bounds(customer.brand)[0].astimezone(UTC) + timedelta(microseconds=microseconds)
            reference = f"{month} {side}"
            posted[reference] = 10**number * {"before": 1, "at": 2, "after": 4}[side]
            post(customer, "adjustment", posted[reference], reference, at)
            post(customer, "usage", posted[reference] * 10**7, f"used {reference}", at)
    found = statements.months(customer, NOW)
    total = 0
    for month in found[::-1]:
        assert statements.opening_nanos(customer, month) == total
        lines = list(statements.lines(customer, month))
        begins = {line.reference for line in lines if str(month) in line.reference}
        assert begins == ({f"{month} at", f"{month} after"} if month in months else set())
        total += sum(line.amount_nanos for line in lines)
    assert total == ledger.balance_nanos(customer) == sum(posted.values()) * (1 - 10**7)


def test_many_postings_of_one_moment_are_all_read(customer, monkeypatch):
    monkeypatch.setattr(statements, "PAGE", 3)
    at = datetime(2026, 11, 5, tzinfo=UTC)
    for number in range(10):
        post(customer, "adjustment", number + 1, f"r{number}", at)
    assert [line.amount_nanos for line in statements.lines(customer, Month(2026, 11))] == list(range(1, 11))


def test_who_has_no_postings_has_no_statements():
    customer = cast.organization(cast.brand())
    assert statements.months(customer, NOW) == []
    assert statements.opening_nanos(customer, Month(2026, 11)) == 0
    ledger.post(usage_entry(customer, 1, "usage:1"))
    assert len(statements.months(customer, datetime.now(UTC))) == 1


def test_a_year_ends_in_december():
    assert Month(2026, 12).next == Month(2027, 1)
    assert Month(2026, 1).next.first == date(2026, 2, 1)
