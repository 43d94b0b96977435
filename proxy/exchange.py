"""One request and its answer on one connection to an engine: HTTP/1.1 by httptools, deadlines, back-pressure.

Every failure is an `UpstreamFailure`; its `undelivered` says that the engine cannot have begun. No decompression and no
redirects: what the engine wrote is what the meter reads.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import select
import socket
import termios
from typing import NamedTuple, Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from proxy.failures import (
    Cut,
    Deadlines,
    FirstByteTimeout,
    IdleTimeout,
    Malformed,
    TotalTimeout,
    UpstreamFailure,
)
from proxy.response import Response

BUFFER_HIGH_BYTES = 256 * 1024
"""Past this much unread answer the socket is not read any more; the engine feels it through TCP."""
STOOD_STILL_S = 0.1
"""A timer that is later than this was held up with the whole loop: a silence then says nothing about the engine."""
LOOK_S = 1.0
"""How long it then has to read what came meanwhile: once in a silence, or one that is always late waits for ever."""
GOODBYE_S = 0.01
"""How long after an end of connection without an answer we wait for the reset that proves the request unread."""
TCP_CLOSE = 7
DRAIN_READS_MAX = 32
"""Of BUFFER_HIGH_BYTES each, when an unfinished answer is let go."""
HEADER_BYTES_MAX = 64 * 1024
HEADER_COUNT_MAX = 128
SILENT_BYTES_MAX = 64 * 1024
"""Bytes that bring neither header nor body (chunk extensions, endless status lines)."""
USER_TIMEOUT_MS = 20_000
"""Sent bytes that the engine's host has not acknowledged for this long: the host is gone."""
_FOREVER = float("inf")


class Origin(NamedTuple):
    host: str
    port: int
    tls: bool
    verify_tls: bool


class Keeper(Protocol):
    """Who owns connections: the pool."""

    loop: asyncio.AbstractEventLoop

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def give(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One socket. At most one exchange at a time; between exchanges it rests in the pool."""

    def __init__(self, pool: Keeper, origin: Origin) -> None:
        self.pool = pool
        self.origin = origin
        self.loop = pool.loop
        self.transport: asyncio.Transport | None = None
        self.parser = HttpResponseParser(self)
        self.response: Response | None = None
        self.paused = False
        self._finished = False  # the answer ended within the bytes being parsed
        self._keeps_alive = False
        self._spoilt = False  # bytes that belong to no request
        self._headers_done = False
        self._until_eof = False
        self._header_bytes = 0
        self._header_count = 0
        self._silent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _FOREVER
        self._deadlines = Deadlines()
        self._total_at = _FOREVER
        self._next_at = _FOREVER  # first byte, then idle; the pool's limit while resting
        self._looks_until = -1.0  # the value of `_next_at` that was put off already
        self._body_begun = False
        self._readable: select.poll | None = None

    # exchange ---------------------------------------------------------------------------------------------------

    async def exchange(self, request: tuple[bytes, bytes], deadlines: Deadlines, total_at: float) -> Response:
        transport = self.transport
        if transport is None:
            raise Cut("the connection closed before the request", undelivered=True)
        response = self.response = Response(self)
        self._deadlines = deadlines
        self._total_at = total_at
        self._next_at = self.loop.time() + deadlines.first_byte_ms / 1000
        self._headers_done = self._body_begun = self._finished = self._until_eof = False
        self._header_bytes = self._header_count = self._silent_bytes = 0
        self._arm()
        head, body = request
        if len(body) < BUFFER_HIGH_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        try:
            while not response.status and response._failure is None:
                await response._wait()
        except BaseException:
            response.close()
            raise
        if response._failure is not None and not response.status:
            raise response._failure
        return response

    def usable(self) -> bool:
        """Nothing has arrived since the last answer: neither an end of connection nor bytes nobody asked for. (Under
        TLS session tickets may rest in the socket, so only the loop's word counts there.)"""
        if self.transport is None or self.transport.is_closing():
            return False
        return self._readable is None or not self._readable.poll(0)

    def fail(self, failure: UpstreamFailure) -> None:
        """End the running exchange, if any, and drop the connection."""
        response, self.response = self.response, None
        if response is not None:
            response._connection = None
            response._failure = failure
            response._wake()
        if self.transport is not None:
            self.transport.abort()

    def drain(self) -> None:
        """Parse what lies in the socket, without waiting: behind a slow reader that may be a lot. Under TLS only the
        loop can read it."""
        transport = self.transport
        if self.origin.tls or transport is None:
            return
        file = transport.get_extra_info("socket").fileno()
        for _ in range(DRAIN_READS_MAX):
            try:
                data = os.read(file, BUFFER_HIGH_BYTES)
            except OSError:  # nothing there, or the connection is gone
                return
            if not data or self.response is None:
                return
            self.data_received(data)

    def resume(self) -> None:
        self.paused = False
        if self.transport is not None:
            self.transport.resume_reading()
        self._next_at = self.loop.time() + self._deadlines.idle_ms / 1000
        self._arm()

    def rest(self, seconds: float) -> None:
        self._next_at = self.loop.time() + seconds
        self._total_at = _FOREVER
        self._arm()

    # deadlines: one lazy timer per connection, moved only when something comes earlier ---------------------------

    def _arm(self) -> None:
        when = min(self._next_at, self._total_at)
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(when, self._tick)
            self._timer_at = when

    def _tick(self) -> None:
        self._timer = None
        self._timer_at = _FOREVER
        now, due = self.loop.time(), min(self._next_at, self._total_at)
        if now < due:
            self._arm()
        elif now - due > STOOD_STILL_S and now < self._total_at and self._next_at != self._looks_until:
            # It was this process that stood still: what came meanwhile lies unread.
            self._next_at = self._looks_until = now + LOOK_S
            self._arm()
        elif self.response is None:
            self.fail(Cut("rested too long"))
        elif now >= self._total_at:
            self.fail(TotalTimeout(f"not finished within {self._deadlines.total_ms} ms"))
        elif self._body_begun:
            self.fail(IdleTimeout(f"silent for {self._deadlines.idle_ms} ms"))
        else:
            self.fail(FirstByteTimeout(f"no answer within {self._deadlines.first_byte_ms} ms"))

    # asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pool.opened(self)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is None:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        if not self.origin.tls:
            self._readable = select.poll()
            self._readable.register(sock.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        response = self.response
        if response is None:
            self.fail(Malformed("bytes that nobody asked for"))
            return
        size = response._size
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self.fail(Malformed("the engine switched protocols"))
            return
        except HttpParserError as error:
            self.fail(_parse_failure(error))
            return
        if response._size != size:
            self._silent_bytes = 0
            self._body_begun = True
            self._progress(response)
        elif not self._finished:
            self._silent_bytes += len(data)
            if self._silent_bytes > SILENT_BYTES_MAX:
                self.fail(Malformed(f"{SILENT_BYTES_MAX} bytes without header or body"))
                return
        if self._finished:
            self._finish(response)
        response._wake()

    def _progress(self, response: Response) -> None:
        if response._size > BUFFER_HIGH_BYTES and not self._finished:
            if not self.paused and self.transport is not None:
                self.paused = True
                self.transport.pause_reading()
            self._next_at = _FOREVER  # it is we who do not read: only the total deadline runs
            return
        first = self._next_at
        self._next_at = self.loop.time() + self._deadlines.idle_ms / 1000
        if self._next_at < first:
            self._arm()

    def _finish(self, response: Response) -> None:
        """The answer is whole: the connection goes back to the pool before anybody has read the last bytes."""
        self.response = None
        response._complete = True
        response._connection = None
        transport = self.transport
        if self._spoilt or transport is None or not self._keeps_alive:
            self.fail(Cut("the engine keeps no connection"))
        elif transport.get_write_buffer_size():
            self.fail(Cut("answered before it had read the request"))
        else:
            self.pool.give(self)

    def eof_received(self) -> bool:
        """An orderly end. Before any answer it may be the engine letting a kept connection go just as we used it; then
        it has not read the request, and we look whether the kernels can prove that."""
        response = self.response
        if response is None or response.status:
            return False
        if self.origin.tls or self._unacknowledged() or self._was_reset():
            self.fail(Cut("closed without an answer", undelivered=not self.origin.tls))
            return False
        self.loop.call_later(GOODBYE_S, self._judge, response)
        return True

    def _judge(self, response: Response) -> None:
        if self.response is response:
            self.fail(Cut("closed without an answer", undelivered=self._was_reset()))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._timer is not None:
            self._timer.cancel()
        self.pool.closed(self)
        response = self.response
        if response is None:
            return
        if error is None and self._until_eof and self._headers_done:
            self.response = None
            response._complete = True
            response._connection = None
            response._wake()
        else:
            self.fail(Cut("closed in the middle of the answer" if response.status else "closed without an answer"))

    def _unacknowledged(self) -> bool:
        """Has the engine's kernel acknowledged less than we have written? Then it sent its end before the last byte of
        the request arrived (an end of connection acknowledges all that came before it): nobody can have acted on it."""
        transport = self.transport
        if transport is None:
            return False
        if transport.get_write_buffer_size():
            return True
        count = array.array("i", [0])
        try:
            fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
        except OSError:
            return False
        return count[0] > 0

    def _was_reset(self) -> bool:
        """Has a reset followed the end? A kernel sends it when a socket is closed with bytes in it that its program has
        not read: part of the request. (A program that read the request and died leaves an end and no reset.)"""
        if self.transport is None or not hasattr(socket, "TCP_INFO"):
            return False
        try:
            state = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return False
        return bool(state[0] == TCP_CLOSE)

    # httptools --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._finished:
            self._spoilt = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        self._header_count += 1
        if self._header_bytes > HEADER_BYTES_MAX or self._header_count > HEADER_COUNT_MAX:
            raise _TooMuch("too many or too large headers")
        if self.response is not None and not self._headers_done:  # else a trailer, which says nothing to us
            self.response.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        response = self.response
        status = self.parser.get_status_code()
        if response is None or self._spoilt:
            return
        if status < 200:
            response.headers.clear()
            return
        headers = response.headers
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise _TooMuch("an answer that is compressed although we refused it")
        self._until_eof = b"content-length" not in headers and b"transfer-encoding" not in headers
        response.status = status
        self._headers_done = True

    def on_body(self, body: bytes) -> None:
        response = self.response
        if response is not None and not self._spoilt:
            response._pieces.append(body)
            response._size += len(body)

    def on_message_complete(self) -> None:
        if self._headers_done:  # else it was an interim answer (100, 103)
            self._finished = True
            self._keeps_alive = self.parser.should_keep_alive()  # said here; the parser forgets with its next state


class _TooMuch(Exception):
    """Raised inside the parser's callbacks; becomes Malformed."""


def _parse_failure(error: HttpParserError) -> Malformed:
    cause = error.__context__
    return Malformed(str(cause) if isinstance(cause, _TooMuch) else f"not HTTP/1.1: {error}")
