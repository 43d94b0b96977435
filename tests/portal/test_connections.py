"""Connections that do nothing are closed; those that do something are not."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl

from portal import connections


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = b""
    while scope["path"] != "/unread":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    size = 8_000_000 if scope["path"] == "/large" else 2
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/half":
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"y"})
    else:
        await send({"type": "http.response.body", "body": b"x" * size})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[int]:
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.15)
    settings.CONNECTIONS_MAX = 20
    config = uvicorn.Config(
        application, port=0, http=connections.Protocol, lifespan="off", log_level="error", timeout_keep_alive=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = server.force_exit = True
    thread.join(10)


def link(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port))
    found.settimeout(5)
    return found


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(100) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def test_a_client_that_sends_nothing_or_half_a_head_is_let_go(port: int) -> None:
    with link(port) as silent, link(port) as half, link(port) as second:
        half.sendall(GET[:20])
        second.sendall(GET)
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
        second.sendall(GET[:20])
        for connection in (silent, half, second):
            assert closed_within(connection, 2)


def test_a_client_that_trickles_its_head_is_let_go(port: int) -> None:
    with link(port) as slow:
        slow.sendall(GET[:20])
        for _ in range(40):
            try:
                slow.sendall(b"a")
            except (BrokenPipeError, ConnectionResetError):
                return
            time.sleep(0.05)
        pytest.fail("it trickled on")


def test_a_client_at_work_or_between_two_requests_stays(port: int) -> None:
    with link(port) as busy, link(port) as kept:
        kept.sendall(GET)
        kept.recv(1000)
        busy.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(0.05)
            busy.sendall(b"x")
        assert busy.recv(1000).startswith(b"HTTP/1.1 200")
        kept.sendall(GET)
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_let_go(port: int) -> None:
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # else the kernel may take all of it by itself
        lazy.connect(("127.0.0.1", port))
        lazy.settimeout(5)
        lazy.sendall(GET.replace(b"/ ", b"/large "))
        time.sleep(0.15 * (connections.STUCK_CHECKS_MAX + 4))
        received = 0
        try:
            while data := lazy.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < 8_000_000


def test_clients_that_only_connect_cost_kilobytes(port: int, settings: Any) -> None:
    settings.CONNECTIONS_MAX, count = 1_000, 400
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(count):
            stack.enter_context(link(port)).sendall(GET[:20])
        with link(port) as working:
            working.sendall(GET)
            assert working.recv(1000).startswith(b"HTTP/1.1 200")
        held, _ = tracemalloc.get_traced_memory()
    assert held / count < 16 * 1024


CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"GET / HTTP/1.1\r\n", b"a:\r\n" * 10_000),
        (b"GET / HTTP/1.1\r\na: ", b"x" * 40_000),
        (b"GET /", b"x" * 40_000),
        (b"", b"\r\n" * 20_000),
        (CHUNKED + b"0\r\n", b"a:\r\n" * 10_000),
        (CHUNKED + b"0\r\na: ", b"x" * 40_000),
        (CHUNKED + b"1;", b"x" * 40_000),
    ],
)
def test_a_head_without_end_is_refused(port: int, beginning: bytes, more: bytes) -> None:
    """Also as trailers of a body, and as whatever else the parser takes in silence."""
    with link(port) as endless:
        endless.sendall(beginning)
        try:
            for _ in range(100):
                endless.sendall(more)
                time.sleep(0.001)
        except ConnectionError:
            return
    pytest.fail("it went on")


def test_large_heads_and_bodies_are_no_endless_heads(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\na: %b\r\ncontent-length: 500000\r\n\r\n" % (b"x" * 50_000)
    with link(port) as connection:
        for _ in range(2):
            connection.sendall(head + b"y" * 500_000)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def cycles() -> list[connections.Cycle]:
    """By their exact type: being asked for its class, a lazy object of another test would do its work."""
    return [each for each in gc.get_objects() if type(each) is connections.Cycle]


def test_clients_that_ask_for_thousands_at_once_cost_kilobytes(port: int) -> None:
    """And read nothing: what they asked for would wait for two minutes."""
    burst = b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n" * 6_000
    with ExitStack() as stack:
        before = len(cycles())
        for _ in range(10):
            with suppress(ConnectionError):
                stack.enter_context(link(port)).sendall(burst)
        with link(port) as working:
            working.sendall(GET)
            assert working.recv(1000).startswith(b"HTTP/1.1 200")
        made = len(cycles()) - before
    assert made < 1_000


def test_requests_as_many_as_allowed_are_answered(port: int) -> None:
    with link(port) as connection:
        count = connections.PIPELINED_MAX + 1
        connection.sendall(GET * count)
        said = b""
        while said.count(b"HTTP/1.1 200") < count or not said.endswith(b"xx"):
            said += connection.recv(65536)


def test_too_many_requests_at_once_say_nothing_into_an_answer(port: int) -> None:
    with link(port) as connection:
        connection.sendall(GET.replace(b"/ ", b"/half ") + GET * 100)
        said = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                said += piece
    assert b"400" not in said


def test_a_body_that_nobody_read_is_not_kept(port: int) -> None:
    with link(port) as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert [each.body for each in cycles() if each.scope["path"] == "/unread"] == [b""]


def test_no_more_connections_than_configured(port: int) -> None:
    links = [link(port) for _ in range(30)]
    try:
        for connection in links:
            connection.sendall(GET)
        time.sleep(0.1)
        answered = 0
        for connection in links:
            try:
                answered += connection.recv(1000).startswith(b"HTTP/1.1 200")
            except OSError:
                continue
        assert answered == 20
    finally:
        for connection in links:
            connection.close()


def test_a_client_that_asks_for_nothing_more_is_let_go(port: int) -> None:
    with link(port) as resting:
        resting.sendall(GET)
        assert resting.recv(1000).startswith(b"HTTP/1.1 200")
        assert not closed_within(resting, 1.5)
        assert closed_within(resting, 2)


# answers --------------------------------------------------------------------------------------------------------------


class Wire:
    """A transport that keeps what is written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True


def cycle(method: str = "GET", *, keep_alive: bool = True) -> tuple[connections.Cycle, Wire]:
    wire = Wire()
    nothing: Any = None
    made = connections.Cycle(
        scope={"method": method},  # type: ignore[typeddict-item]
        transport=wire,  # type: ignore[arg-type]
        flow=FlowControl(wire),  # type: ignore[arg-type]
        logger=nothing,
        access_logger=nothing,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    return made, wire


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_head_and_body_leave_in_one_write() -> None:
    answer, wire = cycle()
    await answer.send(start(200, (b"Content-Length", b"2")))
    assert wire.pieces == []
    await answer.send(body(b"ok"))
    assert wire.pieces == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\nok"]
    assert answer.response_complete
    assert not wire.closed


async def test_an_answer_of_unknown_length_leaves_in_chunks() -> None:
    answer, wire = cycle(keep_alive=False)
    await answer.send(start())
    await answer.send(body(b"one", more=True))
    await answer.send(body(b"two", more=True))
    await answer.send(body(b""))
    head = b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    assert wire.pieces == [head + b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert wire.closed


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_some_answers_have_no_body(method: str, status: int) -> None:
    answer, wire = cycle(method)
    await answer.send(start(status))
    await answer.send(body(b"" if status != 200 else b"ignored"))
    assert wire.pieces[0].endswith(b"\r\ndate: today\r\n\r\n")


async def test_a_header_cannot_bring_others_with_it() -> None:
    for value in (b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0"):
        answer, wire = cycle()
        with pytest.raises(RuntimeError, match="line break"):
            await answer.send(start(200, (b"location", value)))
        assert wire.pieces == []


async def test_an_answer_is_as_long_as_it_said() -> None:
    for data in (b"o", b"okay"):
        answer, _ = cycle()
        await answer.send(start(200, (b"content-length", b"2")))
        with pytest.raises(RuntimeError, match="as long as"):
            await answer.send(body(data))


async def test_an_answer_begins_once_and_ends_once() -> None:
    answer, _ = cycle()
    with pytest.raises(RuntimeError, match="goes on with"):
        await answer.send(body(b""))
    await answer.send(start())
    with pytest.raises(RuntimeError, match="goes on with"):
        await answer.send(start())
    await answer.send(body(b""))
    with pytest.raises(RuntimeError):
        await answer.send(body(b""))


async def test_a_whole_answer_leaves_in_one_step() -> None:
    answer, wire = cycle(keep_alive=False)
    assert answer.whole(200, [(b"content-length", b"2")], b"ok")
    assert wire.pieces == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    ]
    assert answer.response_complete
    assert wire.closed
    assert not answer.whole(200, [], b"")
    for value in (b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0"):
        answer, wire = cycle()
        with pytest.raises(RuntimeError, match="line break"):
            answer.whole(200, [(b"location", value)], b"")
        assert wire.pieces == []


async def test_what_cannot_leave_in_one_step_goes_in_messages() -> None:
    headers = [(b"content-length", b"2")]
    answer, wire = cycle("HEAD")
    assert not answer.whole(200, headers, b"ok")
    answer, wire = cycle()
    answer.disconnected = True
    assert not answer.whole(200, headers, b"ok")
    answer, wire = cycle()
    answer.flow.write_paused = True
    assert not answer.whole(200, headers, b"ok")
    assert wire.pieces == []


def test_a_path_is_read_as_it_was_sent(port: int) -> None:
    for path in (b"/", b"/a%20b?c=d", b"/a%20b?c=e", b"/a"):
        with link(port) as connection:
            for _ in range(2):
                connection.sendall(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert connections._url(b"/a%20b?c=d") == ("/a b", b"/a%20b", b"c=d")
    assert connections._url(b"http://host/x?y") == ("/x", b"/x", b"y")
    assert not [url for url in connections._plain_urls if b"?" in url], "a query may hold a key"


def test_requests_that_come_together_are_answered_in_order(port: int) -> None:
    with link(port) as connection:
        connection.sendall(b"GET /half HTTP/1.1\r\nhost: x\r\n\r\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        while said.count(b"HTTP/1.1 200") < 2 or not said.endswith(b"xx"):
            said += connection.recv(65536)
    assert said.index(b"\r\n\r\nxy") < said.rindex(b"HTTP/1.1 200")


def test_what_is_no_request_is_refused_with_an_id(port: int) -> None:
    for nonsense in (b"\x16\x03\x01 is a TLS hello\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"* * *\r\n"):
        with link(port) as connection:
            connection.sendall(nonsense)
            said = b""
            while piece := connection.recv(65536):
                said += piece
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        (call_id,) = [line[14:] for line in head.split(b"\r\n") if line.startswith(b"x-request-id: ")]
        assert uuid.UUID(call_id.decode()).version == 7
        assert json.loads(body)["error"]["code"] == "invalid_http"


def test_nonsense_behind_a_request_says_nothing_into_its_answer(port: int) -> None:
    with link(port) as connection:
        connection.sendall(b"GET /half HTTP/1.1\r\nhost: x\r\n\r\n")
        said = connection.recv(65536)
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        while piece := connection.recv(65536):
            said += piece
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"\r\n\r\nx"), "half of it, and nothing that could be taken for the rest"
