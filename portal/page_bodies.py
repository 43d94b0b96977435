"""The bodies of requests to pages, bounded before Django sees them.

Django writes a body to a file, however long it is, before it looks at anything else: one without end would fill the
disk on which the write-ahead log may lie, and one that does not come would keep its connection for ever. Nobody needs a
session for either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BYTES_MAX: Final = 2_000_000
"""Twice what Django lets a form have (DATA_UPLOAD_MAX_MEMORY_SIZE), which it says in its own words."""
SECONDS_MAX: Final = 60.0
_GONE: Final = {"type": "http.disconnect"}


class _Body:
    """`receive`, until the body is whole or `refused` says why it will not be."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = BYTES_MAX
        self._until = asyncio.get_running_loop().time() + SECONDS_MAX
        self._is_whole = False
        self.refused: HTTPStatus | None = None

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
        return message

    async def _next(self) -> Message:
        message: Message = await self._receive()
        return message


async def serve(pages: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Django's pages; who sends too much, or too slowly, is told and let go."""
    body = _Body(receive)
    await pages(scope, body, send)
    if body.refused is not None:
        said = body.refused.phrase.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(said)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": body.refused.value, "headers": headers})
        await send({"type": "http.response.body", "body": said})
