"""Clients' connections, where uvicorn's own way costs too much: whoever is connected and does nothing is let go, and
an answer's head leaves together with the first of its body.

A connection costs a few kilobytes. One that sends no whole head, asks for nothing more, or does not read its answer, is
closed after a while, and there are at most so many. One timer per connection looks at it every CHECK_SECONDS; a request
costs nothing more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from http import HTTPStatus
from typing import Any

import orjson
from django.conf import settings
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from billing import call_ids

CHECK_SECONDS = 10.0
"""A head must have come within two checks."""
STUCK_CHECKS_MAX = 12
"""So many checks in a row without a byte of the answer being read."""
USER_TIMEOUT_MS = 60_000
"""Sent bytes that the client's host has not acknowledged for this long: the host is gone."""
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """One request and its answer. ASGI lets a server send the head with the first of the body: that saves a system
    call here and one at the client. Where uvicorn looks through every header by itself, the whole head is looked
    through once."""

    _head = b""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            raise RuntimeError(f"an answer goes on with {expected}, not with {message['type']}")
        if not self.response_started:
            self._head = self._head_of(message["status"], message.get("headers", ()))
            self.response_started, self.waiting_for_100_continue = True, False
            return
        more = message.get("more_body", False)
        self.transport.write(self._head + self._framed(message.get("body", b""), more))
        self._head = b""
        if not more:
            self._complete()

    def _head_of(self, status: int, given: Any) -> bytes:
        headers = [(name.lower(), value) for name, value in (*self.default_headers, *given)]
        lines = [_STATUS_LINES[status], *[name + b": " + value + b"\r\n" for name, value in headers]]
        named = dict(headers)
        length = named.get(b"content-length")
        if length is not None:
            self.chunked_encoding, self.expected_content_length = False, int(length)
        elif self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        if b"close" in named.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a header of an answer has a line break in it")
        return head + b"\r\n"

    def _framed(self, body: bytes, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            return b""
        if self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (not more and self.expected_content_length):
            raise RuntimeError("an answer is not as long as its head says")
        return body

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


httptools_impl.RequestResponseCycle = Cycle  # type: ignore[misc]  # uvicorn offers no other way to say so


class Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._check: asyncio.TimerHandle | None = None
        self._rests = False
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

    def data_received(self, data: bytes) -> None:
        self._rests = False
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """For bytes that are no HTTP request: an error as the proxy's own answers have it. Into an answer that has
        begun nothing can be said; the connection ends, which its call takes for a client that left."""
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started:
            self.transport.close()
            return
        call_id = call_ids.mint(int(time.time() * 1000), os.urandom(10)).encode()
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = orjson.dumps({"error": error})
        self.transport.write(
            b"%bx-request-id: %b\r\nx-should-retry: false\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (_STATUS_LINES[400], call_id, len(body), body)
        )
        self.transport.close()

    def on_response_complete(self) -> None:
        """As uvicorn does, but without a timer for each answer that the next request nearly always cancels."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rests, self._rests_since = True, self.loop.time()

    def _look(self, waited_for: object) -> None:
        """`waited_for`: the head that was awaited at the last check, as the request before it."""
        now_waiting: object = self._awaited()
        if now_waiting is not None and now_waiting is waited_for:
            self.transport.close()
            return
        if self._rests and self.loop.time() - self._rests_since >= self.timeout_keep_alive:
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
        """None while a request is at work, or while the client rests between two; else what came before the head that
        is awaited."""
        if self._rests:
            return None
        if self.cycle is None:  # before the first request
            return self  # type: ignore[unreachable]
        return self.cycle if self.cycle.response_complete else None
