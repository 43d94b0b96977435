"""Clients that are connected and do nothing: uvicorn waits for them for ever, this does not.

A connection costs a few kilobytes. One that sends no whole head, or does not read its answer, is closed after a while,
and there are at most so many. One timer per connection looks at it every CHECK_SECONDS; a request costs nothing more.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CHECK_SECONDS = 10.0
"""A head must have come within two checks."""
STUCK_CHECKS_MAX = 12
"""So many checks in a row without a byte of the answer being read."""
USER_TIMEOUT_MS = 60_000
"""Sent bytes that the client's host has not acknowledged for this long: the host is gone."""


class Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._check: asyncio.TimerHandle | None = None
        if len(self.connections) > settings.CONNECTIONS_MAX:
            transport.abort()
            return
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        self._stuck = 0
        self._unsent = 0
        self._look(waited_for=None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._check is not None:
            self._check.cancel()
        super().connection_lost(exc)

    def _look(self, waited_for: object) -> None:
        """`waited_for`: the head that was awaited at the last check, as the request before it."""
        now_waiting: object = self._awaited()
        if now_waiting is not None and now_waiting is waited_for:
            self.transport.close()
            return
        unsent = self.transport.get_write_buffer_size()
        self._stuck = self._stuck + 1 if unsent and unsent == self._unsent else 0
        self._unsent = unsent
        if self._stuck >= STUCK_CHECKS_MAX:
            self.transport.abort()
            return
        self._check = self.loop.call_later(CHECK_SECONDS, self._look, now_waiting)

    def _awaited(self) -> Any:
        """None while a request is at work, or while uvicorn's own timer waits for the next one; else what came before
        the head that is awaited."""
        if self.timeout_keep_alive_task is not None:
            return None
        if self.cycle is None:  # before the first request
            return self  # type: ignore[unreachable]
        return self.cycle if self.cycle.response_complete else None
