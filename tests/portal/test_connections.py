"""Connections that do nothing are closed; those that do something are not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from portal import connections


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    size = 8_000_000 if scope["path"] == "/large" else 2
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
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
    with link(port) as lazy:
        lazy.sendall(GET.replace(b"/ ", b"/large "))
        time.sleep(0.15 * (connections.STUCK_CHECKS_MAX + 4))
        received = 0
        try:
            while data := lazy.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < 8_000_000


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
