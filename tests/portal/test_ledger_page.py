"""The books as operators page through them: by customer, account, kind, day, reference and call, to the nano."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import ledger, transactions
from billing.journal import Journal
from billing.models import LedgerAccount, Posting, PostingLine
from billing.transactions import Selection
from keys import staff
from portal.views import ledger as ledger_page
from tests import cast as casting
from tests.billing.draining import drain
from tests.billing.settled import customer, late, settle

pytestmark = pytest.mark.django_db
PAGE = "/admin/ledger/"


@pytest.fixture
def chief(cast):
    return casting.browser_of(casting.person("chief", is_staff=True, is_superuser=True))


def book(organization, kind: str, nanos: int, reference: str) -> Posting:
    lines = {
        "usage": ledger.charge_lines(organization.pk, nanos),
        "grant": ledger.credit_lines(organization.pk, nanos, source="promotion"),
        "top_up": ledger.credit_lines(organization.pk, nanos, source="cash"),
    }[kind]
    entry = ledger.Entry(
        brand_id=organization.brand_id, organization_id=organization.pk, kind=kind, reference=reference, lines=lines
    )
    return ledger.post(entry).posting


@pytest.fixture
def books(cast):
    """Ten days of two customers: the tenth of each is a top-up or a grant."""
    with connection.cursor() as cursor:  # days that were
        cursor.execute("SET session_replication_role = replica")
    for number in range(60):
        whose = cast.organization if number % 3 else cast.elsewhere
        kind = ("top_up", "grant")[number % 20 == 0] if number % 10 == 0 else "usage"
        made = book(whose, kind, 1_000 + number, f"{kind}:{number:03}")
        at = timezone.now() - timedelta(days=10) + timedelta(hours=4 * number)
        Posting.objects.filter(pk=made.pk).update(posted_at=at)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = origin")
    return cast


def paged(asked: Selection, limit: int = 7) -> list[transactions.Transaction]:
    found: list[transactions.Transaction] = []
    place = None
    while True:
        page = transactions.listed(asked, after=place, limit=limit)
        found += page.rows
        if page.after is None:
            return found
        place = page.after


@pytest.mark.parametrize("account", ["", "wallet", "revenue", "cash", "promotion"])
def test_every_transaction_is_listed_once_with_the_balance_after_it(books, account):
    asked = Selection(brand=books.brand, account=account, organization=books.organization if account == "" else None)
    rows = paged(asked)
    lines = PostingLine.objects.filter(account__brand=books.brand, account__kind=account or "wallet")
    if account == "":
        lines = lines.filter(account__organization=books.organization)
    expected = list(lines.order_by("-posting__posted_at", "-posting_id").values_list("posting_id", "amount_nanos"))
    assert [(row.posting.pk, row.moved_nanos) for row in rows] == expected
    assert all(sum(line.amount_nanos for line in row.lines) == 0 for row in rows)
    if account == "wallet":  # of many customers: no one balance
        assert {row.balance_nanos for row in rows} == {None}
        return
    after = [sum(nanos for _, nanos in expected[place:]) for place in range(len(expected))]
    assert [row.balance_nanos for row in rows] == after
    if len(rows) < 10:
        return
    part = paged(
        Selection(
            brand=books.brand,
            account=account,
            organization=asked.organization,
            since=rows[9].posting.posted_at,
            until=rows[2].posting.posted_at,
        )
    )
    assert [(row.posting.pk, row.balance_nanos) for row in part] == [
        (row.posting.pk, row.balance_nanos) for row in rows[3:10]
    ]


def test_sums_come_to_nothing(books, monkeypatch):
    assert transactions.books(books.brand).sum_nanos == 0
    some = Selection(brand=books.brand, kind="top_up")
    assert transactions.totals(some).by_kind == {"wallet": 3_090, "cash": -3_090}
    assert (transactions.totals(some).sum_nanos, transactions.totals(some).postings) == (0, 3)
    monkeypatch.setattr(transactions, "SUMMED_MAX", 2)
    assert transactions.totals(some).postings is None


def test_the_page_chooses_pages_and_leads_to_causes(chief, books, monkeypatch):
    monkeypatch.setattr(ledger_page, "PER_PAGE", 5)
    given = {"brand": books.brand.slug, "organization": books.organization.public_id}
    page = chief.get(PAGE, given)
    assert len(page.context["rows"]) == 5
    older = chief.get(f"{PAGE}?{page.context['older']}")
    first, next_ = page.context["rows"][-1].found, older.context["rows"][0].found
    assert first.balance_nanos - first.moved_nanos == next_.balance_nanos
    forged = chief.get(PAGE, given | {"after": "WyIyMDI2Il0:x:y"})
    assert forged.context["rows"][0].found.posting == page.context["rows"][0].found.posting
    grant = ledger.grant(
        organization=books.organization, amount_nanos=5, kind="promotional", reason="Hi", reference="g", actor="test"
    )
    text = chief.get(PAGE, given | {"kind": "grant"}).content.decode()
    assert f"/admin/billing/grant/{grant.pk}/change/" in text
    assert "Balance after" not in text, "rows are left out"
    assert len(chief.get(PAGE, {"brand": books.brand.slug, "reference": "top_up:"}).context["rows"]) == 3
    day = (timezone.now() - timedelta(days=5)).date().isoformat()
    assert 5 <= len(chief.get(PAGE, {"brand": books.brand.slug, "since": day, "until": day}).context["rows"]) <= 6
    for wrong, field in (
        ({"organization": "nobody"}, "organization"),
        ({"call": "x"}, "call"),
        ({"since": "x"}, "since"),
    ):
        assert field in chief.get(PAGE, {"brand": books.brand.slug, **wrong}).context["form"].errors
    assert chief.post(PAGE).status_code == 405


def test_a_call_is_found_with_its_corrections_and_they_lead_back(chief, cast, redis_connection):
    who = customer(cast.brand)
    event, other = who.event(), who.event()
    settle(redis_connection, event)
    journal = Journal(redis_connection, name="first", notify=lambda _line: None)
    drain(journal)
    late(redis_connection, who.event(call_id=event.call_id, cost_nanos=9, list_cost_nanos=9))
    settle(redis_connection, other)
    drain(journal)
    page = chief.get(PAGE, {"brand": cast.brand.slug, "call": event.call_id})
    rows = page.context["rows"]
    assert [row.found.posting.kind for row in rows] == ["correction", "usage"]
    assert {row.url for row in rows} == {f"/admin/support/?id={event.call_id}"}
    assert page.context["totals"]["sum_nanos"] == 0


def test_a_page_asks_a_number_of_questions_that_does_not_grow(chief, books):
    def asked(**given: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            chief.get(PAGE, {"brand": books.brand.slug, **given})
        return len(queries)

    asked()
    before = asked(organization=books.organization.public_id)
    for number in range(30):
        book(books.organization, "usage", 5, f"more:{number}")
    assert asked(organization=books.organization.public_id) == before


def test_a_brands_staff_see_its_books_alone(cast):
    theirs = casting.organization(casting.brand())
    book(theirs, "grant", 7, "theirs:1")
    book(cast.organization, "grant", 7, "ours:1")
    person = casting.person("worker")
    staff.appoint(user=person, brand=cast.brand, role="support", actor="test")
    browser = casting.browser_of(person)
    for given in ({}, {"brand": theirs.brand.slug}, {"reference": "theirs"}, {"organization": theirs.public_id}):
        page = browser.get(PAGE, given).content.decode()
        assert "theirs:1" not in page
        assert theirs.name not in page
    assert "ours:1" in browser.get(PAGE).content.decode()
    assert LedgerAccount.objects.filter(brand=theirs.brand).exists()
