"""Answers on the wire: one JSON body, or a stream of events that may start late and must not fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Header = tuple[bytes, bytes]
Send = Callable[[dict[str, Any]], Awaitable[None]]

COMMIT_SECONDS = 10.0
"""Until then a stream's status may still change; after it clients and load balancers want to see something."""
KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

WHOLE = "gateway.whole"
"""Extension of the scope, which portal.connections offers: (status, headers, body) → whether it could."""
_NOTHING: Mapping[str, Any] = {}
_JSON: Header = (b"content-type", b"application/json")
_NO_STORE: Header = (b"cache-control", b"no-store")
_STREAM: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-store"),
    (b"x-accel-buffering", b"no"),
)


async def send_whole(scope: Mapping[str, Any], send: Send, headers: list[Header], body: bytes) -> None:
    """A whole answer that succeeded: in one step, where the server offers that."""
    whole = scope.get("extensions", _NOTHING).get(WHOLE)
    if whole is None or not whole(200, [_JSON, _NO_STORE, (b"content-length", b"%d" % len(body)), *headers], body):
        await send_body(send, 200, headers, body)


async def send_body(send: Send, status: int, headers: list[Header], body: bytes, *, head_only: bool = False) -> None:
    """A whole answer in JSON. HEAD gets the head of it."""
    whole = [_JSON, _NO_STORE, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": whole})
    await send({"type": "http.response.body", "body": b"" if head_only else body})


async def send_empty(send: Send, status: int, headers: list[Header]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *headers]})
    await send({"type": "http.response.body", "body": b""})


class EventStream:
    """One streamed answer. The head leaves with the first event, or with the first beat after COMMIT_SECONDS; from
    then on the status is 200 and trouble is told in an event. Writing waits for slow clients (back-pressure)."""

    __slots__ = ("_beat", "_headers", "_last", "_send", "_writing_since", "began", "ended", "task", "until")

    def __init__(self, send: Send, headers: list[Header], *, now: float, until: float) -> None:
        self._send = send
        self._headers = headers
        self._last = now
        self._beat: asyncio.Task[None] | None = None
        self._writing_since = 0.0
        self.began = False
        self.ended = False
        self.until = until
        self.task = asyncio.current_task()

    async def write(self, data: bytes, *, now: float) -> None:
        if self._beat is not None:
            await self._beat
        if not self.began:
            await self._begin()
        self._writing_since = now
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._writing_since = 0.0
        self._last = now

    async def end(self, data: bytes) -> None:
        """The last bytes and the end of the body, together: SDKs hang up at [DONE]."""
        if self._beat is not None:
            await self._beat
        if not self.began:
            await self._begin()
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def quiet(self) -> bool:
        """Wait for a sign of life under way; whether the head has left."""
        if self._beat is not None:
            await asyncio.gather(self._beat, return_exceptions=True)
        return self.began

    def is_due(self, now: float) -> bool:
        """Whether it is time for a sign of life. Never while a write is under way: that one waits for the client."""
        if self.ended or self._beat is not None or self._writing_since:
            return False
        return now - self._last >= (KEEP_ALIVE_SECONDS if self.began else COMMIT_SECONDS)

    def is_stuck(self, now: float) -> bool:
        """A client that does not read has held a write past the call's deadline."""
        return bool(self._writing_since) and now >= self.until

    def beat(self, now: float) -> None:
        self._last = now
        self._beat = asyncio.get_running_loop().create_task(self._keep_alive())
        self._beat.add_done_callback(self._beaten)

    async def _keep_alive(self) -> None:
        if not self.began:
            await self._begin()
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    def _beaten(self, task: asyncio.Task[None]) -> None:
        self._beat = None
        if not task.cancelled():
            task.exception()  # the stream's own next write meets the same trouble

    async def _begin(self) -> None:
        self.began = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *self._headers]})
