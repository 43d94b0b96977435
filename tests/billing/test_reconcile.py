"""Reconcile finds nothing where nothing is wrong, also under traffic; and names each kind of difference by itself."""

from __future__ import annotations

import threading

import msgspec
import pytest
from django.core.management import call_command
from django.db import connection

from billing import reconcile, reconcile_counters, script
from billing.journal import Journal, stream_of
from billing.models import CounterChange, LedgerAccount, Posting, PostingLine, UsageDay, UsageQuarter
from billing.reconcile_books import Difference
from tests.billing import books
from tests.billing.draining import drain
from tests.billing.settled import customer, entry, late
from tests.billing.till import Till

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def journal(redis_connection) -> Journal:
    return Journal(redis_connection, name="first", notify=lambda _line: None)


@pytest.fixture
def till(redis_connection) -> Till:
    return Till(redis_connection, customer())


def found(redis_connection) -> list[Difference]:
    return list(reconcile.reconcile(redis_connection))


def last_count(redis_connection) -> int | None:
    last = reconcile.last(redis_connection)
    return last and last.differences


def only(redis_connection) -> Difference:
    differences = found(redis_connection)
    assert len(differences) == 1, [str(difference) for difference in differences]
    return differences[0]


# Where nothing is wrong


def test_an_empty_installation_agrees(redis_connection):
    assert found(redis_connection) == []
    assert last_count(redis_connection) == 0


def test_calls_agree_before_during_and_after_the_journal(redis_connection, journal, till):
    held = till.customer.event()
    till.reserve(held)
    for _ in range(3):
        till.call()
    assert found(redis_connection) == []
    drain(journal)
    till.call(cost_nanos=0, payer="included")
    assert found(redis_connection) == []
    drain(journal)
    assert found(redis_connection) == []
    till.settle(held)
    drain(journal)
    assert found(redis_connection) == []
    assert books.wallet(till.customer.organization.id) == -28


def test_entries_booked_and_not_yet_deleted_agree(redis_connection, journal, till, monkeypatch):
    till.call()
    monkeypatch.setattr("billing.counters.forget_journaled", lambda *_args: None)
    journal.turn()
    journal.turn()
    assert books.events() == 1
    assert redis_connection.xlen(stream_of(till.shard)) == 1
    assert found(redis_connection) == []


def test_months_that_begin_on_another_day_agree(redis_connection, journal):
    till = Till(redis_connection, customer(month_anchor=31))
    lapsed = till.call()
    late(redis_connection, msgspec.structs.replace(lapsed, cost_nanos=9, list_cost_nanos=9, output_tokens=6))
    till.call()
    assert found(redis_connection) == []
    drain(journal)
    assert found(redis_connection) == []
    (month,) = redis_connection.scan_iter(script.name(till.shard, f"w:{till.customer.organization.id}:m*"))
    assert month.endswith(b"a31")
    redis_connection.hincrby(month, f"m{till.customer.model.id}.req.p", 1)
    assert only(redis_connection).check == "counter"


def test_changes_on_their_way_agree(redis_connection, journal, till, monkeypatch):
    lapsed = till.call()
    monkeypatch.setattr("billing.outbox.apply_changes", lambda *_args: 0)
    late(redis_connection, msgspec.structs.replace(lapsed, cost_nanos=9, list_cost_nanos=9, output_tokens=6))
    drain(journal)
    change = CounterChange.objects.get()
    assert change.applied_at is None
    assert found(redis_connection) == []
    assert script.apply_change_sync(redis_connection, change) == "applied"
    assert found(redis_connection) == []
    assert redis_connection.hget(script.name(till.shard, f"a:{lapsed.organization_id}"), "bal") == b"-9"


def overtaken(monkeypatch, times: int) -> list[int]:
    """As if the journal had booked something newer right after Redis was read."""
    readings: list[int] = []
    read_books = reconcile_counters._read_books

    def read(shard, counters):
        books_read = read_books(shard, counters)
        readings.append(shard)
        if len(readings) <= times:
            books_read.last_stream_id = "9999999999999-0"
            books_read.balances.clear()
        return books_read

    monkeypatch.setattr(reconcile_counters, "_read_books", read)
    return readings


def test_a_reading_that_the_journal_overtook_is_made_again(redis_connection, booked, monkeypatch):
    readings = overtaken(monkeypatch, 2)
    assert found(redis_connection) == []
    assert len(readings) == 3


def test_a_shard_that_never_rests_is_named(redis_connection, booked, monkeypatch):
    overtaken(monkeypatch, 1_000)
    monkeypatch.setattr(reconcile_counters, "PAUSE_SECONDS", 0)
    assert only(redis_connection).check == "reading"


def test_a_backlog_too_long_to_compare_is_named(redis_connection, booked, monkeypatch):
    monkeypatch.setattr(reconcile_counters, "ENTRIES_MAX", 2)
    for _ in range(3):
        booked.call()
    assert only(redis_connection).check == "backlog"


def test_it_agrees_under_traffic(redis_connection):
    tills = [Till(redis_connection, customer()) for _ in range(3)]
    stopping = threading.Event()
    journal = Journal(redis_connection, name="runner", notify=lambda _line: None)
    threads = [threading.Thread(target=journal.run, args=[stopping])]
    threads += [threading.Thread(target=lambda till=till: traffic(till, stopping)) for till in tills]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            assert [str(difference) for difference in found(redis_connection)] == []
    finally:
        stopping.set()
        for thread in threads:
            thread.join(10)
    assert books.events() > 0


def traffic(till: Till, stopping: threading.Event) -> None:
    while not stopping.wait(0.002):
        till.call()
    connection.close()


# Each kind of difference


@pytest.fixture
def booked(redis_connection, journal, till: Till) -> Till:
    till.call()
    drain(journal)
    assert found(redis_connection) == []
    return till


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # past the triggers, as an owner could go
        cursor.execute(statement)
        cursor.execute("SET session_replication_role = DEFAULT")


def test_an_event_that_vanished(redis_connection, booked):
    execute("DELETE FROM usage_event")
    checks = {difference.check for difference in found(redis_connection)}
    assert checks == {"rollup by day", "rollup by quarter", "events and postings"}


def test_an_event_that_was_changed(redis_connection, booked):
    execute("UPDATE usage_event SET cost_nanos = 8")
    texts = [str(difference) for difference in found(redis_connection)]
    assert any("events and postings" in text and "expected 8, found 7 paid, 7 earned" in text for text in texts)
    assert any("rollup by day: cost_nanos" in text and "expected 8, found 7" in text for text in texts)


@pytest.mark.parametrize(("model", "check"), [(UsageDay, "rollup by day"), (UsageQuarter, "rollup by quarter")])
def test_a_rollup_that_lost_tokens(redis_connection, booked, model, check):
    model.objects.update(output_tokens=4)
    differences = found(redis_connection)
    assert (differences[0].check, differences[0].expected, differences[0].found) == (check, 5, 4)
    counters = {difference.check for difference in differences[1:]}
    assert counters == ({"counter"} if model is UsageDay else set())


def test_a_rollup_that_nothing_stands_behind(redis_connection, booked):
    row = UsageQuarter.objects.get()
    row.pk, row.key_id = None, row.key_id + 1
    row.save()
    assert {difference.check for difference in found(redis_connection)} == {"rollup by quarter"}


def test_a_histogram_that_lost_a_call(redis_connection, booked):
    UsageQuarter.objects.update(duration_histogram=[])
    assert "durations" in only(redis_connection).subject


def test_a_balance_that_is_not_the_sum_of_its_lines(redis_connection, booked):
    LedgerAccount.objects.filter(kind="revenue").update(balance_nanos=8)
    difference = only(redis_connection)
    assert (difference.check, difference.expected, difference.found) == ("balance", 7, 8)


def test_a_wallet_that_moved_by_itself_differs_from_its_lines_and_from_redis(redis_connection, booked):
    LedgerAccount.objects.filter(kind="wallet").update(balance_nanos=-6)
    assert [difference.check for difference in found(redis_connection)] == ["balance", "counter balance"]


def test_a_posting_that_does_not_sum_to_zero(redis_connection, booked):
    line = PostingLine.objects.order_by("id")[0]
    execute(f"UPDATE billing_postingline SET amount_nanos = amount_nanos + 1 WHERE id = {line.id}")
    execute(f"UPDATE billing_ledgeraccount SET balance_nanos = balance_nanos + 1 WHERE id = {line.account_id}")
    checks = [difference.check for difference in found(redis_connection)]
    assert "posting" in checks
    assert "events and postings" in checks


def test_a_posting_for_calls_that_nobody_made(redis_connection, booked):
    kept = Posting.objects.get()
    execute(
        "INSERT INTO billing_posting (brand_id, organization_id, kind, reference, memo, posted_at)"
        " SELECT brand_id, organization_id, kind, 'usage:invented', '', posted_at FROM billing_posting"
        f" WHERE id = {kept.id}"
    )
    texts = [str(difference) for difference in found(redis_connection)]
    assert any("usage:invented" in text and "no events" in text for text in texts)


def test_a_gap_in_the_numbered_changes(redis_connection, booked):
    LedgerAccount.objects.filter(kind="wallet").update(changes=2)
    assert only(redis_connection).check == "counter changes"


def test_a_dead_letter(redis_connection, journal, till):
    redis_connection.xadd(stream_of(till.shard), entry(till.customer.event(), bal=1, late=True))
    drain(journal)
    difference = only(redis_connection)
    assert difference.check == "dead letter"


def test_a_balance_in_redis(redis_connection, booked):
    redis_connection.hincrby(script.name(booked.shard, f"a:{booked.customer.organization.id}"), "bal", 1)
    difference = only(redis_connection)
    assert (difference.check, difference.expected, difference.found) == ("counter balance", -7, -6)


@pytest.mark.parametrize("window", ["d{day}", "m{month}", "life"])
def test_a_counter_in_redis(redis_connection, booked, window):
    event_day = UsageDay.objects.get().day
    window = window.format(day=f"{event_day:%Y%m%d}", month=f"{event_day:%Y%m}")
    key = script.name(booked.shard, f"w:{booked.customer.organization.id}:{window}")
    field = next(name for name in sorted(redis_connection.hkeys(key)) if name.endswith(b".p"))
    redis_connection.hincrby(key, field, 3)
    difference = only(redis_connection)
    assert difference.check == "counter"
    assert difference.subject.endswith(field.decode().removesuffix(".p"))


def test_a_charge_that_never_reached_the_stream(redis_connection, till):
    event = till.call()
    redis_connection.delete(stream_of(till.shard))
    checks = {difference.check for difference in found(redis_connection)}
    assert checks == {"counter balance", "counter"}
    assert event


def test_money_held_by_nobody(redis_connection, booked):
    redis_connection.hincrby(script.name(booked.shard, f"a:{booked.customer.organization.id}"), "held", 5)
    assert only(redis_connection).check == "held balance"


def test_tokens_held_by_nobody(redis_connection, booked):
    event = booked.customer.event()
    booked.reserve(event)
    assert found(redis_connection) == []
    redis_connection.hdel(script.name(booked.shard, script.HOLDS), event.call_id)
    checks = [difference.check for difference in found(redis_connection)]
    assert checks.count("lease") == 1
    assert "held counter" in checks


def test_a_hold_without_a_lease(redis_connection, booked):
    event = booked.customer.event()
    booked.reserve(event)
    redis_connection.zrem(script.name(booked.shard, script.LEASES), event.call_id)
    difference = only(redis_connection)
    assert (difference.check, difference.found) == ("lease", "a hold without one")


def test_a_change_number_that_nobody_gave(redis_connection, booked):
    redis_connection.hset(script.name(booked.shard, f"a:{booked.customer.organization.id}"), "seq", 5)
    assert only(redis_connection).check == "change number"


def test_a_shard_that_is_closed(redis_connection, booked):
    redis_connection.set(script.name(booked.shard, script.EPOCH), "1:another")
    assert only(redis_connection).check == "epoch"


# The command


def test_the_command_exits_by_what_it_finds(redis_connection, booked, capsys):
    call_command("reconcile")
    assert "agree" in capsys.readouterr().out
    redis_connection.hincrby(script.name(booked.shard, f"a:{booked.customer.organization.id}"), "bal", 1)
    with pytest.raises(SystemExit) as exit_:
        call_command("reconcile")
    assert exit_.value.code == 1
    captured = capsys.readouterr()
    assert "counter balance: organization" in captured.out
    assert "1 difference" in captured.err
    assert last_count(redis_connection) == 1


def test_the_command_opens_a_redis_that_has_just_started(redis_connection, booked, capsys):
    redis_connection.set(script.name(booked.shard, script.EPOCH), "1:another")
    call_command("reconcile")
    assert "agree" in capsys.readouterr().out
