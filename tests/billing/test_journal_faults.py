"""Whatever dies, and wherever: each settled call is in the books exactly once, and draining goes on by itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import msgspec
import psycopg
import pytest
import redis
from django.db import OperationalError, connection

from billing import counters, event_rows, ledger, recording, rollups, shard_leases
from billing.journal import GROUP, Journal, stream_of
from billing.models import DeadLetter, JournalShard, JournalWriter
from tests.billing import books
from tests.billing.books import end_leases
from tests.billing.draining import drain, read
from tests.billing.settled import customer, late, settle

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """No handler of the journal sees this, as none sees SIGKILL."""


STEPS = [
    (ledger, "post_all"),
    (event_rows, "insert"),
    (rollups, "add"),
    (recording, "_note_use"),
    (shard_leases, "advance"),
    (counters, "forget_journaled"),
]


def journal_of(store: redis.Redis, name: str = "first") -> Journal:
    return Journal(store, name=name, notify=lambda _line: None)


def fail_after(monkeypatch, module, name: str, error: BaseException, times: int = 1) -> None:
    """The step does its work and then, `times` times, the error follows."""
    step, left = getattr(module, name), [times]

    def failing(*args, **kwargs):
        answer = step(*args, **kwargs)
        if left[0]:
            left[0] -= 1
            raise error
        return answer

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(("module", "name"), STEPS, ids=[name for _, name in STEPS])
def test_killed_after_any_step_a_successor_books_each_call_once(redis_connection, monkeypatch, module, name):
    one, other = customer(), customer()
    settle(redis_connection, *(who.event() for _ in range(5) for who in (one, other)))
    late(redis_connection, one.event())
    fail_after(monkeypatch, module, name, Killed())
    with pytest.raises(Killed):
        drain(journal_of(redis_connection))
    connection.close()
    end_leases()
    drain(journal_of(redis_connection, "second"))
    assert books.events() == 11
    assert (books.wallet(one.organization.id), books.wallet(other.organization.id)) == (-42, -35)
    assert redis_connection.xlen(stream_of(one.shard)) == redis_connection.xlen(stream_of(other.shard)) == 0
    books.assert_consistent()


@pytest.fixture
def running(redis_connection) -> Iterator[list[str]]:
    """A journal that runs beside the test; its lines."""
    lines: list[str] = []
    stopping = threading.Event()
    thread = threading.Thread(
        target=Journal(redis_connection, name="runner", notify=lines.append).run, args=[stopping], daemon=True
    )
    thread.start()
    yield lines
    stopping.set()
    thread.join(20)
    assert not thread.is_alive()


def wait_for(condition, seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("deadlock detected"),
        OperationalError("server closed the connection unexpectedly"),
        redis.ConnectionError("away"),
        redis.TimeoutError("too slow"),
    ],
    ids=["deadlock", "postgresql", "redis", "timeout"],
)
def test_an_outage_after_any_step_is_waited_for(redis_connection, monkeypatch, error):
    who = customer()
    for number, (module, name) in enumerate(STEPS, start=1):
        settle(redis_connection, *(who.event() for _ in range(5)))
        stopping = threading.Event()

        def stop_when_drained(_seconds, stopping=stopping):
            if redis_connection.xlen(stream_of(who.shard)) == 0:
                stopping.set()

        with monkeypatch.context() as patch:
            patch.setattr(stopping, "wait", stop_when_drained)
            fail_after(patch, module, name, error, times=2)
            journal_of(redis_connection).run(stopping)
        assert books.events() == 5 * number, name
    assert not DeadLetter.objects.exists()
    books.assert_consistent()


def test_a_real_deadlock_is_retried_whole(redis_connection, running, database_url):
    """Another session holds the revenue account and wants the shard's row, which the journal holds."""
    who = customer()
    settle(redis_connection, who.event())
    wait_for(lambda: books.events() == 1)
    with psycopg.connect(database_url) as other:
        other.execute("SET deadlock_timeout = '50ms'")
        other.execute("SELECT FROM billing_ledgeraccount WHERE kind = 'revenue' FOR UPDATE")
        settle(redis_connection, *(who.event() for _ in range(3)))
        wait_for(lambda: books.one("SELECT count(*) FROM pg_locks WHERE NOT granted") > 0)
        try:
            other.execute("SELECT FROM billing_journalshard WHERE shard = %s FOR UPDATE", [who.shard])
        except psycopg.errors.DeadlockDetected:
            other.rollback()
    wait_for(lambda: books.events() == 4)
    assert books.wallet(who.organization.id) == -28
    books.assert_consistent()


def test_it_goes_on_when_postgresql_ends_its_connections(redis_connection, running):
    who = customer()
    for round_number in range(1, 4):
        settle(redis_connection, *(who.event() for _ in range(50)))
        books.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        wait_for(lambda number=round_number: books.events() == 50 * number)
    books.assert_consistent()


def test_it_goes_on_when_redis_has_lost_everything(redis_connection, running):
    who = customer()
    settle(redis_connection, who.event())
    wait_for(lambda: books.events() == 1)
    redis_connection.flushall()
    settle(redis_connection, who.event())
    wait_for(lambda: books.events() == 2)
    redis_connection.xgroup_destroy(stream_of(who.shard), "books")
    settle(redis_connection, who.event())
    wait_for(lambda: books.events() == 3)
    books.assert_consistent()


def test_a_stopped_journal_gives_its_shards_up_at_once(redis_connection, monkeypatch):
    stopping = threading.Event()
    monkeypatch.setattr(stopping, "wait", lambda _seconds: stopping.set())
    journal_of(redis_connection).run(stopping)
    assert not JournalWriter.objects.exists()
    assert JournalShard.objects.count() == 64
    assert not JournalShard.objects.exclude(holder="").exists()


# Two journals


def test_two_journals_share_the_shards_and_book_each_call_once(redis_connection):
    customers = [customer() for _ in range(4)]
    stopping = threading.Event()
    journals = [journal_of(redis_connection, name) for name in ("one", "two")]
    threads = [threading.Thread(target=journal.run, args=[stopping]) for journal in journals]
    for thread in threads:
        thread.start()
    for _ in range(20):
        settle(redis_connection, *(who.event() for _ in range(10) for who in customers))
        if random.random() < 0.5:
            end_leases()  # whoever comes next takes shards over, in the middle of the other's batch
            for journal in journals:
                journal._renew_at = 0.0
        time.sleep(0.02)
    wait_for(lambda: books.events() == 800)
    stopping.set()
    for thread in threads:
        thread.join(20)
    assert not DeadLetter.objects.exists()
    assert sum(books.wallet(who.organization.id) for who in customers) == -5600
    books.assert_consistent()


def test_whoever_lost_the_lease_books_nothing_of_what_it_read(redis_connection):
    who = customer()
    settle(redis_connection, who.event(), who.event())
    slow, quick = journal_of(redis_connection, "slow"), journal_of(redis_connection, "quick")
    batch = read(slow)
    end_leases()
    drain(quick)
    with pytest.raises(shard_leases.LeaseLost):
        slow._commit(batch)
    assert books.events() == 2
    books.assert_consistent()


def test_an_event_that_appears_from_elsewhere_stops_the_batch(redis_connection, monkeypatch):
    """The second guard: even if two writers both found a call new, only one of them inserts it."""
    who = customer()
    event = who.event()
    settle(redis_connection, event)
    drain(journal_of(redis_connection))
    settle(redis_connection, event)
    monkeypatch.setattr(event_rows, "booked_among", lambda *_args: {})
    with pytest.raises(recording.SecondWriter, match="posted already"):
        drain(journal_of(redis_connection))
    free = who.event(cost_nanos=0)
    settle(redis_connection, free)
    connection.close()
    redis_connection.xtrim(stream_of(who.shard), maxlen=1, approximate=False)
    drain(journal_of(redis_connection))
    settle(redis_connection, free)
    with pytest.raises(recording.SecondWriter, match="were there already"):
        drain(journal_of(redis_connection))
    assert books.wallet(who.organization.id) == -7
    assert books.events() == 2


def test_a_poison_entry_among_many_costs_only_itself(redis_connection):
    customers = [customer() for _ in range(3)]
    settle(redis_connection, *(who.event() for _ in range(30) for who in customers))
    settle(redis_connection, customers[0].event(brand_id=2**40))
    settle(redis_connection, *(who.event() for _ in range(30) for who in customers))
    drain(journal_of(redis_connection))
    assert (books.events(), DeadLetter.objects.count()) == (180, 1)
    books.assert_consistent()


def lost_on_its_way(store, name, shard):
    """Redis has delivered, and nobody heard: the client's own second try is told only of what comes after."""
    assert store.xreadgroup(GROUP, name, {stream_of(shard): ">"})


@pytest.mark.parametrize("reader", ["first", "a writer whose lease ran out"])
def test_what_was_delivered_and_never_heard_of_is_booked_before_what_follows(redis_connection, reader):
    one = customer()
    journal = journal_of(redis_connection)
    settle(redis_connection, one.event())
    drain(journal)
    settle(redis_connection, one.event())
    lost_on_its_way(redis_connection, reader, one.shard)
    settle(redis_connection, one.event())
    drain(journal)
    assert books.events() == 3
    assert redis_connection.xpending(stream_of(one.shard), GROUP)["pending"] == 0
    books.assert_consistent()


@pytest.mark.parametrize("reader", ["first", "a writer whose lease ran out"])
def test_what_was_delivered_and_never_heard_of_is_booked_though_nothing_follows(redis_connection, reader):
    one = customer()
    journal = journal_of(redis_connection)
    settle(redis_connection, one.event())
    drain(journal)
    settle(redis_connection, one.event())
    lost_on_its_way(redis_connection, reader, one.shard)
    drain(journal)
    assert books.events() == 1
    journal._renew_at = 0.0  # as every few seconds
    drain(journal)
    assert books.events() == 2


def test_a_correction_that_was_not_heard_of_is_not_taken_for_old(redis_connection):
    """Behind the position of the books it would look as if it had been booked."""
    one = customer()
    journal = journal_of(redis_connection)
    event = one.event()
    settle(redis_connection, event)
    drain(journal)
    settle(
        redis_connection, msgspec.structs.replace(event, output_tokens=6, list_cost_nanos=9, cost_nanos=9), late=True
    )
    lost_on_its_way(redis_connection, "first", one.shard)
    settle(redis_connection, one.event())
    drain(journal)
    assert sorted(books.rows("SELECT kind, sum(cost_nanos)::bigint FROM usage_event GROUP BY 1")) == [
        ("call", 14),
        ("correction", 2),
    ]
    books.assert_consistent()
