"""The way to the engines: kept HTTP/1.1 connections per origin, and engine records read once.

    response = await pool.send(engine, "/chat/completions", body, headers, deadlines)
    async for chunk in response: ...
    response.close()

Failures are those of proxy.failures, named here again for callers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from billing.snapshot import EngineRecord
from proxy.exchange import Connection, Origin
from proxy.failures import (
    ConnectFailed,
    Cut,
    Deadlines,
    FirstByteTimeout,
    IdleTimeout,
    Malformed,
    TotalTimeout,
    UpstreamFailure,
)
from proxy.response import Response

__all__ = [
    "ConnectFailed",
    "Cut",
    "Deadlines",
    "FirstByteTimeout",
    "IdleTimeout",
    "Malformed",
    "Pool",
    "Response",
    "TotalTimeout",
    "UpstreamFailure",
]

KEEP_ALIVE_S = 4.0
"""uvicorn (vLLM, SGLang) and llama.cpp close a kept connection after 5 s: we let go first, so that the race in which a
request meets a closing connection hardly ever happens."""
KEEPS_NO_CONNECTION = frozenset({"llamacpp"})
"""Engine kinds with a thread per connection: they close kept ones without a word whenever another waits for the thread,
reading and throwing away what arrives meanwhile, so that a request can vanish. A connection each costs them nothing."""
IDLE_PER_ORIGIN = 256
CACHED_HEADS = 32
USUAL_DEADLINES = Deadlines()

Headers = Sequence[tuple[bytes, bytes]]


class Target:
    """One engine record, read once: where it is and the request heads that are always the same."""

    __slots__ = ("_fixed", "_heads", "origin", "prefix", "record", "root")

    def __init__(self, record: EngineRecord, open_key: Callable[[str], str]) -> None:
        url = urlsplit(record.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError(f"engine {record.name}: its base URL is not a plain http(s) URL")
        tls = url.scheme == "https"
        port = url.port or (443 if tls else 80)
        self.record = record
        self.origin = Origin(url.hostname, port, tls, record.verify_tls)
        self.prefix = url.path.rstrip("/").encode("ascii")
        self.root = self.prefix.removesuffix(b"/v1")
        host = b"[%b]" % url.hostname.encode() if ":" in url.hostname else url.hostname.encode("idna")
        fixed: list[tuple[bytes, bytes]] = [(b"host", b"%b:%d" % (host, url.port) if url.port else host)]
        if record.api_key:
            fixed.append((b"authorization", b"Bearer " + open_key(record.api_key).encode("ascii")))
        fixed += [(b"accept-encoding", b"identity"), (b"user-agent", b"inference-gateway")]
        if record.kind in KEEPS_NO_CONNECTION:
            fixed.append((b"connection", b"close"))
        fixed += [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in record.headers.items()]
        self._fixed = _lines(fixed)
        self._heads: dict[tuple[str, str, bool], bytes] = {}

    def head(self, method: str, path: str, from_root: bool) -> bytes:
        head = self._heads.get((method, path, from_root))
        if head is None:
            line = f"{method} ".encode() + (self.root if from_root else self.prefix) + path.encode("ascii")
            if any(byte <= 0x20 or byte == 0x7F for byte in line[len(method) + 1 :]):
                raise ValueError("a request path has no blanks or control characters")
            head = line + b" HTTP/1.1\r\n" + self._fixed
            if len(self._heads) < CACHED_HEADS:
                self._heads[method, path, from_root] = head
        return head


def _lines(headers: Headers) -> bytes:
    text = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
    if text.count(b"\n") != len(headers) or text.count(b"\r") != len(headers) or b"\0" in text:
        raise ValueError("a header of ours has a line break in it")
    return text


class Pool:
    """Connections of one event loop to all engines. `open_key` opens a sealed engine key (keys.sealing.open_text); it
    is called once per engine record."""

    def __init__(self, open_key: Callable[[str], str], *, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self.loop = asyncio.get_running_loop()
        self._open_key = open_key
        self._keep_alive_s = keep_alive_s
        self._targets: dict[int, Target] = {}
        self._resting: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def send(
        self,
        engine: EngineRecord,
        path: str,
        body: bytes,
        headers: Headers = (),
        deadlines: Deadlines = USUAL_DEADLINES,
        *,
        method: str = "POST",
        from_root: bool = False,
    ) -> Response:
        """Send one request and wait for the answer's headers. `path` is below the engine's base URL ("/models"), or
        below its host without the closing /v1 when `from_root` ("/tokenize"). The caller closes the Response."""
        target = self._target(engine)
        own = _lines((*headers, (b"content-length", b"%d" % len(body)))) if body or method != "GET" else _lines(headers)
        request = (target.head(method, path, from_root) + own + b"\r\n", body)
        total_at = self.loop.time() + deadlines.total_ms / 1000
        kept = self._take(target.origin)
        if kept is not None:
            try:
                return await kept.exchange(request, deadlines, total_at)
            except Cut as cut:
                if not cut.undelivered:
                    raise
        connection = await self._connect(target.origin, deadlines)
        return await connection.exchange(request, deadlines, total_at)

    async def close(self) -> None:
        """Drop every connection, running exchanges included."""
        for connection in list(self._open):
            connection.fail(Cut("the pool is closed"))
        await asyncio.sleep(0)

    def give(self, connection: Connection) -> None:
        resting = self._resting.setdefault(connection.origin, [])
        if connection.paused and connection.transport is not None:
            connection.paused = False
            connection.transport.resume_reading()
        if len(resting) >= IDLE_PER_ORIGIN:
            connection.fail(Cut("enough connections rest"))
            return
        resting.append(connection)
        connection.rest(self._keep_alive_s)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        resting = self._resting.get(connection.origin)
        if resting is not None and connection in resting:
            resting.remove(connection)

    def _take(self, origin: Origin) -> Connection | None:
        resting = self._resting.get(origin)
        while resting:
            connection = resting.pop()
            if connection.usable():
                return connection
            connection.fail(Cut("closed while it rested"))
        return None

    async def _connect(self, origin: Origin, deadlines: Deadlines) -> Connection:
        try:
            async with asyncio.timeout(deadlines.connect_ms / 1000):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self, origin), origin.host, origin.port, ssl=self._context(origin)
                )
        except TimeoutError as error:
            raise ConnectFailed(f"not connected within {deadlines.connect_ms} ms") from error
        except OSError as error:  # ssl.SSLError is one
            raise ConnectFailed(f"not connected: {error.strerror or type(error).__name__}") from error
        return connection

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if not origin.tls:
            return None
        context = self._contexts.get(origin.verify_tls)
        if context is None:
            context = ssl.create_default_context()
            context.set_alpn_protocols(["http/1.1"])
            if not origin.verify_tls:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[origin.verify_tls] = context
        return context

    def _target(self, engine: EngineRecord) -> Target:
        target = self._targets.get(engine.id)
        if target is None or (target.record is not engine and target.record != engine):
            target = self._targets[engine.id] = Target(engine, self._open_key)
        return target
