"""The end of grants in real PostgreSQL and Redis: once, however often it is tried, and never under a running call."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing import balances, expiry, ledger, outbox, rebuild, script, wallets
from billing.models import Grant, GrantEnd, LedgerAccount, Notice, Posting, WalletMark
from keys.caller import shard_of
from tests import cast
from tests.billing.test_ledger import assert_books_balance, usage_entry

DAY = timedelta(days=1)


@pytest.fixture
def organization(transactional_db, redis_connection):
    rebuild.ensure_epochs(redis_connection)
    return cast.organization(cast.brand())


@pytest.fixture
def now():
    return timezone.now()


def give(organization, nanos, reference, **fields):
    values = {"kind": Grant.Kind.PROMOTIONAL, "reason": "Launch gift", "actor": "test"}
    return ledger.grant(organization=organization, amount_nanos=nanos, reference=reference, **(values | fields))


def move(organization, nanos, reference, **fields):
    said = {"reason": "asked for", "actor": cast.person(), "reference": reference}
    return ledger.adjust(organization=organization, amount_nanos=nanos, **(said | fields))


def use(organization, nanos, reference):
    ledger.post(usage_entry(organization, nanos, reference))


def live(redis_connection, organization, bal, held):
    """As the scripts keep it when calls run; the numbering goes on from the wallet's."""
    seq = LedgerAccount.objects.get(organization=organization).changes
    account = script.name(shard_of(organization.id), f"a:{organization.id}")
    redis_connection.hset(account, mapping={"bal": bal, "held": held, "seq": seq})


def test_what_is_left_of_an_expired_grant_is_taken_once(organization, now):
    give(organization, 100, "paid", kind=Grant.Kind.PAID)
    grant = give(organization, 50, "gift", expires_at=now + DAY)
    use(organization, 20, "usage:1")
    assert expiry.expire(now) == 0
    later = now + 2 * DAY
    assert [expiry.expire(later) for _ in range(3)] == [1, 0, 0]
    posting = Posting.objects.get(kind="expiry")
    assert posting.reference == f"expiry:{grant.pk}"
    assert posting.memo == "expired: Launch gift"
    assert ledger.balance_nanos(organization) == 100
    assert wallets.of(organization).left == {Grant.objects.get(kind="paid").pk: 100}
    assert GrantEnd.objects.get().grant == grant
    assert dict(LedgerAccount.objects.filter(organization=None).values_list("kind", "balance_nanos")) == {
        "cash": -100,
        "promotion": -20,
        "revenue": 20,
    }
    assert_books_balance()


def test_of_a_grant_that_is_used_up_nothing_is_taken(organization, now):
    give(organization, 50, "gift", expires_at=now + DAY)
    use(organization, 50, "usage:1")
    assert expiry.expire(now + 2 * DAY) == 0
    assert GrantEnd.objects.count() == 1
    assert not Posting.objects.filter(kind="expiry").exists()


def test_paid_credit_that_expires_is_earned(organization, now):
    give(organization, 50, "paid", kind=Grant.Kind.PAID, expires_at=now + DAY)
    expiry.expire(now + 2 * DAY)
    assert LedgerAccount.objects.get(kind="revenue").balance_nanos == 50


def test_what_running_calls_hold_stays_until_they_are_settled(organization, redis_connection, now):
    give(organization, 100, "gift", expires_at=now + DAY)
    live(redis_connection, organization, bal=90, held=25)  # 10 used and not booked yet, 25 set aside
    later = now + 2 * DAY
    assert expiry.expire(later) == 1
    assert ledger.balance_nanos(organization) == 35
    assert balances.of(organization).available_nanos == 0
    assert balances.of(organization).held_nanos == 25
    assert expiry.expire(later) == 0, "the calls still run"
    use(organization, 10 + 15, "usage:1")  # of what was held, 15 were used
    live(redis_connection, organization, bal=10, held=0)
    assert expiry.expire(later) == 1
    assert [posting.reference.count(":") for posting in Posting.objects.filter(kind="expiry").order_by("pk")] == [1, 2]
    assert ledger.balance_nanos(organization) == 0
    assert balances.of(organization).available_nanos == 0
    assert expiry.expire(later) == 0
    assert_books_balance()


def test_without_redis_nothing_is_taken(organization, settings, now):
    give(organization, 100, "gift", expires_at=now + DAY)
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert expiry.expire(now + 2 * DAY) == 0
    assert ledger.balance_nanos(organization) == 100
    assert not GrantEnd.objects.exists()


def test_a_change_that_redis_has_not_taken_is_waited_for(organization, settings, now):
    there, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:1/0"
    give(organization, 100, "gift", expires_at=now + DAY)
    settings.REDIS_URL = there
    assert expiry.expire(now + 2 * DAY) == 0
    outbox.apply_pending()
    assert expiry.expire(now + 2 * DAY) == 1


def test_several_beats_at_once_take_it_once(organization, now):
    others = [organization, *(cast.organization(organization.brand) for _ in range(3))]
    for number, one in enumerate(others):
        give(one, 100, f"gift:{number}", expires_at=now + DAY)
    start = threading.Barrier(4)

    def beat(_):
        start.wait()
        try:
            return expiry.expire(now + 2 * DAY)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(beat, range(4))) == 4
    assert Posting.objects.filter(kind="expiry").count() == 4
    assert {ledger.balance_nanos(one) for one in others} == {0}
    assert_books_balance()


def test_owners_hear_of_credit_that_ends_soon_once_and_only_if_some_is_left(organization, now):
    soon = give(organization, 50, "soon", expires_at=now + 6 * DAY)
    give(organization, 50, "later", expires_at=now + 30 * DAY)
    short = give(organization, 50, "short", expires_at=now + DAY)
    assert expiry.warn(now) == 0, "it was given just now"
    assert expiry.warn(now + DAY / 2 + timedelta(minutes=1)) == 1
    assert expiry.warn(now + 4 * DAY) == 1
    assert expiry.warn(now + 4 * DAY) == 0
    assert sorted(Notice.objects.values_list("unique_key", flat=True)) == sorted(
        f"credit_expires:{grant.pk}" for grant in (soon, short)
    )
    assert {notice.payload["reason"] for notice in Notice.objects.all()} == {"Launch gift"}
    use(organization, 150, "usage:1")
    assert expiry.warn(now + 24 * DAY) == 0


def test_refunds_disputes_and_adjustments_are_new_entries(organization):
    give(organization, 100, "paid", kind=Grant.Kind.PAID)
    give(organization, 30, "gift")
    for kind, nanos in (("refund", -40), ("dispute", -10), ("adjustment", 7)):
        for _ in range(2):
            move(organization, nanos, f"{kind}:1", kind=kind)
    assert ledger.balance_nanos(organization) == 87
    wallet = wallets.of(organization)
    assert sorted(wallet.left.values()) == [30, 50]
    assert (wallet.loose_nanos, wallet.paid_nanos, wallet.balance_nanos) == (7, 50, 87)
    assert dict(LedgerAccount.objects.filter(organization=None).values_list("kind", "balance_nanos")) == {
        "cash": -50,
        "promotion": -30,
        "adjustment": -7,
    }
    with pytest.raises(ledger.PostingConflict):
        move(organization, -5, "refund:1", kind="refund")
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="whole number"):
            move(organization, wrong, "x")


def test_a_long_history_is_marked_and_read_on_from_there(organization, monkeypatch, django_assert_max_num_queries):
    monkeypatch.setattr(wallets, "MARK_AFTER_LINES", 5)
    give(organization, 1_000, "gift")
    for number in range(12):
        use(organization, 10, f"usage:{number}")
        if number == 6:
            give(organization, 500, "paid", kind=Grant.Kind.PAID)
            assert wallets.of(organization).balance_nanos == 1_430
            assert sorted(WalletMark.objects.get().left.values()) == [500, 930]
    wallets.of(organization)
    with django_assert_max_num_queries(7):
        wallet = wallets.of(organization)
    WalletMark.objects.all().delete()
    assert wallets.of(organization) == wallet
    assert (wallet.balance_nanos, wallet.paid_nanos) == (1_380, 500)
