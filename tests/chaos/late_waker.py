"""`python -m tests.chaos.late_waker`: a shipped proxy worker sleeps (SIGSTOP) past its leases in the middle of its
streams, by the clock, and wakes up late. Each call is corrected to its true usage, exactly once."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.chaos import stores

RATE: Final = 20
SHORT, LONG = 400, 4_000
"""Tokens: the engine has ended the one before the worker wakes up, and is at the other for minutes."""
STREAMS: Final = (SHORT, SHORT, LONG, LONG)
BEGUN_TOKENS: Final = 20
REST_SECONDS_MAX: Final = 60.0


@dataclass
class Stream:
    """One client's view."""

    tokens_max: int
    call_id: str = ""
    tokens: int = 0
    end: str = "cut"

    def read(self, port: int, secret: str) -> None:
        text = f"{self.tokens_max} demo:fill demo:rate={RATE}"
        body = {"model": "aion-v3", "messages": [{"role": "user", "content": text}], "max_tokens": self.tokens_max}
        url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"authorization": f"Bearer {secret}"}
        with (
            suppress(httpx.TransportError),
            httpx.stream("POST", url, json=body | {"stream": True}, headers=headers, timeout=300) as answer,
        ):
            self.call_id = answer.headers["x-request-id"]
            for line in answer.iter_lines():
                self._hear(line)

    def _hear(self, line: str) -> None:
        self.tokens += '"content":"' in line and '"content":""' not in line
        if line == "data: [DONE]":
            self.end = "whole"
        elif line.startswith('data: {"error"'):
            self.end = "error event"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.late_waker", description=__doc__)
    parser.add_argument("--seconds", type=float, default=70, help="how long the worker sleeps (default 70)")
    asked = parser.parse_args()
    with stores.started(keep=False) as ours:
        return _trial(ours, asked.seconds)


def _trial(ours: stores.Stores, seconds: float) -> int:
    from tests.chaos.world import World, event_loop
    from tests.inference import demo_engine
    from tests.proxy.shop import Shop

    with event_loop() as loop, demo_engine() as inference:
        world = World(ours, loop, seed=0, timeout=None)
        try:
            shop = Shop(inference, world.store())
            world.start_programs()
            _wait(lambda: all(world.is_ready(name) for name in world.programs) and world.is_open(), world)
            streams = _slept(world, shop.secret, seconds)
            _wait(lambda: _at_rest(world, streams), world)
            log = {entry["request_id"]: entry for entry in list(inference.engine.log)}
            return _told(streams, log)
        finally:
            world.close()


def _slept(world: Any, secret: str, seconds: float) -> list[Stream]:
    """The streams, which began before the worker slept and ended after it woke up."""
    proxy = world.proxies[0]
    streams = [Stream(tokens_max) for tokens_max in STREAMS]
    clients = [threading.Thread(target=stream.read, args=(proxy.port, secret)) for stream in streams]
    for client in clients:
        client.start()
    _wait(lambda: all(stream.tokens >= BEGUN_TOKENS for stream in streams), world)
    pid = proxy.worker()
    os.kill(pid, signal.SIGSTOP)
    try:
        print(
            f"worker {pid} sleeps for {seconds:g} s, {[stream.tokens for stream in streams]} tokens given", flush=True
        )
        time.sleep(seconds)
        lapsed = _events(streams)
        print(f"{len(lapsed)} calls lapsed meanwhile, charged {[row.output for row in lapsed.values()]} tokens")
    finally:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        client.join()
    woke = proxy.worker() == pid
    print(f"woke up: the {'same' if woke else 'NEXT'} worker serves", flush=True)
    return streams


def _events(streams: list[Stream]) -> Any:
    from tests.chaos.verdict import Books

    ids = {stream.call_id for stream in streams}
    return {call_id: call for call_id, call in Books.read().calls.items() if call_id in ids}


def _at_rest(world: Any, streams: list[Stream]) -> bool:
    from tests.chaos.trial import open_ends

    return not open_ends(world) and all(call.corrections for call in _events(streams).values())


def _told(streams: list[Stream], log: dict[str, dict[str, Any]]) -> int:
    from tests.chaos.trial import reconcile_deep
    from tests.chaos.verdict import Books

    books, wrong = Books.read(), 0
    heads = ("client got", "ended", "engine made", "charged", "corrections", "nanos", "by price")
    print("".join(f"{head:>13}" for head in heads))
    for stream in streams:
        call, made = books.calls[stream.call_id], log[stream.call_id]["output_tokens"]
        price = books.prices[call.rate_id].nanos(call.uncached, call.cached, call.output)
        right = stream.tokens <= call.output <= made and call.corrections == 1 and call.nanos == price
        right = right and (stream.end != "whole" or call.output == made)
        wrong += not right
        row = (stream.tokens, stream.end, made, call.output, call.corrections, call.nanos, price)
        print("".join(f"{cell:>13}" for cell in row) + ("" if right else "  !"))
    differences = reconcile_deep()
    print(f"wrong {wrong}; reconcile --deep: {len(differences)} differences")
    for line in differences:
        print(f"  ! {line}")
    return 1 if wrong or differences else 0


def _wait(true: Callable[[], Any], world: Any) -> None:
    until = time.monotonic() + REST_SECONDS_MAX
    while not true():
        if time.monotonic() > until:
            raise AssertionError(f"not in {REST_SECONDS_MAX:g} s; logs are in {world.place.logs}")
        world.look()
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
