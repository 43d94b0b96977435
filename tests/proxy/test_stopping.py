"""A server that stops, and stores that are away: nobody is left without an answer, nothing is left unsettled."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing import remains, wal
from proxy import worker
from proxy.metrics import Metrics
from tests.proxy.shop import Gateway, Shop, read_events, serve

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_stop_lets_short_calls_end_and_cuts_long_ones_in_words(shop: Shop) -> None:
    """serve() gives running calls two seconds."""
    answers: dict[str, httpx.Response] = {}

    def call(gateway: Gateway, name: str, **fields: Any) -> None:
        client = httpx.Client(base_url=gateway.base_url, headers=gateway.client.headers, timeout=30)
        body = {"model": "aion-v3", "max_tokens": 400} | fields
        with client:
            answers[name] = client.post("/chat/completions", json=body)

    def say(content: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": content}]

    with serve(shop) as gateway:
        threads = [
            threading.Thread(target=call, args=(gateway, "short"), kwargs={"messages": say("demo:delay=900")}),
            threading.Thread(target=call, args=(gateway, "whole"), kwargs={"messages": say("demo:delay=20000")}),
            threading.Thread(
                target=call,
                args=(gateway, "stream"),
                kwargs={"messages": say("demo:fill demo:rate=20"), "stream": True},
            ),
        ]
        for thread in threads:
            thread.start()
        while gateway.worker.admission.running < 3:
            time.sleep(0.01)
        time.sleep(0.4)
    for thread in threads:
        thread.join()
    assert answers["short"].status_code == 200
    assert answers["whole"].status_code == 503
    assert answers["whole"].headers["x-should-retry"] == "true"
    *chunks, last = read_events(answers["stream"].content)
    assert len(chunks) > 5
    assert last["error"]["code"] == "service_unavailable"
    cut = shop.event(answers["stream"].headers["x-request-id"])
    assert cut.end_reason == "timeout"
    assert len(chunks) - 2 <= cut.output_tokens <= len(chunks) + 2
    assert cut.cost_nanos > 0
    assert shop.event(answers["whole"].headers["x-request-id"]).cost_nanos == 0
    assert shop.holds() == 0


def test_full_segments_go_where_no_journal_runs_on_the_host(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of another host books the calls; the worker's own files are its own host's to retire."""
    monkeypatch.setattr(worker, "REPLAY_SECONDS", 0.1)
    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", 10)
    with serve(shop) as gateway:
        log = gateway.worker.wal
        gateway.event_of(gateway.chat())
        assert log.path.name != f"{log.worker}.000001.wal", "it has filled segments"
        deadline = time.monotonic() + 5
        while remains.segments(log.folder, log.worker) != [log.path]:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_redis_that_is_away_is_503_and_leaves_no_holds(shop: Shop) -> None:
    with serve(shop) as gateway:
        assert gateway.chat().status_code == 200
        shop.store.execute_command("CLIENT", "PAUSE", 3_500)
        began = time.monotonic()
        refused = gateway.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "service_unavailable"
        assert refused.headers["x-should-retry"] == "true"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert time.monotonic() - began < 3.4
        deadline = time.monotonic() + 10
        while gateway.chat().status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while shop.holds():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_worker_without_a_log_starts_refuses_and_recovers_by_itself(
    shop: Shop, tmp_path: Path, settings: Any
) -> None:
    """Below a regular file nobody makes a folder, not even root."""
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    settings.WAL_DIR = blocker / "wal"
    with serve(shop) as gateway:
        for stream in (False, True):
            refused = gateway.chat(stream=stream)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "service_unavailable"
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert gateway.client.get("/health").status_code == 503
        assert gateway.client.get("/models").status_code == 200
        assert shop.holds() == 0
        blocker.unlink()
        deadline = time.monotonic() + 5
        while gateway.client.get("/health").status_code != 200:  # no call has asked for it
            assert time.monotonic() < deadline
            time.sleep(0.05)
        answer = gateway.chat()
        assert answer.status_code == 200
        assert shop.event(answer.headers["x-request-id"]).cost_nanos > 0


def test_answers_say_the_name_that_is_sold_not_the_alias(shop: Shop) -> None:
    shop.new_model("proper", "demo-chat", aliases=["nickname"])
    with serve(shop) as gateway:
        assert gateway.chat(model="nickname").json()["model"] == "proper"
        assert {event["model"] for event in gateway.stream(model="nickname").events[:-1]} == {"proper"}


def test_counts_of_the_dead_are_kept_in_one_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gauges: dict[str, Any] = {"in_flight": {}, "unreachable": [], "running": 0, "wal_healthy": 1, "workers": 1}
    for pid in (999_999_001, 999_999_002, 999_999_003):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        worker = Metrics(tmp_path, lambda: gauges)
        worker._count("gateway_calls", ("chat", "stop"), 5)
        worker._observe("gateway_call_seconds", 0.2)
        worker.write()
    monkeypatch.undo()
    from proxy.metrics import _files, _fold_the_dead, _Sums

    for _ in range(2):
        _fold_the_dead(tmp_path)
        (kept,) = _files(tmp_path)
        assert kept[0].name == "past.json"
        sums = _Sums([kept[1]])
        assert sums.counts["gateway_calls"] == {("chat", "stop"): 15}
        assert sum(sums.buckets["gateway_call_seconds"]) == 3
