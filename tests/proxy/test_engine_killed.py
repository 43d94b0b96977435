"""One of two engines is killed under load: calls that had not begun run on the other, its streams end fairly."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from billing import engines
from tests.inference import demo_engine
from tests.proxy.shop import Gateway, read_events

pytestmark = pytest.mark.django_db(transaction=True)
CLIENTS = 12
STREAMS = 10
_ENGINE = """
import sys, uvicorn
from portal.demo.engine import DemoEngine
uvicorn.run(DemoEngine(), host="127.0.0.1", port=int(sys.argv[1]), log_level="critical", lifespan="off")
"""
INPUT_NANOS, CACHED_NANOS, OUTPUT_NANOS = 200, 50, 600


@contextmanager
def killable() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", _ENGINE, str(port)])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.kill()
        process.wait()


class Whole(NamedTuple):
    began: float
    status: int
    call_id: str


def test_one_of_two_engines_killed_under_load(gateway: Gateway) -> None:
    shop = gateway.shop
    wholes: list[Whole] = []
    streams: list[tuple[str, list[Any]]] = []
    stop = threading.Event()

    def call_on(number: int) -> None:
        with httpx.Client(base_url=gateway.base_url, headers=gateway.client.headers, timeout=30) as client:
            for turn in range(10_000):
                if stop.is_set():
                    return
                messages = [{"role": "user", "content": f"Question {number} {turn} demo:delay=20"}]
                began = time.monotonic()
                body = {"model": "twins", "messages": messages, "max_tokens": 20}
                answer = client.post("/chat/completions", json=body)
                wholes.append(Whole(began, answer.status_code, answer.headers["x-request-id"]))

    def stream(number: int) -> None:
        messages = [{"role": "user", "content": f"Stream {number} demo:fill demo:rate=40"}]
        body = {"model": "twins", "messages": messages, "max_tokens": 160, "stream": True}
        answer = httpx.post(
            f"{gateway.base_url}/chat/completions", json=body, headers=gateway.client.headers, timeout=30
        )
        streams.append((answer.headers["x-request-id"], read_events(answer.content)))

    with killable() as (url, process), demo_engine() as survivor:
        doomed = shop.new_engine("doomed", url)
        model = shop.new_model("twins", "demo-chat", engine=doomed)
        other = shop.new_engine("survivor", survivor.base_url)
        engines.set_route(model=model, engine=other, name_there="demo-chat", actor="tests")
        threads = [threading.Thread(target=call_on, args=(number,)) for number in range(CLIENTS)]
        threads += [threading.Thread(target=stream, args=(number,)) for number in range(STREAMS)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)
        process.kill()
        killed = time.monotonic()
        time.sleep(1.5)
        stop.set()
        for thread in threads:
            thread.join(30)

    later = [whole for whole in wholes if whole.began > killed]
    assert len(later) > 50
    assert {whole.status for whole in later} == {200}
    broken = [whole for whole in wholes if whole.status != 200]
    assert {whole.status for whole in broken} <= {502}
    assert len(broken) <= CLIENTS  # only those that it had begun: each client runs one at a time
    for whole in broken:
        event = shop.event(whole.call_id)
        assert (event.cost_nanos, event.engine_id) == (0, doomed.id)

    cut = [(call_id, events) for call_id, events in streams if events[-1] != b"[DONE]"]
    assert 0 < len(cut) < STREAMS
    for call_id, events in cut:
        assert events[-1]["error"]["code"]
        chunks = sum(1 for e in events[:-1] if e["choices"] and e["choices"][0]["delta"].get("content"))
        event = shop.event(call_id)
        assert (event.end_reason, event.engine_id) == ("upstream_cut", doomed.id)
        assert chunks <= event.output_tokens <= chunks + 1
        read = event.cache_read_tokens or 0
        tokens = event.uncached_input_tokens * INPUT_NANOS + read * CACHED_NANOS + event.output_tokens * OUTPUT_NANOS
        assert event.cost_nanos == tokens
    for call_id, events in streams:
        if events[-1] == b"[DONE]":
            assert shop.event(call_id).output_tokens == 160
    assert shop.holds() == 0
