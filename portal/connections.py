"""Clients' connections, where uvicorn's own way costs too much: whoever is connected and does nothing is let go, an
answer's head leaves together with the first of its body, and a whole answer can be given in one step.

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
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools
import orjson
from django.conf import settings
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from billing import call_ids
from proxy.answers import WHOLE

CHECK_SECONDS = 10.0
"""A head must have come within two checks."""
STUCK_CHECKS_MAX = 12
"""So many checks in a row without a byte of the answer being read."""
USER_TIMEOUT_MS = 60_000
"""Sent bytes that the client's host has not acknowledged for this long: the host is gone."""
HEAD_BYTES_MAX = 64 * 1024
"""Bytes that bring neither a whole head nor a piece of a body. Past half of them a whole head is 431 (proxy.bodies)."""
HEADERS_MAX = 1_000
"""Of a head and its trailers. A header of four bytes takes a hundred: in the time that a head may take, a single client
without a key could take gigabytes."""
PIPELINED_MAX = 32
"""Requests that came before the answers to those ahead of them. Each costs kilobytes, and ten thousand come in one read
of a socket: whoever sends more, and reads nothing, took a worker's memory without as much as a key."""
PATHS_REMEMBERED = 1024
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_COLON = b": ".join
_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """One request and its answer. ASGI lets a server send the head with the first of the body: that saves a system
    call here and one at the client. Where uvicorn looks through every header by itself, the whole head is looked
    through once."""

    _head = b""
    tasks: set[asyncio.Task[None]]
    task: asyncio.Task[None]

    def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """A whole answer at once, written when this returns True; False: it must go in messages, as its client is slow
        or gone, or asked for less. `headers` have lower-case names and say the body's length."""
        if self.flow.write_paused or self.disconnected or self.response_started or self.scope["method"] == "HEAD":
            return False
        lines = [_STATUS[status], *map(_COLON, self.default_headers), *map(_COLON, headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        _check_lines(head, len(lines) - 1)
        self.response_started, self.waiting_for_100_continue = True, False
        self.transport.write(b"%b\r\n\r\n%b" % (head, body))
        self._complete()
        return True

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
        lines = [_STATUS[status], *map(_COLON, headers)]
        named = dict(headers)
        length = named.get(b"content-length")
        if length is not None:
            self.chunked_encoding, self.expected_content_length = False, int(length)
        elif self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        if b"close" in named.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        _check_lines(head, len(lines) - 1)
        return head + b"\r\n\r\n"

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
        self.body.clear()  # what nobody read of it, while the connection rests
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def run_asgi(self, app: Any) -> None:
        """The request's task. It takes itself off the server's list: a callback for that costs another turn."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                raise RuntimeError("an answer was not completed")
        except BaseException as error:
            self.logger.error("a request failed", exc_info=error)
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:
            self.on_response = _nothing
            self.scope.get("extensions", {}).clear()  # which would keep this cycle for the collector
            self.tasks.discard(self.task)


def _nothing() -> None:
    """In place of what followed an answer."""


def _check_lines(head: bytes, breaks: int) -> None:
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise RuntimeError("a header of an answer has a line break in it")


class _Url(NamedTuple):
    path: str
    raw_path: bytes
    query: bytes


_plain_urls: dict[bytes, _Url] = {}


def _url(url: bytes) -> _Url:
    """Those without a query, which may hold a key, are remembered."""
    known = _plain_urls.get(url)
    if known is not None:
        return known
    parsed = httptools.parse_url(url)
    raw_path: bytes = parsed.path
    path = raw_path.decode("ascii")
    found = _Url(unquote(path) if "%" in path else path, raw_path, parsed.query or b"")
    if not found.query and len(url) < 200 and len(_plain_urls) < PATHS_REMEMBERED:
        _plain_urls[url] = found
    return found


class TooMuch(Exception):
    """The parser stops at it, as at bytes that are no request."""


class Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._check: asyncio.TimerHandle | None = None
        self._rests = False
        self._unknown = 0  # bytes since anything was whole
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
        self._unknown += len(data)
        super().data_received(data)
        if self._unknown > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS_MAX:
            raise TooMuch
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """As uvicorn does, without what is never configured here (websockets, a root path, a limit of concurrency)."""
        self._unknown = 0
        parser = self.parser
        version = parser.get_http_version()
        path, raw_path, query = _url(self.url)
        extensions: dict[str, Any] = {}
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,  # type: ignore[typeddict-item]
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": extensions,
        }
        before, self.cycle = (
            self.cycle,
            Cycle(
                self.scope,
                self.transport,
                self.flow,
                self.logger,
                self.access_logger,
                False,
                self.server_state.default_headers,
                asyncio.Event(),
                self.expect_100_continue,
                version != "1.0" and parser.should_keep_alive(),
                self.on_response_complete,
            ),
        )
        extensions[WHOLE] = self.cycle.whole
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            if len(self.pipeline) >= PIPELINED_MAX:
                raise TooMuch
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        cycle.tasks = self.tasks
        cycle.task = task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        self._unknown = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unknown = 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """For bytes that are no HTTP request: an error as the proxy's own answers have it. Into an answer that has
        begun nothing can be said; the connection ends, which its call takes for a client that left."""
        if self.pipeline or (
            self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started
        ):
            self.transport.close()
            return
        call_id = call_ids.mint(int(time.time() * 1000), os.urandom(10)).encode()
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": "invalid_http"}
        body = orjson.dumps({"error": error})
        self.transport.write(
            b"%b\r\nx-request-id: %b\r\nx-should-retry: false\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (_STATUS[400], call_id, len(body), body)
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
