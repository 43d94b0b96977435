"""The books in real PostgreSQL, and their changes told to real Redis (or, where order is the matter, to a list)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum
from django.db.utils import DatabaseError

from billing import ledger, outbox, rebuild, script
from billing.ledger import AccountKind, Change, Entry, Line
from billing.models import CounterChange, Grant, LedgerAccount, Posting, PostingLine
from billing.script import CountersFailed
from keys.caller import shard_of
from keys.models import Brand
from tests import cast

USAGE = Posting.Kind.USAGE


@pytest.fixture
def organization(db):
    return cast.organization(cast.brand())


@pytest.fixture
def told(monkeypatch):
    """What Redis was told; it answers "applied"."""
    heard: list[CounterChange] = []

    def apply_change_sync(_redis, change):
        heard.append(change)
        return "applied"

    monkeypatch.setattr("billing.script.apply_change_sync", apply_change_sync)
    return heard


def usage_entry(organization, nanos, reference="usage:1"):
    return Entry(
        brand_id=organization.brand_id,
        organization_id=organization.id,
        kind=USAGE,
        reference=reference,
        lines=ledger.charge_lines(organization.id, nanos),
    )


def give(organization, nanos, reference="grant:1", **fields):
    values = {"kind": Grant.Kind.PROMOTIONAL, "reason": "welcome", "reference": reference, "actor": "test"}
    return ledger.grant(organization=organization, amount_nanos=nanos, **(values | fields))


def balances(brand):
    return dict(LedgerAccount.objects.filter(brand=brand).values_list("kind", "balance_nanos"))


def assert_books_balance():
    for account in LedgerAccount.objects.annotate(total=Sum("lines__amount_nanos")):
        assert account.balance_nanos == (account.total or 0), account
    assert (PostingLine.objects.aggregate(total=Sum("amount_nanos"))["total"] or 0) == 0


def test_a_charge_moves_wallet_and_revenue(organization):
    posted = ledger.post(usage_entry(organization, 700))
    assert posted.is_new
    assert balances(organization.brand) == {"wallet": -700, "revenue": 700}
    assert_books_balance()


def test_posting_again_changes_nothing(organization):
    first = ledger.post(usage_entry(organization, 700))
    again = ledger.post(usage_entry(organization, 700))
    assert (again.posting.id, again.is_new) == (first.posting.id, False)
    assert balances(organization.brand) == {"wallet": -700, "revenue": 700}


def test_a_reference_taken_by_another_posting_is_refused(organization):
    ledger.post(usage_entry(organization, 700))
    with pytest.raises(ledger.PostingConflict):
        ledger.post(usage_entry(organization, 701))
    with pytest.raises(ledger.PostingConflict):
        ledger.post_all([usage_entry(organization, 1, "usage:2"), usage_entry(organization, 2, "usage:2")])
    assert balances(organization.brand) == {"wallet": -700, "revenue": 700}


def test_a_batch_posts_each_reference_once(organization):
    other = cast.organization(organization.brand)
    entries = [usage_entry(organization, 5, "a"), usage_entry(other, 7, "b"), usage_entry(organization, 5, "a")]
    assert [posted.is_new for posted in ledger.post_all(entries)] == [True, True, False]
    assert ledger.balance_nanos(organization) == -5
    assert ledger.balance_nanos(other) == -7
    assert_books_balance()


def test_lopsided_lines_are_refused_before_they_are_written(organization):
    with pytest.raises(AssertionError, match="lopsided"):
        ledger.post(
            Entry(
                brand_id=organization.brand_id,
                organization_id=organization.id,
                kind=USAGE,
                reference="lopsided",
                lines=(Line(AccountKind.WALLET, 5, organization.id), Line(AccountKind.REVENUE, -4)),
            )
        )


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_lines_that_do_not_sum_to_zero():
    organization = cast.organization(cast.brand())
    account = LedgerAccount.objects.create(brand=organization.brand, kind=AccountKind.CASH)
    with pytest.raises(IntegrityError, match="sum to nothing"), transaction.atomic():
        Posting.objects.create(brand=organization.brand, kind=USAGE, reference="by hand")
    posting = ledger.post(usage_entry(organization, 5)).posting
    with pytest.raises(IntegrityError, match="sum to"), transaction.atomic():
        PostingLine.objects.create(posting=posting, account=account, amount_nanos=1)


def test_the_database_refuses_to_rewrite_the_books(organization, told):
    posting = give(organization, 5).posting
    for rows in (Posting.objects.filter(pk=posting.pk), posting.lines.all(), Grant.objects.filter(posting=posting)):
        for change in (lambda rows=rows: rows.update(id=99), lambda rows=rows: rows._raw_delete("default")):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
                change()


def test_a_brand_with_books_keeps_its_currency(organization, told):
    brands = Brand.objects.filter(pk=organization.brand_id)
    assert brands.update(currency="EUR") == 1, "nothing is posted yet"
    give(organization, 5)
    with pytest.raises(DatabaseError, match="are kept in EUR"), transaction.atomic():
        brands.update(currency="USD")
    brands.update(currency="EUR", name="Renamed")


def test_a_grant_is_posted_numbered_and_told(organization, told, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        grant = give(organization, 10_000, actor=cast.person())
        give(organization, 2_000, "grant:2", kind=Grant.Kind.PAID)
    assert grant.posting.kind == Posting.Kind.GRANT
    assert balances(organization.brand) == {"wallet": 12_000, "promotion": -10_000, "cash": -2_000}
    assert [(change.seq, change.balance_nanos) for change in told] == [(1, 10_000), (2, 2_000)]
    assert not CounterChange.objects.filter(applied_at=None).exists()
    assert LedgerAccount.objects.get(kind="wallet").changes == 2


def test_the_same_grant_again_credits_nothing(organization, told, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        assert give(organization, 10).pk == give(organization, 10).pk
    assert ledger.balance_nanos(organization) == 10
    assert len(told) == 1
    with pytest.raises(ledger.PostingConflict):
        give(organization, 11)


@pytest.mark.parametrize("amount", [0, -5, 1.0, True, "5", 2**63])
def test_only_positive_whole_nanos_are_granted(organization, amount):
    with pytest.raises((ValueError, DatabaseError)), transaction.atomic():
        give(organization, amount)
    assert not Posting.objects.exists()


def test_a_change_without_a_posting_is_numbered_too(organization, told, django_capture_on_commit_callbacks):
    change = Change(
        brand_id=organization.brand_id, organization_id=organization.id, day="20261121", key_id=3, amounts={"tok": -4}
    )
    with django_capture_on_commit_callbacks(execute=True):
        ledger.post_all([], [change, change])
    assert [(row.seq, row.day, row.amounts) for row in told] == [(n, "20261121", {"tok": -4}) for n in (1, 2)]


def test_changes_wait_in_order_while_redis_does_not_take_them(organization, monkeypatch):
    verdicts = {1: "applied", 2: "gap", 3: "applied"}
    tried = []

    def apply_change_sync(_redis, change):
        tried.append(change.seq)
        return verdicts[change.seq]

    monkeypatch.setattr("billing.script.apply_change_sync", apply_change_sync)
    for number in (1, 2, 3):
        give(organization, number, f"grant:{number}")
    assert outbox.apply_changes(organization.id) == 1
    assert tried == [1, 2], "a later change never passes one that waits"
    verdicts[2] = "already"
    assert outbox.apply_pending() == 2
    assert tried == [1, 2, 2, 3]


def test_one_change_that_cannot_be_applied_holds_up_nobody_else(organization, monkeypatch):
    other = cast.organization(organization.brand)

    def apply_change_sync(_redis, change):
        if change.organization_id == organization.id:
            raise CountersFailed("passes int64")
        return "applied"

    monkeypatch.setattr("billing.script.apply_change_sync", apply_change_sync)
    give(organization, 5)
    give(other, 5, "grant:2")
    assert outbox.apply_pending() == 1
    assert CounterChange.objects.get(applied_at=None).organization == organization


def test_a_grant_raises_the_balance_in_redis_once(organization, redis_connection, django_capture_on_commit_callbacks):
    account = script.name(shard_of(organization.id), f"a:{organization.id}")
    with django_capture_on_commit_callbacks(execute=True):
        give(organization, 5)
    assert CounterChange.objects.get().applied_at is None, "the shard is closed until it is rebuilt"
    rebuild.ensure_epochs(redis_connection)
    assert outbox.apply_pending() == 1
    assert redis_connection.hgetall(account) == {b"min": b"1"}, "an account nobody asked for is seeded when it is"
    redis_connection.hset(account, mapping={"bal": "5", "seq": "1"})
    with django_capture_on_commit_callbacks(execute=True):
        give(organization, 7, "grant:2")
    CounterChange.objects.update(applied_at=None)
    assert outbox.apply_changes(organization.id) == 2
    assert redis_connection.hmget(account, "bal", "seq") == [b"12", b"2"]


def test_a_redis_that_is_away_delays_a_grant_but_loses_nothing(
    organization, redis_connection, settings, django_capture_on_commit_callbacks
):
    rebuild.ensure_epochs(redis_connection)
    there, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:1/0"
    with django_capture_on_commit_callbacks(execute=True):
        give(organization, 5)
    assert CounterChange.objects.get().applied_at is None
    settings.REDIS_URL = there
    assert outbox.apply_pending() == 1
    assert outbox.apply_pending() == 0


@pytest.mark.django_db(transaction=True)
def test_many_writers_at_once_keep_the_books(told):
    house = cast.brand()
    organizations = [cast.organization(house) for _ in range(3)]
    start = threading.Barrier(4)

    def write(worker):
        start.wait()
        try:
            for number in range(12):
                chosen = organizations[(worker + number) % 3], organizations[(worker + number + 1) % 3]
                ledger.post_all([usage_entry(o, 10, f"usage:{worker}:{number}:{o.id}") for o in chosen])
                give(chosen[0], 20, f"grant:{number % 4}:{chosen[0].id}")  # the same grants from several at once
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, worker) for worker in range(4)]:
            done.result()
    assert_books_balance()
    for organization in organizations:
        wallet = LedgerAccount.objects.get(organization=organization)
        numbers = list(CounterChange.objects.filter(organization=organization).values_list("seq", flat=True))
        assert sorted(numbers) == list(range(1, wallet.changes + 1))
