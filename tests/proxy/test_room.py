"""A worker takes on so much and refuses the rest at once; what it has taken on is not harmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.refusals import Declined, Reason
from proxy.room import Room
from tests.proxy.shop import Gateway
from tests.proxy.test_failures import assert_says


def test_calls_and_bytes_are_bounded_and_given_back() -> None:
    room = Room(2, 100)
    room.enter(60)
    for refused in (lambda: room.enter(41), lambda: room.grow(41)):
        with pytest.raises(Declined) as caught:
            refused()
        assert caught.value.problem.reason is Reason.OVERLOADED
    room.enter(0)
    with pytest.raises(Declined):
        room.enter(0)
    room.leave(60)
    room.grow(100)
    room.leave(100)
    assert (room.calls, room.bytes) == (0, 0)


@pytest.fixture
def small(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    room = Room(4, 64 * 1024)
    monkeypatch.setattr(gateway.worker, "room", room)
    yield room
    assert (room.calls, room.bytes) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_a_full_worker_refuses_at_once_and_keeps_what_it_has(gateway: Gateway, small: Room) -> None:
    answers: list[Any] = []

    def call() -> None:
        answers.append(gateway.chat("demo:delay=1500"))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    while small.calls < 4:
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
