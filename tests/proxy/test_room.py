"""A worker takes on so much and refuses the rest at once; what it has taken on is not harmed."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from proxy import heart
from proxy.refusals import Declined, Reason
from proxy.room import Room
from tests.proxy.shop import Gateway
from tests.proxy.test_failures import assert_says


def test_calls_and_bytes_are_bounded_and_given_back() -> None:
    room = Room(2, 100)
    room.enter()
    room.grow(60)
    assert_overloaded(lambda: room.grow(41))
    room.enter()
    assert_overloaded(room.enter)
    room.leave(60)
    room.grow(100)
    room.leave(100)
    assert (room.calls, room.bytes) == (0, 0)


def assert_overloaded(refused: Callable[[], None]) -> None:
    with pytest.raises(Declined) as caught:
        refused()
    assert caught.value.problem.reason is Reason.OVERLOADED


@pytest.mark.parametrize(("calls_max", "most"), [(1, 1), (2, 1), (4, 3), (64, 16), (2_000, 250)])
def test_bodies_on_their_way_are_a_part_of_the_room_for_each_organization(calls_max: int, most: int) -> None:
    room = Room(calls_max, 2**20)
    for _ in range(most):
        room.await_body(1)
    assert_overloaded(lambda: room.await_body(1))
    room.await_body(2)
    room.body_came(1, 0)
    room.await_body(1)
    for organization in [2] + [1] * most:
        room.body_came(organization, 0)
    assert is_empty(room)


def test_bytes_of_unfinished_bodies_are_a_part_of_the_room_for_each_organization() -> None:
    mib = 2**20
    room = Room(100, 256 * mib)
    room.await_body(1)
    room.grow_waiting(1, 31 * mib)
    room.await_body(1)
    assert_overloaded(lambda: room.grow_waiting(1, mib + 1))
    room.grow_waiting(1, mib)
    room.await_body(2)
    room.grow_waiting(2, 32 * mib)
    room.body_came(1, 31 * mib)
    room.grow_waiting(1, 31 * mib)
    for organization, pieces in ((1, 32 * mib), (2, 32 * mib)):
        room.body_came(organization, pieces)
    assert room.bytes == 95 * mib, "those that came are still held"
    assert is_empty(room)


def is_empty(room: Room) -> bool:
    """Nothing is remembered of organizations whose bodies came."""
    return not room._waiting and not room._waiting_bytes


def is_left(room: Room) -> bool:
    """Whether all have left; a call leaves a moment after its client has the answer."""
    for _ in range(500):
        if not room.calls:
            break
        time.sleep(0.01)
    return (room.calls, room.bytes) == (0, 0) and is_empty(room)


@pytest.fixture
def small(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    room = Room(4, 64 * 1024)
    monkeypatch.setattr(gateway.worker, "room", room)
    yield room
    assert is_left(room)


@pytest.mark.django_db(transaction=True)
def test_a_full_worker_refuses_at_once_and_keeps_what_it_has(gateway: Gateway, small: Room) -> None:
    answers: list[Any] = []

    def call() -> None:
        answers.append(gateway.chat("demo:delay=1500"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        deadline = time.monotonic() + 5
        while gateway.worker.admission.running < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    began = time.monotonic()
    refused = [gateway.chat() for _ in range(10)]
    assert time.monotonic() - began < 1.0
    for response in refused:
        assert_says(response, 503, "service_overloaded", retry=True)
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert gateway.chat().status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_bounded_together(gateway: Gateway, small: Room, chunked: bool) -> None:
    body = b'{"model":"aion-v3","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 70_000)
    content: Any = iter([body]) if chunked else body
    headers = {"content-type": "application/json"}
    assert_says(
        gateway.client.post("/chat/completions", content=content, headers=headers),
        503,
        "service_overloaded",
        retry=True,
    )
    assert gateway.chat().status_code == 200


def link(gateway: Gateway, head: bytes, secret: str | None = None) -> socket.socket:
    """A connection that has sent a customer's head of a chat, and `head`, and no body yet."""
    connection = socket.create_connection(("127.0.0.1", gateway.port))
    connection.settimeout(20)
    connection.sendall(
        b"POST /dialogix/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\n%b\r\n\r\n" % ((secret or gateway.shop.secret).encode(), head)
    )
    return connection


@pytest.mark.django_db(transaction=True)
def test_a_body_in_chunks_is_counted_while_it_comes(gateway: Gateway, small: Room) -> None:
    with link(gateway, b"transfer-encoding: chunked") as endless:
        for _ in range(3):
            endless.sendall(b"7530\r\n%b\r\n" % (b" " * 30_000))
        assert endless.recv(1000).startswith(b"HTTP/1.1 503")
    assert gateway.chat().status_code == 200


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("declared", [True, False])
def test_memory_is_bounded_whatever_clients_send_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    """Twenty clients of one customer send all but the end of two megabytes; there is room for five such bodies, and for
    four of one customer's."""
    room, size = Room(2_000, 10 * 2**20), 2 * 2**20
    monkeypatch.setattr(gateway.worker, "room", room)
    poor = gateway.shop.customer(credit="0.000000001").issued.secret
    head = b"content-length: %d" % size if declared else b"transfer-encoding: chunked"
    unfinished = b"%b%b" % (b"" if declared else b"%x\r\n" % size, b" " * (size - 1))
    with ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        links = [stack.enter_context(link(gateway, head, poor)) for _ in range(20)]
        for connection in links:
            with contextlib.suppress(ConnectionError):  # refused before all of it was sent
                connection.sendall(unfinished)
        for _ in range(100):
            answered, _, _ = select.select(links, [], [], 0)
            if len(answered) == 16:
                break
            time.sleep(0.05)
        assert all(connection.recv(1000).startswith(b"HTTP/1.1 503") for connection in answered)
        _, most = tracemalloc.get_traced_memory()
        assert (len(answered), room.calls) == (16, 4)
        assert room.bytes <= 4 * size
        assert gateway.chat().status_code == 200
    assert most < 3 * 10 * 2**20
    assert is_left(room)


@pytest.mark.django_db(transaction=True)
def test_who_declares_and_sends_nothing_takes_nobodys_room(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 bodies of 8 MiB would fill a worker of the usual size, and 300 calls are more than one customer's part of it.
    What they cost is a connection each, and not for long."""
    room = Room(2_000, 256 * 2**20)
    monkeypatch.setattr(gateway.worker, "room", room)
    poor = gateway.shop.customer(credit="0.000000001").issued.secret
    with ExitStack() as stack:
        silent = [stack.enter_context(link(gateway, b"content-length: 8388608", poor)) for _ in range(300)]
        for _ in range(100):
            answered, _, _ = select.select(silent, [], [], 0)
            if len(answered) == 50:
                break
            time.sleep(0.05)
        assert all(connection.recv(1000).startswith(b"HTTP/1.1 503") for connection in answered)
        assert (len(answered), room.calls, room.bytes) == (50, 250, 0)
        assert gateway.chat().status_code == 200
        monkeypatch.setattr(heart, "SILENT_SECONDS_MAX", 0.5)
        waiting = next(connection for connection in silent if connection not in answered)
        assert waiting.recv(1000).startswith(b"HTTP/1.1 408")
    assert is_left(room)
