"""Proxy workers as production runs them: gunicorn, several processes, on the test's stores; and a crowd that calls."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
from django.conf import settings

from portal.stores import children
from portal.stores.place import PROJECT_DIR


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def proxy_workers(count: int, folder: Path) -> Iterator[int]:
    """The port on which `count` workers serve until the block ends."""
    port = free_port()
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "PORT": str(port),
        "WORKERS": str(count),
        "SERVE": "proxy",
        "VAR_DIR": str(folder),
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "DRAIN_SECONDS": "2",
        "REDIS_URL": settings.REDIS_URL,
        "REFUSALS_PER_MINUTE": "1000000000",  # limits are met here at full speed: no worker answers for them by itself
    }
    log = (folder / "workers.log").open("wb")
    command = [sys.executable, "-m", "gunicorn", "portal.asgi:application", "-c", "portal/server.py"]
    server = subprocess.Popen(command, cwd=PROJECT_DIR, env=environment, stdout=log, stderr=log)
    try:
        _wait_until_all_serve(port, count, folder / "workers.log")
        yield port
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


@contextmanager
def journal(folder: Path) -> Iterator[None]:
    """`manage.py journal` on the same stores until the block ends."""
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "REDIS_URL": settings.REDIS_URL,
        "VAR_DIR": str(folder),
    }
    argv = [sys.executable, str(PROJECT_DIR / "manage.py"), "journal"]
    child = children.spawn(argv, log=folder / "journal.log", environment=environment, cwd=PROJECT_DIR)
    try:
        yield
    finally:
        children.stop(child, signal.SIGTERM, within_seconds=20)


def _wait_until_all_serve(port: int, count: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        except httpx.HTTPError:
            text = ""
        if f"gateway_workers {float(count)}" in text:
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


class Answer(NamedTuple):
    """`began` and `ended`: time.time() around one request. `limit`: the requests a day that its headers tell;
    `call_id`: its x-request-id."""

    status: int
    code: str
    began: float
    ended: float
    limit: str = ""
    call_id: str = ""


class Caller:
    """One client on one kept connection. Its request is on the wire as one write."""

    def __init__(self, port: int, path: str, secret: str, body: dict[str, object]) -> None:
        content = orjson.dumps(body)
        self._port = port
        self._request = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        ).encode() + content

    async def connect(self) -> Caller:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def call(self) -> Answer:
        began = time.time()
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(_header(head, b"content-length"))
        body = orjson.loads(await self._reader.readexactly(length))
        status = int(head.split(b" ", 2)[1])
        code = body["error"]["code"] if status != 200 else ""
        limit, call_id = _header(head, b"x-ratelimit-limit-requests"), _header(head, b"x-request-id")
        return Answer(status, code, began, time.time(), limit, call_id)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def _header(head: bytes, name: bytes) -> str:
    return head.lower().partition(b"\r\n" + name + b": ")[2].partition(b"\r")[0].decode()
