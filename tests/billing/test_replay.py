"""What a dead worker left in its WAL is settled by others, each call once, and its file goes when the books have it."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from billing import leases, rebuild, remains, replay, script, wal
from billing.admission import settle_entry
from billing.events import encode
from billing.facts import Facts
from billing.journal import Journal
from billing.models import DeadLetter, UsageEvent
from billing.wal import Wal
from tests.billing import books, settled
from tests.billing.draining import drain
from tests.billing.till import Till

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def customer():
    return settled.customer()


@pytest.fixture
def till(redis_connection, customer):
    return Till(redis_connection, customer)


@pytest.fixture
def journal(redis_connection):
    return Journal(redis_connection, name="tests", notify=lambda line: None)


def dispatched(event, **changes):
    facts = Facts(
        brand_id=event.brand_id,
        rate_id=0,
        rates={"input_picos": 200, "output_picos": 1000},
        endpoint="chat",
        started_at_ms=event.started_at_ms,
        prompt_tokens_max=100,
    )
    fields = {
        "call_id": event.call_id,
        "organization_id": event.organization_id,
        "key_id": event.key_id,
        "model_id": event.model_id,
        "day": event.day,
        "payer": "prepaid",
        "granted": 100,
        "held_nanos": 1_000,
        "facts": facts,
    }
    return wal.line(wal.DISPATCHED, msgspec.json.encode(wal.Dispatched(**(fields | changes))))


def progress(event, **usage):
    return wal.line(
        wal.PROGRESS, json.dumps({"call_id": event.call_id, "running": {"source": "running"} | usage}).encode()
    )


def finished(event):
    return wal.line(wal.SETTLED, encode(event))


def left(folder, *lines, worker="host-1-dead", segment=1):
    """A dead worker's file."""
    path = folder / f"{worker}.{segment:06d}.wal"
    path.write_bytes(wal.line(wal.HEADER, b"{}") + b"".join(lines))
    return path


def booked():
    return {str(row.call_id): row for row in UsageEvent.objects.all()}


def test_a_settled_call_whose_hold_stands_is_charged_as_ever(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    path = left(wal_dir, dispatched(event), finished(event))
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)
    assert path.exists()
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert not path.exists()
    (row,) = booked().values()
    assert (str(row.call_id), row.cost_nanos) == (event.call_id, 7)
    assert script.read_holds(redis_connection, customer.shard) == []
    books.assert_consistent()


def test_a_settled_call_whose_hold_is_lost_comes_late(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    left(wal_dir, dispatched(event), finished(event))
    replay.run(redis_connection, wal_dir)
    drain(journal)
    assert books.wallet(customer.organization.id) == -7
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)


def test_replay_waits_for_what_is_on_the_stream(redis_connection, wal_dir, customer, till, journal):
    event = till.call()
    left(wal_dir, dispatched(event), finished(event))
    assert replay.run(redis_connection, wal_dir) == (0, 1, 0)
    assert replay.run(redis_connection, wal_dir) == (0, 1, 0)
    assert redis_connection.xlen(script.name(customer.shard, script.JOURNAL)) == 1
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)


def test_a_call_that_was_cut_settles_at_its_last_progress(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    left(wal_dir, dispatched(event), progress(event, input=40, output=3), progress(event, input=40, output=9))
    replay.run(redis_connection, wal_dir)
    drain(journal)
    (row,) = booked().values()
    assert (row.uncached_input_tokens, row.output_tokens, row.end_reason) == (40, 9, "lapsed")
    assert row.cost_nanos == -(-(40 * 200 + 9 * 1000) // 1000)
    assert leases.sweep(redis_connection) == 0
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)


def test_a_call_of_which_nothing_was_heard_costs_nothing(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    left(wal_dir, dispatched(event))
    replay.run(redis_connection, wal_dir)
    drain(journal)
    (row,) = booked().values()
    assert (row.cost_nanos, row.end_reason, row.usage_source) == (0, "lapsed", "none")
    assert script.read_holds(redis_connection, customer.shard) == []


def test_a_call_without_an_s_line_that_redis_settled_stays_as_it_was(
    redis_connection, wal_dir, customer, till, journal
):
    """A full disk: the worker settled in Redis alone."""
    event = till.call()
    left(wal_dir, dispatched(event), progress(event, input=1, output=1))
    assert replay.run(redis_connection, wal_dir) == (0, 1, 0)
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert [row.cost_nanos for row in booked().values()] == [7]


def test_what_lapsed_is_corrected_to_what_its_worker_had_charged(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    lapsed = msgspec.structs.replace(event, output_tokens=1, list_cost_nanos=3, cost_nanos=3, end_reason="lapsed")
    till.reserve(event)
    till.settle(lapsed)
    drain(journal)
    left(wal_dir, dispatched(event), finished(event))
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)
    assert replay.run(redis_connection, wal_dir) == (0, 1, 0)
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert sorted((row.kind, row.cost_nanos) for row in booked().values()) == [("call", 3), ("correction", 4)]
    books.assert_consistent()


def test_what_lapsed_is_corrected_to_what_its_worker_had_delivered(redis_connection, wal_dir, customer, till, journal):
    """It slept past its lease, woke up, delivered more, and was killed before it could settle."""
    event = customer.event()
    lapsed = msgspec.structs.replace(event, output_tokens=1, list_cost_nanos=3, cost_nanos=3, end_reason="lapsed")
    till.reserve(event)
    till.settle(lapsed)
    drain(journal)
    left(wal_dir, dispatched(event), progress(event, input=10, output=1), progress(event, input=10, output=5))
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert sorted((row.kind, row.output_tokens) for row in booked().values()) == [("call", 1), ("correction", 4)]
    assert sum(row.cost_nanos for row in booked().values()) == (10 * 200 + 5 * 1000) // 1000
    books.assert_consistent()


def test_what_lapsed_at_more_than_its_last_line_stays(redis_connection, wal_dir, customer, till, journal):
    """A lease takes the latest usage with it; a line is written only so often."""
    event = customer.event()
    till.reserve(event)
    till.settle(msgspec.structs.replace(event, list_cost_nanos=900, cost_nanos=900, end_reason="lapsed"))
    drain(journal)
    left(wal_dir, dispatched(event), progress(event, input=1, output=1))
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert [row.cost_nanos for row in booked().values()] == [900]


def test_a_torn_last_line_is_ignored(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    left(wal_dir, dispatched(event), progress(event, input=10, output=2), finished(event)[:-5])
    replay.run(redis_connection, wal_dir)
    drain(journal)
    (row,) = booked().values()
    assert (row.output_tokens, row.end_reason) == (2, "lapsed")


def test_a_call_is_read_over_all_segments(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    paths = [left(wal_dir, dispatched(event)), left(wal_dir, finished(event), segment=2)]
    replay.run(redis_connection, wal_dir)
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 2)
    assert not any(path.exists() for path in paths)
    assert [row.end_reason for row in booked().values()] == ["stop"]


async def test_a_living_workers_file_is_left_alone(redis_connection, wal_dir):
    log = Wal(wal_dir)
    await log.append(wal.DISPATCHED, b'{"call_id":"x"}')
    assert await asyncio.to_thread(_run, redis_connection, wal_dir) == (0, 0, 0)
    assert log.path.exists()
    log.close()


def _run(client, folder):
    from django.db import connection

    try:
        return replay.run(client, folder)
    finally:
        connection.close()


async def test_a_living_workers_full_segment_goes_when_its_calls_are_booked(redis_connection, wal_dir, monkeypatch):
    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", 10)
    log = Wal(wal_dir)
    customer = await asyncio.to_thread(settled.customer)
    event = customer.event()
    await log.append(wal.SETTLED, encode(event))
    await log.append(wal.PROGRESS, b'{"call_id":"x"}')
    _, second, third = wal.files(wal_dir)
    assert await asyncio.to_thread(_run, redis_connection, wal_dir) == (0, 0, 1)  # the one without a call
    assert [second, third] == wal.files(wal_dir)
    await asyncio.to_thread(_booked_by_hand, redis_connection, event)
    assert await asyncio.to_thread(_run, redis_connection, wal_dir) == (0, 0, 1)
    assert wal.files(wal_dir) == [third]
    log.close()


@contextmanager
def alive(path):
    """As long as the block runs, the worker of this newest segment lives; then it is killed."""
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_living_workers_segment_stays_while_a_call_in_it_runs(redis_connection, wal_dir, customer, till, journal):
    """Its beginning stands in another segment."""
    event = customer.event()
    till.reserve(event)
    left(wal_dir, dispatched(event))
    left(wal_dir, progress(event, input=5, output=20), segment=2)
    with alive(left(wal_dir, segment=3)):
        assert replay.run(redis_connection, wal_dir) == (0, 0, 0)
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)
    drain(journal)
    assert [row.output_tokens for row in booked().values()] == [20]
    assert replay.run(redis_connection, wal_dir) == (0, 0, 3)


def test_a_living_workers_segments_stay_until_what_lapsed_is_corrected(
    redis_connection, wal_dir, customer, till, journal
):
    """It slept past its lease, woke up, delivered more, and was killed: the newest segment says how much."""
    event = customer.event()
    till.reserve(event)
    till.settle(msgspec.structs.replace(event, output_tokens=1, list_cost_nanos=3, cost_nanos=3, end_reason="lapsed"))
    drain(journal)
    left(wal_dir, dispatched(event))
    left(wal_dir, progress(event, input=10, output=1), segment=2)
    with alive(left(wal_dir, progress(event, input=10, output=5), segment=3)):
        assert replay.run(redis_connection, wal_dir) == (0, 0, 0)
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)
    drain(journal)
    assert sum(row.output_tokens for row in booked().values()) == 5
    books.assert_consistent()


def test_a_living_workers_segments_go_when_what_lapsed_is_settled(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    till.settle(msgspec.structs.replace(event, end_reason="lapsed"))
    drain(journal)
    left(wal_dir, dispatched(event), progress(event, input=1, output=1))
    with alive(left(wal_dir, finished(event), segment=2)):
        assert replay.run(redis_connection, wal_dir) == (0, 0, 1)


def _booked_by_hand(client, event):
    from django.db import connection

    try:
        settled.settle(client, event)
        drain(Journal(client, name="tests", notify=lambda line: None))
    finally:
        connection.close()


def test_a_dead_letter_is_kept_whole_so_the_file_may_go(redis_connection, wal_dir, customer, till, journal):
    event = customer.event()
    till.reserve(event)
    left(wal_dir, dispatched(event), finished(event))
    bad = settle_entry(event, encode(event).replace(b'"cost_nanos":7', b'"cost_nanos":6'))
    script.run(redis_connection, [bad])
    drain(journal)
    assert DeadLetter.objects.count() == 1
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)


def test_while_the_shard_is_closed_only_a_rebuild_brings_calls_in(redis_connection, wal_dir, customer, till, journal):
    settled_one, cut = customer.event(), customer.event()
    left(wal_dir, dispatched(settled_one), finished(settled_one), dispatched(cut), progress(cut, input=5, output=1))
    redis_connection.delete(script.name(customer.shard, script.EPOCH))
    assert replay.run(redis_connection, wal_dir) == (0, 2, 0)
    rebuild.ensure_epochs(redis_connection)
    assert replay.run(redis_connection, wal_dir) == (0, 2, 0)  # on the stream
    entries = redis_connection.xrange(script.name(customer.shard, script.JOURNAL))
    assert [fields[b"late"] for _, fields in entries] == [b"0", b"0"]
    drain(journal)
    assert replay.run(redis_connection, wal_dir) == (0, 0, 1)
    assert books.wallet(customer.organization.id) == -7 - 2


def test_one_replayer_per_host(redis_connection, wal_dir, customer, till):
    event = customer.event()
    left(wal_dir, dispatched(event), finished(event))
    with remains.alone(wal_dir) as is_ours:
        assert is_ours
        assert replay.run(redis_connection, wal_dir) == (0, 0, 0)
    assert replay.run(redis_connection, wal_dir) == (1, 1, 0)


GOES_ON = """
    import asyncio, sys
    from pathlib import Path
    from billing import wal
    wal.SEGMENT_BYTES_MAX = 200
    async def main():
        log = wal.Wal(Path(sys.argv[1]))
        for number in range(10_000):
            await log.append(wal.PROGRESS, b'{"call_id":"x"}')
            if number == 10: print("going", flush=True)
    asyncio.run(main())
"""


def test_a_worker_that_goes_from_segment_to_segment_is_never_taken_for_dead(wal_dir):
    argv = [sys.executable, "-c", textwrap.dedent(GOES_ON), str(wal_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "going\n"
            for _ in range(40):
                if process.poll() is not None:
                    break
                with remains.dead(wal_dir) as found:
                    assert found == [] or process.poll() is not None
        finally:
            process.kill()
    with remains.dead(wal_dir) as found:
        (worker,) = {each.worker for each in found}
    assert remains.is_dead(wal_dir, worker)
