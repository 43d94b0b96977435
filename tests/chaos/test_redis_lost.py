"""Redis loses everything under running calls: nobody is admitted until it is rebuilt, and each call is charged once."""

import signal
import threading
import time

import pytest

from billing.models import UsageEvent
from billing.reconcile import reconcile
from tests.billing import books
from tests.chaos.processes import wait_for
from tests.chaos.test_fault_matrix import at_rest, charged, holds, made, no_dead_files, progressed, true_cost

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.timeout(240)]


def test_18_everything_is_flushed_under_streams(shop, processes):
    shop.inference.engine.control.tokens_per_second = 20
    proxy = processes.worker()
    done = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(5)]  # nobody has booked them
    streams = [threading.Thread(target=proxy.cut, kwargs={"stream": True, "max_tokens": 120}) for _ in range(4)]
    for stream in streams:
        stream.start()
    wait_for(lambda: len(holds(shop)) == 4 and progressed(processes))
    held = sum(hold.held_nanos for hold in holds(shop))
    shop.store.flushall()
    assert proxy.chat().status_code == 503
    lost_at = time.monotonic()
    processes.journal()
    wait_for(lambda: proxy.chat(max_tokens=8).status_code == 200, what="a rebuilt Redis")
    print(f"closed for {time.monotonic() - lost_at:.2f} s, the start of the journal included")
    assert sum(hold.held_nanos for hold in holds(shop)) >= held or not all(stream.is_alive() for stream in streams)
    for stream in streams:
        stream.join()
    at_rest(shop, 10)
    truth = made(shop)
    assert set(done) <= truth.keys()
    assert {call_id: charged(call_id) for call_id in truth} == {call_id: true_cost(truth[call_id]) for call_id in truth}
    assert not UsageEvent.objects.exclude(kind="call").exists()


def test_17_everything_is_lost_and_a_worker_with_it(shop, processes):
    """The dead worker's charges are in its WAL alone."""
    proxy, other = processes.worker(), processes.worker()
    done = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(5)]
    shop.store.flushall()
    proxy.process.send_signal(signal.SIGKILL)
    proxy.wait()
    processes.journal()
    wait_for(lambda: other.chat(max_tokens=8).status_code == 200, what="a rebuilt Redis")
    at_rest(shop, 6)
    truth = made(shop)
    assert {call_id: charged(call_id) for call_id in done} == {call_id: true_cost(truth[call_id]) for call_id in done}
    no_dead_files(processes)


def test_without_replay_the_charges_would_be_lost(shop, processes):
    """The control: what the test above sees can be missed."""
    proxy = processes.worker()
    done = [proxy.chat(max_tokens=8).headers["x-request-id"] for _ in range(5)]
    shop.store.flushall()
    proxy.process.kill()
    proxy.wait()
    for path in processes.wal_dir.glob("*.wal"):
        path.unlink()
    processes.journal()
    other = processes.worker()
    wait_for(lambda: other.chat(max_tokens=8).status_code == 200, what="a rebuilt Redis")
    at_rest(shop, 1)
    assert [charged(call_id) for call_id in done] == [0] * 5
    assert list(reconcile(shop.store)) == []  # the engine's log alone could tell
    books.assert_consistent()
