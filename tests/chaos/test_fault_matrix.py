"""Rows 1 to 15 of the fault matrix, one test each: real processes die at a named point, and afterwards every call that
reached the engine is charged exactly once, the books agree with Redis, and nothing is held.

The demo engine's own log is the truth about what was made.
"""

import json
import os
import resource
import signal
import threading
import time

import pytest

from billing import remains, script, wal
from billing.admission import PROGRESS_MS
from billing.models import DeadLetter, UsageEvent
from billing.reconcile import reconcile
from keys.caller import SHARDS
from tests.billing import books
from tests.chaos.processes import wait_for

BUSY_TOKENS = 4
"""What a busy machine adds to a progress interval."""

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(240)]


def made(shop):
    """The engine's own log of what it generated, by call id."""
    return {entry["request_id"]: entry for entry in list(shop.inference.engine.log) if entry["end"] != "refused"}


def true_cost(entry):
    cached = entry["cached_tokens"]
    return (entry["prompt_tokens"] - cached) * 200 + cached * 50 + entry["output_tokens"] * 600


def cut_fairly(row, entry, *, tokens, rate):
    """What is charged of a stream that was cut when `tokens` had come: all of its prompt, and of its output what had
    come but for one progress interval at most; priced to the nano. `entry`: the engine's log."""
    prompt = row.uncached_input_tokens + (row.cache_read_tokens or 0)
    assert prompt == entry["prompt_tokens"]
    assert tokens - rate * PROGRESS_MS / 1000 - BUSY_TOKENS <= row.output_tokens <= tokens <= entry["output_tokens"]
    assert row.cost_nanos == prompt * 200 - (row.cache_read_tokens or 0) * 150 + row.output_tokens * 600


def delivered(got):
    """Tokens in a stream's bytes."""
    return got.count(b'"content":"') - got.count(b'"content":""')


def charged(call_id):
    return sum(row.cost_nanos for row in UsageEvent.objects.all() if call_id in (str(row.call_id), str(row.corrects)))


def booked():
    return sorted(str(row.call_id) for row in UsageEvent.objects.filter(kind="call"))


def holds(shop):
    return [hold for shard in range(SHARDS) for hold in script.read_holds(shop.store, shard)]


def at_rest(shop, calls):
    """Once so many calls are booked, nothing is held, no dead worker's file is left, and the books agree."""
    wait_for(lambda: len(booked()) >= calls and not holds(shop), what=f"{calls} calls in the books")
    assert len(booked()) == calls
    books.assert_consistent()
    wait_for(lambda: not list(reconcile(shop.store)), 10, "agreement: " + str(list(reconcile(shop.store))))


def no_dead_files(processes):
    def none():
        with remains.dead(processes.wal_dir) as found:
            return not found

    wait_for(none, what="the retirement of the dead worker's file")


def progressed(processes):
    """The files that tell of output on its way."""
    return [path for path in wal.files(processes.wal_dir) if path.exists() and _tells_of_output(path)]


def _tells_of_output(path):
    return any(line.kind == wal.PROGRESS and b'"output":' in line.payload for line in wal.read(path).lines)


def last_heard(path):
    """Output tokens in a file's last progress line."""
    lines = [line.payload for line in wal.read(path).lines if line.kind == wal.PROGRESS]
    return json.loads(lines[-1])["running"].get("output", 0)


def lease_runs_out(shop):
    """As if a minute had passed."""
    for hold in holds(shop):
        shop.store.zadd(script.name(hold.organization_id % SHARDS, script.LEASES), {hold.call_id: 1})


def test_1_killed_before_the_reserve(shop, processes):
    processes.journal()
    proxy = processes.worker("before_reserve")
    proxy.cut()
    assert proxy.wait() == -signal.SIGKILL
    assert holds(shop) == []
    no_dead_files(processes)
    at_rest(shop, 0)
    assert made(shop) == {}


def test_2_killed_after_the_reserve(shop, processes):
    processes.journal()
    proxy = processes.worker("after_reserve")
    proxy.cut()
    assert proxy.wait() == -signal.SIGKILL
    assert len(holds(shop)) == 1
    lease_runs_out(shop)
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.cost_nanos, row.end_reason) == (0, "lapsed")
    assert made(shop) == {}


def test_3_killed_after_the_d_line(shop, processes):
    processes.journal()
    proxy = processes.worker("after_dispatched_line")
    proxy.cut()
    assert proxy.wait() == -signal.SIGKILL
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.cost_nanos, row.end_reason, row.usage_source) == (0, "lapsed", "none")
    no_dead_files(processes)


def test_4_killed_in_the_middle_of_a_stream(shop, processes):
    shop.inference.engine.control.tokens_per_second = 40
    processes.journal()
    proxy, got = processes.worker(), []
    stream = threading.Thread(target=lambda: got.append(proxy.cut(stream=True, max_tokens=200)))
    stream.start()
    wait_for(lambda: progressed(processes))
    time.sleep(0.4)
    proxy.process.kill()
    stream.join()
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.end_reason, row.usage_source) == ("lapsed", "running")
    assert row.output_tokens > 0
    cut_fairly(row, made(shop)[str(row.call_id)], tokens=delivered(got[0]), rate=40)


def test_4_killed_at_its_second_progress_line(shop, processes):
    shop.inference.engine.control.tokens_per_second = 40
    proxy = processes.worker("mid_stream")
    got = proxy.cut(stream=True, max_tokens=200)
    assert proxy.wait() == -signal.SIGKILL
    heard = last_heard(wal.files(processes.wal_dir)[0])
    processes.journal()
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.end_reason, row.output_tokens) == ("lapsed", heard)
    cut_fairly(row, made(shop)[str(row.call_id)], tokens=delivered(got), rate=40)


def test_5_killed_after_the_s_line_before_settling(shop, processes):
    processes.journal()
    proxy = processes.worker("after_settle_line")
    proxy.cut()
    assert proxy.wait() == -signal.SIGKILL
    at_rest(shop, 1)
    ((call_id, entry),) = made(shop).items()
    assert charged(call_id) == true_cost(entry) > 0
    no_dead_files(processes)


def test_5_under_a_streamed_response(shop, processes):
    processes.journal()
    proxy = processes.worker("after_settle_line")
    got = proxy.cut_response()
    assert proxy.wait() == -signal.SIGKILL
    assert b"event: response.output_text.delta" in got
    assert b"event: response.completed" not in got  # the charge was on disk before it
    at_rest(shop, 1)
    ((call_id, entry),) = made(shop).items()
    assert charged(call_id) == true_cost(entry) > 0
    no_dead_files(processes)


def test_6_killed_after_settling(shop, processes):
    processes.journal()
    proxy = processes.worker("after_settle")
    proxy.cut()
    assert proxy.wait() == -signal.SIGKILL
    at_rest(shop, 1)
    ((call_id, entry),) = made(shop).items()
    assert charged(call_id) == true_cost(entry) > 0
    no_dead_files(processes)


def test_7_stopped_with_long_streams(shop, processes):
    shop.inference.engine.control.tokens_per_second = 20
    processes.journal()
    proxy = processes.gunicorn(DRAIN_SECONDS="1")
    streams = [threading.Thread(target=proxy.cut, kwargs={"stream": True, "max_tokens": 400}) for _ in range(3)]
    for stream in streams:
        stream.start()
    wait_for(lambda: len(holds(shop)) == 3)
    time.sleep(1)
    proxy.process.terminate()
    assert proxy.process.wait(60) == 0
    for stream in streams:
        stream.join()
    at_rest(shop, 3)
    rows = {str(row.call_id): row for row in UsageEvent.objects.all()}
    for call_id, entry in made(shop).items():
        cut_fairly(rows.pop(call_id), entry, tokens=entry["output_tokens"], rate=20)
    assert rows == {}
    no_dead_files(processes)


def test_8_stopped_and_woken_after_its_leases_ran_out(shop, processes):
    shop.inference.engine.control.tokens_per_second = 40
    processes.journal()
    proxy = processes.worker()
    stream = threading.Thread(target=proxy.cut, kwargs={"stream": True, "max_tokens": 60})
    stream.start()
    wait_for(lambda: progressed(processes))
    proxy.process.send_signal(signal.SIGSTOP)
    lease_runs_out(shop)
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert row.end_reason == "lapsed"
    proxy.process.send_signal(signal.SIGCONT)
    stream.join()
    wait_for(lambda: UsageEvent.objects.filter(kind="correction").count() == 1, what="the correction")
    ((call_id, entry),) = made(shop).items()
    assert charged(call_id) == true_cost(entry) > row.cost_nanos
    at_rest(shop, 1)
    assert UsageEvent.objects.count() == 2


def test_9_a_worker_whose_loop_stands_still_is_replaced(shop, processes):
    shop.inference.engine.control.tokens_per_second = 40
    processes.journal()
    proxy, got = processes.gunicorn("--timeout", "3"), []
    stream = threading.Thread(target=lambda: got.append(proxy.cut(stream=True, max_tokens=300)))
    stream.start()
    wait_for(lambda: progressed(processes))
    time.sleep(1)
    pid = int(wal.files(processes.wal_dir)[0].name.split("-")[-2])
    os.kill(pid, signal.SIGSTOP)
    stream.join()
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.end_reason, row.usage_source) == ("lapsed", "running")
    assert row.output_tokens > 0
    cut_fairly(row, made(shop)[str(row.call_id)], tokens=delivered(got[0]), rate=40)
    wait_for(lambda: _answers(proxy), what="the next worker")
    at_rest(shop, 2)


def _answers(proxy):
    return b'"usage"' in proxy.cut(max_tokens=5)


def test_10_a_full_disk_refuses_new_work_and_settles_what_runs(shop, processes):
    shop.inference.engine.control.tokens_per_second = 20
    processes.journal()
    proxy = processes.worker()
    stream = threading.Thread(target=proxy.cut, kwargs={"stream": True, "max_tokens": 60})
    stream.start()
    (path,) = wait_for(lambda: progressed(processes))
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
    wait_for(lambda: proxy.chat().status_code == 503, what="a refusal")
    stream.join()
    at_rest(shop, 1)
    ((call_id, entry),) = made(shop).items()
    assert charged(call_id) == true_cost(entry)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: proxy.chat(max_tokens=5).status_code == 200, what="new work")


def test_11_a_torn_last_line_is_ignored(shop, processes):
    shop.inference.engine.control.tokens_per_second = 40
    proxy, got = processes.worker(), []
    stream = threading.Thread(target=lambda: got.append(proxy.cut(stream=True, max_tokens=200)))
    stream.start()
    (path,) = wait_for(lambda: progressed(processes))
    proxy.process.kill()
    stream.join()
    heard = last_heard(path)
    with path.open("ab") as file:
        file.write(b'S 0123abcd {"call_id":"to')
    processes.journal()
    at_rest(shop, 1)
    (row,) = UsageEvent.objects.all()
    assert (row.end_reason, row.output_tokens) == ("lapsed", heard)
    assert heard > 0
    cut_fairly(row, made(shop)[str(row.call_id)], tokens=delivered(got[0]), rate=40)
    no_dead_files(processes)


@pytest.mark.parametrize(("row", "point"), [(12, "before_commit"), (13, "after_commit")])
def test_12_and_13_the_journal_is_killed_about_its_commit(shop, processes, row, point):
    proxy = processes.worker()
    journal = processes.journal(point)
    calls = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(5)]
    assert journal.wait(60) == -signal.SIGKILL
    assert (len(booked()) > 0) is (point == "after_commit")
    books.end_leases()
    processes.journal()
    at_rest(shop, 5)
    truth = made(shop)
    assert {call_id: charged(call_id) for call_id in calls} == {call_id: true_cost(truth[call_id]) for call_id in calls}


def test_14_two_journals_book_each_call_once(shop, processes):
    proxy = processes.worker()
    processes.journal()
    processes.journal()
    calls = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(20)]
    at_rest(shop, 20)
    truth = made(shop)
    assert {call_id: charged(call_id) for call_id in calls} == {call_id: true_cost(truth[call_id]) for call_id in calls}


def test_15_a_poison_entry_becomes_a_dead_letter_and_the_others_go_on(shop, processes):
    proxy = processes.worker()
    shard = shop.organization.id % SHARDS
    shop.store.xadd(script.name(shard, script.JOURNAL), {"o": "1", "e": "no event"})
    calls = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(3)]
    processes.journal()
    wait_for(lambda: len(booked()) == 3)
    assert sorted(calls) == booked()
    assert DeadLetter.objects.count() == 1
    assert [str(difference) for difference in reconcile(shop.store)] != []  # it is named until somebody acts
    books.assert_consistent()
