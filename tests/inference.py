"""Engines for tests, in this process, on loopback, each in a thread of its own: the demo engine, and one that says
exactly what it is told to."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn

from billing.snapshot import Capabilities, EngineRecord
from portal.demo.engine import DemoEngine

CAPABILITIES = Capabilities(
    reports_cached=True,
    running_usage="continuous_usage_stats",
    tokenize="vllm",
    stops_on_close=True,
    cache_salt=True,
    priority=True,
)
"""What the demo engine can do, as the probe finds it."""


class Inference:
    """A running demo engine. `engine.log` and `engine.control` may be read and set from any thread."""

    def __init__(self, engine: DemoEngine, port: int) -> None:
        self.engine = engine
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v1"

    def record(self, **fields: Any) -> EngineRecord:
        """The engine as workers know it."""
        usual: dict[str, Any] = {
            "id": 1,
            "name": "demo",
            "kind": "vllm",
            "base_url": self.base_url,
            "capabilities": CAPABILITIES,
        }
        return EngineRecord(**(usual | fields))

    def entry(self, request_id: str, *, within_seconds: float = 5.0) -> dict[str, Any]:
        """What the engine really did for a request; waits until it has ended there."""
        deadline = time.monotonic() + within_seconds
        while True:
            found = [entry for entry in list(self.engine.log) if entry["request_id"] == request_id]
            if found:
                return found[-1]
            if time.monotonic() > deadline:
                raise AssertionError(f"the engine knows nothing of {request_id}")
            time.sleep(0.005)


@contextmanager
def demo_engine(**options: Any) -> Iterator[Inference]:
    """Runs a DemoEngine(**options) until the block ends."""
    engine = DemoEngine(**options)
    with served(engine) as port:
        yield Inference(engine, port)


@contextmanager
def scripted_engine() -> Iterator[str]:
    """An engine that says what the last message asks it to say, as `script` writes it; its base URL."""
    with served(_scripted) as port:
        yield f"http://127.0.0.1:{port}/v1"


def script(
    *choices: list[dict[str, Any]], finish: str = "stop", cuts: list[int] | None = None, die: int = 0, pause_ms: int = 0
) -> str:
    """A prompt for scripted_engine: each choice's deltas one by one (a whole answer joins them), how all of them end,
    where the bytes of a stream are cut, after how many events the connection is, and how long each event takes."""
    return orjson.dumps(
        {"choices": choices, "finish": finish, "cuts": cuts or [], "die": die, "pause_ms": pause_ms}
    ).decode()


async def _scripted(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = orjson.loads(body)
    content = asked["messages"][-1]["content"]
    wish = orjson.loads(content if isinstance(content, str) else content[0]["text"])
    stream = asked.get("stream") is True
    kind = b"text/event-stream" if stream else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if not stream:
        await send({"type": "http.response.body", "body": orjson.dumps(_whole(wish))})
        return
    events = list(_events(wish))
    if wish["die"]:
        events = events[: wish["die"]]
    for piece in _cut(b"".join(events), wish["cuts"]) if not wish["pause_ms"] else events:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(wish["pause_ms"] / 1000)
    if not wish["die"]:  # else to return drops the connection
        await send({"type": "http.response.body", "body": b""})


def _usage(wish: dict[str, Any]) -> dict[str, Any]:
    made = sum(len(deltas) for deltas in wish["choices"])
    details = {"reasoning_tokens": made // 2}
    return {"prompt_tokens": 20, "completion_tokens": made, "completion_tokens_details": details}


def _whole(wish: dict[str, Any]) -> dict[str, Any]:
    choices = []
    for index, deltas in enumerate(wish["choices"]):
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for delta in deltas:
            for name, value in delta.items():
                message[name] = (message.get(name) or "") + value if isinstance(value, str) else value
        choices.append({"index": index, "message": message, "finish_reason": wish["finish"]})
    return {"id": "x", "object": "chat.completion", "choices": choices, "usage": _usage(wish)}


def _events(wish: dict[str, Any]) -> Iterator[bytes]:
    def event(choices: list[Any], **more: Any) -> bytes:
        body = {"id": "x", "object": "chat.completion.chunk", "created": 5, "choices": choices} | more
        return b"data: %b\n\n" % orjson.dumps(body)

    longest = max(len(deltas) for deltas in wish["choices"])
    for step in range(longest):
        for index, deltas in enumerate(wish["choices"]):
            if step < len(deltas):
                yield event([{"index": index, "delta": deltas[step], "finish_reason": None}])
    for index in range(len(wish["choices"])):
        yield event([{"index": index, "delta": {}, "finish_reason": wish["finish"]}])
    yield event([], usage=_usage(wish))
    yield b"data: [DONE]\n\n"


def _cut(body: bytes, cuts: list[int]) -> Iterator[bytes]:
    borders = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    for start, end in itertools.pairwise(borders):
        yield body[start:end]


@contextmanager
def served(application: Any) -> Iterator[int]:
    """The port on which an ASGI application is served until the block ends."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=5,
    )
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name="engine", daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the engine did not start")
        time.sleep(0.002)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=10)
