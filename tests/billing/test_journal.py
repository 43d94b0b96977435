"""Settled calls reach PostgreSQL once, with their sums, postings and corrections."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from django.db import connection, transaction

from billing import counters, recording
from billing.journal import Journal, lag, stream_of
from billing.models import CounterChange, DeadLetter, JournalShard, Posting, UsageDay, UsageEvent
from keys.models import KeyUse
from tests.billing import books
from tests.billing.books import end_leases
from tests.billing.draining import drain, read
from tests.billing.settled import customer, entry, late, settle

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
"""For what is refused at commit only, or closes its connection."""


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def journal(redis_connection, lines) -> Journal:
    return Journal(redis_connection, name="first", notify=lines.append)


def test_a_settled_call_is_in_the_books_with_every_field(redis_connection, journal):
    who = customer()
    event = who.event(
        engine_id=3,
        tier_id=4,
        rate_id=5,
        cache_read_tokens=2,
        reasoning_tokens=1,
        images=1,
        credits=6,
        flags=("clamped",),
        metadata={"order": "ü\\u0000"},
        user='customer\'s "own" ’id',
        stream=True,
    )
    settle(redis_connection, event)
    drain(journal)
    row = UsageEvent.objects.get()
    for name in ("call_id", "engine_id", "tier_id", "rate_id", "rates", "images", "credits", "metadata", "user"):
        assert str(getattr(row, name)) == str(getattr(event, name)), name
    assert row.kind == "call"
    assert row.flags == ["clamped"]
    assert row.cache_write_tokens is None
    assert row.started_at == datetime.fromtimestamp(event.started_at_ms / 1000, UTC)
    assert f"{row.day:%Y%m%d}" == event.day
    assert (row.address, row.agent, row.stream) == ("192.0.2.7", "test", True)
    assert Posting.objects.get(id=row.posting_id or 0).reference == f"usage:{event.call_id}"
    books.assert_consistent()


def test_the_wallet_pays_and_the_brand_earns_once_per_batch(redis_connection, journal):
    one, other = customer(), customer()
    settle(redis_connection, *(one.event() for _ in range(5)), *(other.event(cost_nanos=3) for _ in range(2)))
    drain(journal)
    assert books.wallet(one.organization.id) == -35
    assert books.wallet(other.organization.id) == -6
    assert Posting.objects.count() == 2
    books.assert_consistent()


def test_an_included_call_is_recorded_and_posts_nothing(redis_connection, journal):
    who = customer()
    settle(redis_connection, who.event(payer="included", cost_nanos=0))
    drain(journal)
    assert UsageEvent.objects.get().posting_id is None
    assert UsageDay.objects.get().list_cost_nanos == 7
    assert not Posting.objects.exists()
    books.assert_consistent()


def test_the_stream_is_empty_and_the_position_kept_after_a_turn(redis_connection, journal):
    who = customer()
    stream_ids = settle(redis_connection, who.event(), who.event())
    drain(journal)
    stream = stream_of(who.shard)
    assert redis_connection.xlen(stream) == 0
    assert redis_connection.xpending(stream, "books")["pending"] == 0
    assert JournalShard.objects.get(shard=who.shard).last_stream_id == stream_ids[-1]


def test_a_key_knows_when_it_was_last_used(redis_connection, journal):
    who = customer()
    newest = who.event(started_at_ms=who.event().started_at_ms + 5_000, agent="newest", address="2001:db8::1")
    settle(redis_connection, newest, who.event(agent="older"))
    drain(journal)
    settle(redis_connection, who.event(agent="older still"))
    drain(journal)
    use = KeyUse.objects.get(key=who.key)
    assert (use.agent, use.address) == ("newest", "2001:db8::1")
    assert use.last_used_at == datetime.fromtimestamp(newest.started_at_ms / 1000, UTC)


def test_a_call_of_a_key_that_is_gone_is_recorded_all_the_same(redis_connection, journal):
    who = customer()
    settle(redis_connection, who.event())
    who.key.delete()
    drain(journal)
    assert books.events() == 1


def test_calls_of_many_organizations_models_and_reasons_add_up(redis_connection, journal):
    house = customer().brand
    customers = [customer(house) for _ in range(5)]
    settle(
        redis_connection,
        *(
            who.event(
                engine_id=None if n % 2 else n % 3 + 1,
                end_reason=("stop", "length", "client_gone")[n % 3],
                uncached_input_tokens=n,
                cache_read_tokens=None if n % 4 else n,
                duration_ms=n * 37,
                first_token_ms=None if n % 5 else n,
                cost_nanos=n % 7,
                started_at_ms=who.event().started_at_ms - n * 60_000,
            )
            for n in range(60)
            for who in customers
        ),
    )
    drain(journal)
    assert books.events() == 300
    books.assert_consistent()


# Delivered again


@committed
def test_entries_committed_but_not_acknowledged_are_booked_once(redis_connection, journal, monkeypatch):
    who = customer()
    settle(redis_connection, *(who.event() for _ in range(4)))
    forget = counters.forget_journaled

    def die(*_args):
        raise RuntimeError("killed before XACK")

    monkeypatch.setattr(counters, "forget_journaled", die)
    with pytest.raises(RuntimeError):
        journal._commit(read(journal))
    assert books.events() == 4
    monkeypatch.setattr(counters, "forget_journaled", forget)
    successor = Journal(redis_connection, name="second", notify=print)
    end_leases()
    drain(successor)
    assert books.events() == 4
    assert books.wallet(who.organization.id) == -28
    assert redis_connection.xlen(stream_of(who.shard)) == 0
    books.assert_consistent()


# Late


def test_a_late_entry_of_an_unknown_call_is_booked_and_redis_is_told(redis_connection, journal):
    who = customer()
    event = who.event(credits=2)
    late(redis_connection, event)
    drain(journal)
    assert books.events() == 1
    change = CounterChange.objects.get()
    assert (change.organization_id, change.seq, change.balance_nanos) == (who.organization.id, 1, -7)
    assert (change.day, change.key_id, change.model_id) == (event.day, who.key.id, who.model.id)
    assert change.amounts == {"req": 1, "in": 10, "out": 5, "tok": 15, "cred": 2, "nano": 7}
    books.assert_consistent()


def test_an_equal_late_entry_is_dropped(redis_connection, journal):
    event = customer().event(cache_read_tokens=None)
    settle(redis_connection, event)
    drain(journal)
    late(redis_connection, msgspec.structs.replace(event, settled_at_ms=event.settled_at_ms + 9, cache_read_tokens=0))
    drain(journal)
    assert UsageEvent.objects.count() == 1
    assert not CounterChange.objects.exists()
    books.assert_consistent()


@pytest.mark.parametrize("together", [True, False])
def test_a_different_late_entry_is_corrected_by_the_difference_once(redis_connection, journal, together):
    who = customer()
    lapsed = who.event(end_reason="lapsed", usage_source="running", output_tokens=2, cost_nanos=4, list_cost_nanos=4)
    final = msgspec.structs.replace(
        lapsed, end_reason="stop", usage_source="final", output_tokens=9, cost_nanos=11, list_cost_nanos=11
    )
    settle(redis_connection, lapsed)
    if not together:
        drain(journal)
    late(redis_connection, final)
    drain(journal)
    late(redis_connection, final)
    drain(journal)
    correction = UsageEvent.objects.get(kind="correction")
    assert (str(correction.corrects), correction.output_tokens, correction.cost_nanos) == (lapsed.call_id, 7, 7)
    assert (correction.end_reason, correction.usage_source) == ("lapsed", "final")
    assert Posting.objects.get(id=correction.posting_id or 0).kind == "correction"
    assert books.wallet(who.organization.id) == -11
    change = CounterChange.objects.get()
    assert change.balance_nanos == -7
    assert change.amounts == {"req": 0, "in": 0, "out": 7, "tok": 7, "cred": 0, "nano": 7}
    assert UsageDay.objects.get().requests == 1
    books.assert_consistent()


def test_a_correction_may_give_back(redis_connection, journal):
    who = customer()
    event = who.event()
    settle(redis_connection, event)
    late(redis_connection, msgspec.structs.replace(event, cost_nanos=1, list_cost_nanos=1, output_tokens=0))
    drain(journal)
    assert books.wallet(who.organization.id) == -1
    assert CounterChange.objects.get().balance_nanos == 6
    books.assert_consistent()


@committed
def test_late_entries_delivered_again_after_a_newer_one_change_nothing(redis_connection, journal, monkeypatch):
    """The first says 5, the second 9: after a crash before XACK both come again, and 9 must stay."""
    who = customer()
    event = who.event()
    settle(redis_connection, event)
    drain(journal)
    for cost_nanos in (5, 9):
        late(redis_connection, msgspec.structs.replace(event, cost_nanos=cost_nanos, list_cost_nanos=cost_nanos))
    with monkeypatch.context() as patch:
        patch.setattr(counters, "forget_journaled", lambda *_args: None)
        journal.turn()
    assert books.wallet(who.organization.id) == -9
    journal._start_over()
    drain(journal)
    assert books.wallet(who.organization.id) == -9
    assert UsageEvent.objects.filter(kind="correction").count() == 2
    assert [change.seq for change in CounterChange.objects.order_by("seq")] == [1, 2]
    books.assert_consistent()


def test_late_entries_keep_the_place_of_the_call_they_correct(redis_connection, journal):
    who = customer()
    event = who.event(day="20261101")
    settle(redis_connection, event)
    late(redis_connection, msgspec.structs.replace(event, day="20261102", cost_nanos=8, engine_id=77))
    drain(journal)
    assert UsageDay.objects.get().cost_nanos == 8
    assert CounterChange.objects.get().day == "20261101"
    books.assert_consistent()


# What cannot be booked


def poisons(who):
    yield {"e": b"nonsense"}
    yield {"e": b'{"call_id":1}'}
    yield entry(who.event(), bal=8)
    yield entry(who.event(), tok=1)
    yield entry(who.event(), d="20200101")
    yield entry(who.event(), o=who.organization.id + 64)
    yield entry(who.event(brand_id=2**40))
    yield entry(who.event(day="20261399"))


@committed
def test_poison_goes_to_the_dead_letters_and_the_others_go_on(redis_connection, journal, lines):
    who = customer()
    bad = list(poisons(who))
    for fields in bad:
        settle(redis_connection, who.event())
        redis_connection.xadd(stream_of(who.shard), fields)
    settle(redis_connection, who.event())
    drain(journal)
    assert books.events() == len(bad) + 1
    assert DeadLetter.objects.count() == len(bad)
    assert redis_connection.xlen(stream_of(who.shard)) == 0
    assert sum("dead letter" in line for line in lines) == len(bad)
    books.assert_consistent()


@committed
def test_an_entry_that_fails_in_the_database_is_tried_again_before_it_is_given_up(redis_connection, journal):
    who = customer()
    settle(redis_connection, who.event(brand_id=2**40))
    drain(journal)
    assert DeadLetter.objects.get().tries == 3


def test_two_settles_of_one_hold_with_different_amounts_are_not_guessed_at(redis_connection, journal):
    who = customer()
    event = who.event()
    settle(redis_connection, event)
    drain(journal)
    settle(redis_connection, msgspec.structs.replace(event, cost_nanos=9, list_cost_nanos=9))
    drain(journal)
    assert "not late" in DeadLetter.objects.get().error
    assert books.wallet(who.organization.id) == -7


def test_a_call_cannot_move_to_another_organization(redis_connection, journal):
    house = customer().brand
    one = customer(house)
    other = next(who for who in iter(lambda: customer(house), None) if who.shard != one.shard)
    event = one.event()
    settle(redis_connection, event)
    drain(journal)
    late(redis_connection, msgspec.structs.replace(event, organization_id=other.organization.id))
    drain(journal)
    assert "is booked for organization" in DeadLetter.objects.get().error


@committed
def test_an_entry_deleted_by_hand_is_passed_over(redis_connection, journal):
    who = customer()
    stream_ids = settle(redis_connection, who.event(), who.event())
    read(journal)
    redis_connection.xdel(stream_of(who.shard), stream_ids[0])
    journal._start_over()
    drain(journal)
    assert books.events() == 1
    assert redis_connection.xpending(stream_of(who.shard), "books")["pending"] == 0


def test_more_than_a_page_and_a_batch_are_taken_in_order(redis_connection, journal, monkeypatch):
    monkeypatch.setattr("billing.journal.READ_MAX", 7)
    monkeypatch.setattr("billing.journal.BATCH_MAX", 4)
    customers = [customer() for _ in range(3)]
    settle(redis_connection, *(who.event() for _ in range(20) for who in customers))
    drain(journal)
    assert books.events() == 60
    books.assert_consistent()


def test_lag_says_what_waits_and_since_when(redis_connection, journal):
    assert lag(redis_connection) == (0, None)
    one, other = customer(), customer()
    first = settle(redis_connection, one.event(), one.event(), other.event())[0]
    assert lag(redis_connection) == (3, int(first.partition("-")[0]))
    drain(journal)
    assert lag(redis_connection) == (0, None)


def test_what_is_recorded_is_reported(redis_connection, journal):
    who = customer()
    event = who.event()
    settle(redis_connection, event)
    journal._renew()
    found = [delivery.entry for delivery in read(journal) if delivery.entry]
    with transaction.atomic(), connection.cursor() as cursor:
        assert recording.record(cursor, [*found, *found], {who.shard: "0-0"}) == (1, 0, 1)
