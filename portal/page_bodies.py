"""Requests to pages, bounded before Django sees them: how much they bring, how long, and how many are at work.

Django writes a body to a file, however long it is, before it looks at anything else: one without end would fill the
disk on which the write-ahead log may lie, and one that does not come would keep its connection for ever. Nobody needs a
session for either. And Django takes a thread for each request: thousands at once would wait for the few connections to
the database that their process has, beside the calls of customers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from weakref import WeakKeyDictionary

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BYTES_MAX: Final = 2_000_000
"""Twice what Django lets a form have (DATA_UPLOAD_MAX_MEMORY_SIZE), which it says in its own words."""
SECONDS_MAX: Final = 60.0
AT_ONCE_MAX: Final = 16
"""Pages of one worker that are at work: four for each connection to the database."""
WAIT_SECONDS_MAX: Final = 30.0
_places: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()
_GONE: Final = {"type": "http.disconnect"}


class _Body:
    """`receive`, until the body is whole and there is a place to work in, or `refused` says why not."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = BYTES_MAX
        self._until = asyncio.get_running_loop().time() + SECONDS_MAX
        self._is_whole = False
        self.refused: HTTPStatus | None = None
        self.place: asyncio.Semaphore | None = None

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._next()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._next()
        except TimeoutError:
            self.refused = HTTPStatus.REQUEST_TIMEOUT
            return _GONE
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.refused = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            return _GONE
        self._is_whole = not message.get("more_body", False)
        return message if not self._is_whole or await self._has_place() else _GONE

    async def _has_place(self) -> bool:
        places = _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE_MAX))
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await places.acquire()
        except TimeoutError:
            self.refused = HTTPStatus.SERVICE_UNAVAILABLE
            return False
        self.place = places
        return True

    async def _next(self) -> Message:
        message: Message = await self._receive()
        return message


async def serve(pages: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Django's pages; who sends too much, or too slowly, or finds no place, is told and let go."""
    body = _Body(receive)
    try:
        await pages(scope, body, send)
    finally:
        if body.place is not None:
            body.place.release()
    if body.refused is not None:
        said = body.refused.phrase.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(said)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": body.refused.value, "headers": headers})
        await send({"type": "http.response.body", "body": said})
