"""Bodies of requests to pages: no more of them than pages need, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from portal import page_bodies
from portal.asgi import pages

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/login/",
    "raw_path": b"/login/",
    "query_string": b"",
    "headers": [(b"host", b"testserver"), (b"transfer-encoding", b"chunked")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
    "scheme": "http",
}


class Client:
    """Sends `pieces` of 100 kB, then nothing more. `taken`: how many were asked for."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.taken = 0
        self.told: list[Any] = []

    async def receive(self) -> Any:
        if self.taken == self.pieces:
            await asyncio.Event().wait()
        self.taken += 1
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def send(self, message: Any) -> None:
        self.told.append(message)


async def told(client: Client) -> tuple[int, bool]:
    """The status, and whether the connection is to be closed."""
    async with asyncio.timeout(5):
        await page_bodies.serve(pages, dict(SCOPE), client.receive, client.send)
    start, _ = client.told
    return start["status"], (b"connection", b"close") in start["headers"]


async def test_a_body_without_end_is_refused() -> None:
    client = Client(10_000)
    assert await told(client) == (413, True)
    assert client.taken == 21


async def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_bodies, "SECONDS_MAX", 0.1)
    client = Client(1)
    assert await told(client) == (408, True)


async def test_so_many_are_at_work_and_bodies_on_their_way_are_in_nobodys_way() -> None:
    running, most, done = 0, 0, asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, most
        while (await receive()).get("more_body"):
            pass
        running += 1
        most = max(most, running)
        await done.wait()
        running -= 1

    async def whole() -> Any:
        return {"type": "http.request", "body": b""}

    async def ask(receive: Any) -> None:
        await page_bodies.serve(slow, dict(SCOPE), receive, client.send)

    client = Client(0)
    unfinished = [asyncio.ensure_future(ask(Client(1).receive)) for _ in range(50)]
    asked = [asyncio.ensure_future(ask(whole)) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert (running, most) == (16, 16)
    done.set()
    await asyncio.gather(*asked)
    assert (running, most) == (0, 16)
    for task in unfinished:
        task.cancel()


async def test_who_finds_no_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_bodies, "WAIT_SECONDS_MAX", 0.05)
    monkeypatch.setattr(page_bodies, "AT_ONCE_MAX", 0)

    async def whole() -> Any:
        return {"type": "http.request", "body": b""}

    client = Client(0)
    await page_bodies.serve(pages, dict(SCOPE), whole, client.send)
    assert client.told[0]["status"] == 503


async def test_a_whole_body_is_read_and_its_client_is_watched_as_ever() -> None:
    asked = []

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        asked.extend([await receive(), await receive()])

    messages = [{"type": "http.request", "body": b"a=b"}, {"type": "http.disconnect"}]
    client = Client(0)

    async def receive() -> Any:
        return messages.pop(0)

    await page_bodies.serve(plain, dict(SCOPE), receive, client.send)
    assert [message["type"] for message in asked] == ["http.request", "http.disconnect"]
    assert client.told == []
