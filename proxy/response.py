"""The answer of an engine, as whoever forwards it reads it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from proxy.failures import LetGo, Malformed, UpstreamFailure


class Connection(Protocol):
    """What an answer comes by: a socket (exchange.py), or the house's own engine (sandbox/engine.py)."""

    loop: asyncio.AbstractEventLoop
    paused: bool

    def resume(self) -> None: ...
    def drain(self) -> None: ...
    def fail(self, failure: UpstreamFailure) -> None: ...


class Response:
    """An answer whose headers have come. Iterate it for the body, as bytes exactly as they came; `close()` always.

    `status`, `headers` (names lower-cased; the last of equal names). Iterating raises an UpstreamFailure when the
    answer breaks; what came before it has been handed out by then."""

    __slots__ = ("_complete", "_connection", "_failure", "_loop", "_pieces", "_size", "_waiter", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailure | None = None
        self._complete = False

    @property
    def chunks(self) -> Response:
        return self

    @property
    def complete(self) -> bool:
        """The engine has sent everything (it may not all have been read yet)."""
        return self._complete

    @property
    def ended(self) -> bool:
        """All of it came and was read."""
        return self._complete and not self._pieces

    @property
    def failed(self) -> bool:
        """It broke before its end; not when we let it go."""
        return self._failure is not None and not isinstance(self._failure, LetGo)

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._complete:
                raise StopAsyncIteration
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self._taken()

    def _taken(self) -> bytes:
        """What has come and was not read."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        connection = self._connection
        if connection is not None and connection.paused:
            connection.resume()
        return data

    async def read(self, bytes_max: int) -> bytes:
        """The whole body; Malformed (and closed) past `bytes_max`."""
        parts: list[bytes] = []
        size = 0
        async for data in self:
            size += len(data)
            if size > bytes_max:
                self.close()
                raise Malformed(f"the answer is larger than {bytes_max} bytes")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_first(self, enough: int) -> bytes:
        """The body, or its beginning of at least `enough` bytes; the rest comes as it is read."""
        if self._complete:  # the usual one: it came with its head
            return self._taken()
        parts: list[bytes] = []
        size = 0
        while size < enough:
            try:
                data = await anext(self)
            except StopAsyncIteration:
                break
            parts.append(data)
            size += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def await_turn(self, given: asyncio.Future[None]) -> None:
        """Reads nothing until `given` is done; raises when the answer breaks meanwhile."""
        given.add_done_callback(lambda _: self._wake())
        while not given.done():
            if self._failure is not None:
                raise self._failure
            await self._wait()

    def close(self) -> bytes:
        """Let go. An unfinished answer drops its connection at once: that is how the engine learns to stop.

        Returns what had arrived and nobody had read: the engine has made it, so it is metered, delivered or not."""
        connection = self._connection
        if connection is not None:
            connection.drain()
        if self._connection is not None:
            self._connection.fail(LetGo("closed by us"))
        rest = b"".join(self._pieces)
        self._pieces.clear()
        return rest

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
