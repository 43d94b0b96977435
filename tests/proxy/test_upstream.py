"""The engine client against real sockets: orderly engines, and engines that misbehave in every way we know."""

from __future__ import annotations

import asyncio
import random
import select
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from billing.snapshot import EngineRecord, ModelRecord
from proxy import exchange
from proxy.upstream import (
    ConnectFailed,
    Cut,
    Deadlines,
    FirstByteTimeout,
    IdleTimeout,
    Malformed,
    Pool,
    Target,
    TotalTimeout,
    UpstreamFailure,
)

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK = Deadlines(connect_ms=150, first_byte_ms=150, idle_ms=150, total_ms=1000)


def engine(port: int, **fields) -> EngineRecord:
    return EngineRecord(id=1, name="e", kind="openai", base_url=f"http://127.0.0.1:{port}/v1", **fields)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head, await reader.readexactly(length)


class Server:
    """Runs `script` once per connection and counts the connections and the orderly or sudden goodbyes."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()

    async def start(self) -> Server:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.tls, limit=1 << 26)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> None:
        head, body = await read_request(reader)
        self.heads.append(head)
        self.bodies.append(body)


@asynccontextmanager
async def serving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = await Server(script, tls).start()
    try:
        yield server
    finally:
        server.server.close()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(lambda sealed: sealed.removeprefix("sealed:"))
    yield pool
    await pool.close()


def answers(*pieces: bytes, pause: float = 0.0, then: Script | None = None) -> Script:
    """Reads one request, writes the pieces, then does `then` (or reads to the end of the connection)."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if then is not None:
            await then(reader, writer)
        else:
            await reader.read()

    return script


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def body_of(pool: Pool, server: Server, deadlines: Deadlines = QUICK) -> bytes:
    response = await pool.send(engine(server.port), "/chat/completions", b"{}", (), deadlines)
    try:
        return await response.read(1 << 20)
    finally:
        response.close()


async def test_request_carries_engine_key_and_headers_and_nothing_it_was_not_told(pool):
    server: Server

    async def script(reader, writer):
        await server.request(reader)
        writer.write(OK)
        await reader.read()

    async with serving(script) as server:
        record = engine(server.port, api_key="sealed:secret", headers={"X-Pool": "blue"})
        response = await pool.send(record, "/completions", b'{"a":1}', [(b"x-request-id", b"c1")], QUICK)
        assert response.status == 200
        assert response.headers[b"content-type"] == b"application/json"
        assert await response.read(100) == b"{}"
    lines = server.heads[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/completions HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        "accept-encoding: identity",
        "authorization: Bearer secret",
        "content-length: 7",
        f"host: 127.0.0.1:{server.port}",
        "user-agent: inference-gateway",
        "x-pool: blue",
        "x-request-id: c1",
    ]
    assert server.bodies == [b'{"a":1}']


async def test_path_from_root_leaves_out_the_closing_v1(pool):
    server: Server

    async def script(reader, writer):
        await server.request(reader)
        writer.write(OK)
        await reader.read()

    async with serving(script) as server:
        response = await pool.send(engine(server.port), "/health", b"", method="GET", from_root=True)
        await response.read(10)
    assert server.heads[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert b"content-length" not in server.heads[0]


async def test_connection_is_kept_and_used_again(pool):
    async def script(reader, writer):
        while True:
            await read_request(reader)
            writer.write(OK)

    async with serving(script) as server:
        for _ in range(5):
            assert await body_of(pool, server) == b"{}"
        await asyncio.gather(*(body_of(pool, server) for _ in range(4)))
    assert server.connections <= 4


async def test_kept_connection_is_dropped_after_its_rest():
    pool = Pool(str, keep_alive_s=0.05)
    async with serving(answers(OK)) as server:
        assert await body_of(pool, server) == b"{}"
        await asyncio.sleep(0.1)
        assert not pool._open
    await pool.close()


@pytest.mark.parametrize("cut", range(1, 12))
async def test_chunked_answer_is_read_at_any_border(pool, cut):
    text = CHUNKED + b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: t\r\n\r\n"
    pieces = [text[i : i + cut] for i in range(0, len(text), cut)]
    async with serving(answers(*pieces)) as server:
        assert await body_of(pool, server) == b"hello world"


async def test_interim_answers_are_skipped(pool):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with serving(answers(early + OK)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert response.status == 200
        assert b"link" not in response.headers
        assert await response.read(10) == b"{}"


async def test_answer_without_length_ends_with_its_connection(pool):
    async with serving(answers(b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"def", then=hang_up)) as server:
        assert await body_of(pool, server) == b"abcdef"


async def test_redirects_are_not_followed(pool):
    async with serving(
        answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    ) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert response.status == 302
        assert await response.read(10) == b""


async def test_nobody_listening_is_connect_failed(pool):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(ConnectFailed) as failure:
            await pool.send(engine(port), "/x", b"{}", (), QUICK)
    assert failure.value.undelivered


async def test_full_accept_queue_is_connect_failed_within_its_deadline(pool):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectFailed):
            await pool.send(engine(listener.getsockname()[1]), "/x", b"{}", (), QUICK)
        for sock in waiting:
            sock.close()


async def test_silence_before_the_headers_is_first_byte_timeout(pool):
    async with serving(answers()) as server:
        with pytest.raises(FirstByteTimeout) as failure:
            await body_of(pool, server)
    assert not failure.value.undelivered


async def test_silence_between_headers_and_body_is_first_byte_timeout(pool):
    async with serving(answers(CHUNKED)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        with pytest.raises(FirstByteTimeout):
            await anext(response)


async def test_silence_in_the_body_is_idle_timeout_after_what_came(pool):
    async with serving(answers(CHUNKED, b"2\r\nab\r\n", b"2\r\ncd\r\n", pause=0.1)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        seen = await anext(response) + await anext(response)
        with pytest.raises(IdleTimeout):
            await anext(response)
    assert seen == b"abcd"


async def test_silence_is_not_the_engines_while_this_process_slept(pool):
    """What the engine sent meanwhile is read before anything is said of it; its own silence ends the answer."""
    async with serving(answers(CHUNKED, b"2\r\nab\r\n", b"2\r\ncd\r\n", pause=0.1)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert await anext(response) == b"ab"
        time.sleep(QUICK.idle_ms / 1000 + 0.3)  # noqa: ASYNC251 - the whole loop is to stand still
        assert await anext(response) == b"cd"
        with pytest.raises(IdleTimeout):
            await anext(response)


async def test_a_silence_ends_though_this_process_is_always_late(pool, monkeypatch):
    """It is given time to read what came once, not again and again until the call's total deadline."""
    monkeypatch.setattr(exchange, "STOOD_STILL_S", -1.0)  # each timer counts as late
    monkeypatch.setattr(exchange, "LOOK_S", 0.05)
    async with serving(answers(CHUNKED, b"2\r\nab\r\n")) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert await anext(response) == b"ab"
        with pytest.raises(IdleTimeout):
            await anext(response)


async def test_slow_but_steady_stream_meets_the_total_deadline(pool):
    steady = [b"1\r\na\r\n"] * 20
    async with serving(answers(CHUNKED, *steady, pause=0.05)) as server:
        with pytest.raises(TotalTimeout):
            await body_of(pool, server, Deadlines(idle_ms=200, total_ms=250))


async def test_cut_in_the_middle_is_cut_after_what_came(pool):
    async with serving(answers(CHUNKED + b"2\r\nab\r\n", then=hang_up)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert await anext(response) == b"ab"
        with pytest.raises(Cut) as failure:
            await anext(response)
    assert not failure.value.undelivered


async def test_short_of_its_content_length_is_cut(pool):
    async with serving(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", then=hang_up)) as server:
        with pytest.raises(Cut):
            await body_of(pool, server)


async def test_engine_that_took_the_request_and_died_is_not_asked_again(pool):
    """A kept connection, then an engine that reads the whole second request and closes: it may have begun."""

    async def script(reader, writer):
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)

    async with serving(script) as server:
        assert await body_of(pool, server) == b"{}"
        with pytest.raises(Cut) as failure:
            await body_of(pool, server)
    assert not failure.value.undelivered
    assert server.connections == 1


async def test_kept_connection_closed_meanwhile_is_replaced(pool):
    async with serving(answers(OK, then=hang_up)) as server:
        for _ in range(3):
            assert await body_of(pool, server) == b"{}"
            await asyncio.sleep(0.01)
    assert server.connections == 3


async def test_request_meeting_a_closing_connection_is_sent_again(pool, monkeypatch):
    """The race itself: the engine's end of connection is on its way, we do not know it yet, and write. Its kernel never
    acknowledges the request, so it is sent again on a fresh connection."""
    monkeypatch.setattr(exchange.Connection, "usable", lambda self: True)
    held: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        server = Server(answers())
        server.port = listener.getsockname()[1]

        async def serve_once() -> None:
            sock, _ = await loop.sock_accept(listener)
            await loop.sock_recv(sock, 65536)
            await loop.sock_sendall(sock, OK)
            held.append(sock)

        first = asyncio.create_task(serve_once())
        assert await body_of(pool, server) == b"{}"
        await first
        second = asyncio.create_task(serve_once())
        held[0].close()  # before the loop can hear of it:
        assert await body_of(pool, server) == b"{}"
        await second
        held[1].close()


async def test_request_left_unread_by_a_closing_engine_is_sent_again(pool):
    """llama.cpp's way of letting a kept connection go: shut down, then closed with our request unread in the socket.
    The kernel acknowledged the request, then reset the connection because nobody had read it."""
    held: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        server = Server(answers())
        server.port = listener.getsockname()[1]

        async def serve_once() -> None:
            sock, _ = await loop.sock_accept(listener)
            await loop.sock_recv(sock, 65536)
            await loop.sock_sendall(sock, OK)
            held.append(sock)

        first = asyncio.create_task(serve_once())
        assert await body_of(pool, server) == b"{}"
        await first
        second = asyncio.create_task(serve_once())
        again = asyncio.create_task(body_of(pool, server, Deadlines()))
        await asyncio.sleep(0.01)
        assert select.select([held[0]], [], [], 0)[0]
        held[0].shutdown(socket.SHUT_RDWR)
        held[0].close()
        assert await again == b"{}"
        await second
        held[1].close()


async def test_closing_an_unfinished_answer_reaches_the_engine_at_once(pool):
    gone_at: list[float] = []
    loop = asyncio.get_running_loop()

    async def script(reader, writer):
        await read_request(reader)
        writer.write(CHUNKED + b"2\r\nab\r\n")
        await reader.read()
        gone_at.append(loop.time())

    async with serving(script) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        assert await anext(response) == b"ab"
        closed_at = loop.time()
        response.close()
        await asyncio.sleep(0.05)
        assert gone_at[0] - closed_at < 0.05
        with pytest.raises(Cut):
            await anext(response)


async def test_what_arrived_unread_is_handed_out_when_letting_go(pool):
    """Unread in our buffer and, behind a paused reader, unread in the socket."""
    pieces = [b"%06x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n"] * 20
    async with serving(answers(CHUNKED, *pieces)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        first = await anext(response)
        await asyncio.sleep(0.1)
        assert response._size < 1_000_000 - len(first)
        rest = response.close()
        assert len(first) + len(rest) == 1_000_000
        assert response.close() == b""


async def test_letting_go_of_a_complete_answer_keeps_its_connection(pool):
    async with serving(answers(OK)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        await asyncio.sleep(0.02)
        assert response.close() == b"{}"
        assert len(pool._open) == 1


async def test_cancelled_send_drops_its_connection(pool):
    async with serving(answers()) as server:
        sending = asyncio.create_task(pool.send(engine(server.port), "/x", b"{}", (), Deadlines()))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.sleep(0.02)
        assert not pool._open


async def test_engine_is_held_back_while_nobody_reads(pool):
    """Back-pressure: an engine that could write 64 MB has written little when the reader has not read."""
    written = 0

    async def script(reader, writer):
        nonlocal written
        await read_request(reader)
        writer.write(CHUNKED)
        for _ in range(64):
            writer.write(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
            await writer.drain()
            written += 1 << 20
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with serving(script) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), Deadlines(idle_ms=200))
        await asyncio.sleep(0.3)  # longer than the idle deadline: we are not reading, so it does not run
        assert written < 16 << 20
        assert response._size < 1 << 20
        assert len(await response.read(1 << 27)) == 64 << 20


async def test_paused_connection_is_usable_again(pool):
    payload = b"x" * (exchange.BUFFER_HIGH_BYTES * 3)

    async def script(reader, writer):
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)

    async with serving(script) as server:
        for _ in range(3):
            response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
            await asyncio.sleep(0.05)
            assert await response.read(1 << 21) == payload
    assert server.connections == 1


async def test_whole_body_past_its_limit_is_refused(pool):
    async with serving(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)) as server:
        response = await pool.send(engine(server.port), "/x", b"{}", (), QUICK)
        with pytest.raises(Malformed):
            await response.read(999)


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000,
    ],
)
async def test_what_is_not_http_is_malformed(pool, text):
    async with serving(answers(*(text[i : i + 4096] for i in range(0, len(text), 4096)))) as server:
        with pytest.raises(Malformed):
            await body_of(pool, server)
        await asyncio.sleep(0.01)
        assert not pool._open


async def test_bytes_after_the_answer_spoil_the_connection_not_the_answer(pool):
    async with serving(answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as server:
        assert await body_of(pool, server) == b"{}"
        assert await body_of(pool, server) == b"{}"
    assert server.connections == 2


async def test_bytes_on_a_resting_connection_never_answer_the_next_request(pool):
    """Response smuggling: a late second answer must not be taken for the next call's."""

    async def late(reader, writer):
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await reader.read()

    async with serving(answers(OK, then=late)) as server:
        assert await body_of(pool, server) == b"{}"
        await asyncio.sleep(0.05)
        assert await body_of(pool, server) == b"{}"
    assert server.connections == 2


async def test_early_answer_to_a_large_body_is_read(pool):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await reader.read()

    async with serving(script) as server:
        response = await pool.send(engine(server.port), "/x", b"x" * (8 << 20), (), Deadlines())
        assert response.status == 413


def tls_server(tmp_path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


async def test_tls_engine_is_verified_unless_its_row_says_not_to(pool, tmp_path):
    async def script(reader, writer):
        while True:
            await read_request(reader)
            writer.write(OK)

    async with serving(script, tls_server(tmp_path)) as server:
        record = EngineRecord(id=1, name="e", kind="openai", base_url=f"https://localhost:{server.port}/v1")
        with pytest.raises(ConnectFailed):
            await pool.send(record, "/x", b"{}", (), QUICK)
        trusting = msgspec.structs.replace(record, verify_tls=False)
        for _ in range(3):
            response = await pool.send(trusting, "/x", b"{}", (), QUICK)
            assert await response.read(10) == b"{}"
    assert server.connections == 1


@pytest.mark.parametrize("bad", [[(b"x-a", b"b\r\nx-evil: 1")], [(b"x-a\n", b"b")], [(b"x", b"\0")]])
async def test_header_injection_is_a_programming_error(pool, bad):
    with pytest.raises(ValueError, match="line break"):
        await pool.send(engine(1), "/x", b"", bad, QUICK)


@pytest.mark.parametrize("path", ["/x y", "/x\r\nHost: y", "/\x7f"])
async def test_path_injection_is_a_programming_error(pool, path):
    with pytest.raises(ValueError, match="path"):
        await pool.send(engine(1), path, b"", (), QUICK)


@pytest.mark.parametrize("url", ["ftp://h/v1", "http:///v1", "http://h/v1?x=1", "unix:/s"])
def test_engine_url_must_be_plain_http(url):
    with pytest.raises(ValueError, match="base URL"):
        Target(EngineRecord(id=1, name="e", kind="openai", base_url=url), str)


def test_deadlines_of_a_model():
    model = ModelRecord(id=1, slug="m", context_length=1, max_completion_tokens=1, first_byte_ms=7, total_ms=9)
    assert Deadlines.of(model) == Deadlines(5_000, 7, 60_000, 9)
    assert Deadlines.of(model, whole=True).first_byte_ms == 9


def test_llamacpp_is_asked_to_close_each_connection():
    record = EngineRecord(id=1, name="e", kind="llamacpp", base_url="http://h/v1")
    assert b"\r\nconnection: close\r\n" in Target(record, str).head("POST", "/x", False)


def test_ipv6_engine_gets_a_bracketed_host():
    target = Target(EngineRecord(id=1, name="e", kind="openai", base_url="http://[::1]:8000/v1/"), str)
    assert target.origin.host == "::1"
    assert b"host: [::1]:8000\r\n" in target.head("POST", "/x", False)
    assert target.head("POST", "/x", True).startswith(b"POST /x ")


async def test_engine_record_is_opened_once_and_again_when_it_changes(pool):
    opened: list[str] = []

    def open_key(sealed: str) -> str:
        opened.append(sealed)
        return sealed

    pool._open_key = open_key

    async def script(reader, writer):
        while True:
            await read_request(reader)
            writer.write(OK)

    async with serving(script) as server:
        for key in ("a", "a", "b"):
            response = await pool.send(engine(server.port, api_key=key), "/x", b"{}", (), QUICK)
            await response.read(10)
    assert opened == ["a", "b"]


async def test_every_failure_leaves_no_connection_and_no_task(pool):
    async with serving(answers(then=hang_up)) as server:
        for _ in range(10):
            with pytest.raises(UpstreamFailure):
                await body_of(pool, server)
    for _ in range(200):
        if pool._open:
            await asyncio.sleep(0.01)
    assert not pool._open


async def test_no_answer_ever_reaches_another_request(pool):
    """1,500 requests, 40 at a time, over an engine that echoes each request's number in pieces of any size, answers
    late, closes in the middle, closes after the answer, or sends an answer too many; a third of the clients leave
    early. Whoever reads to the end reads only their own number."""
    chance = random.Random(5)

    async def script(reader, writer):
        while True:
            _, body = await read_request(reader)
            text = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for _ in range(chance.randint(1, 20)))
            answer = CHUNKED + text + b"0\r\n\r\n"
            if chance.random() < 0.1:
                answer = answer[: chance.randint(0, len(answer))]
                writer.write(answer)
                return
            while answer:
                size = chance.randint(1, 400)
                extra = chance.random() < 0.05 and size >= len(answer)
                writer.write(answer[:size] + (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" if extra else b""))
                answer = answer[size:]
                if chance.random() < 0.1:
                    await writer.drain()
                    await asyncio.sleep(0.001)
            if chance.random() < 0.1:
                return

    counts = {"whole": 0, "left": 0, "broken": 0}
    slots = asyncio.Semaphore(40)

    async def one(number: int) -> None:
        mine = b"<%d>" % number
        async with slots:
            try:
                response = await pool.send(engine(server.port), "/x", mine, (), Deadlines())
                if number % 3 == 0:
                    await anext(response, b"")
                    response.close()
                    counts["left"] += 1
                    return
                body = await response.read(1 << 20)
                assert set(body.split(mine)) == {b""}
                counts["whole"] += 1
            except Cut:
                counts["broken"] += 1

    async with serving(script) as server:
        await asyncio.gather(*(one(number) for number in range(1500)))
        await asyncio.sleep(0.02)
        assert all(connection.response is None for connection in pool._open)
    assert counts["whole"] > 600
    assert counts["left"] > 300
    assert counts["broken"] > 30
