"""Real processes against the suite's stores: proxy workers under gunicorn, a bare worker, and the journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings

from tests.proxy.shop import HELLO, Shop

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0


def wait_for(condition: Callable[[], Any], within_seconds: float = 30.0, what: str = "it") -> Any:
    until = time.monotonic() + within_seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen in {within_seconds} s")
        time.sleep(0.02)


class Processes:
    """Starts them with the test's database, Redis and WAL folder; kills what is left when closed."""

    def __init__(self, shop: Shop, database_url: str, wal_dir: Path, folder: Path) -> None:
        self.shop = shop
        self.wal_dir = wal_dir
        self.folder = folder
        self._environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "DATABASE_URL": database_url,
            "REDIS_URL": settings.REDIS_URL,
            "WAL_DIR": str(wal_dir),
            "VAR_DIR": str(folder),
            "SERVE": "proxy",
            "ALLOWED_HOSTS": "*",
            "DEFAULT_BRAND": "dialogix",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._clients: list[httpx.Client] = []

    def journal(self, crash_at: str = "") -> subprocess.Popen[bytes]:
        return self._start("manage.py", "journal", CRASH_AT=crash_at)

    def worker(self, crash_at: str = "") -> Proxy:
        """One proxy worker, its own master."""
        port = free_port()
        options = (
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--ws",
            "none",
        )
        grace = ("--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "5")
        argv = ("-m", "uvicorn", "portal.asgi:application", *options, *grace)
        return self._serving(self._start(*argv, CRASH_AT=crash_at), port)

    def gunicorn(self, *options: str, **more: str) -> Proxy:
        port = free_port()
        argv = ("-m", "gunicorn", "portal.asgi:application", "-c", "portal/server.py", "--workers", "1", *options)
        return self._serving(self._start(*argv, PORT=str(port), BIND="127.0.0.1", **more), port)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for process in self._started:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def _start(self, *argv: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *argv], cwd=ROOT, env={**self._environment, **more}, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def _serving(self, process: subprocess.Popen[bytes], port: int) -> Proxy:
        def answers() -> bool:
            assert process.poll() is None, self.log()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_for(answers, START_SECONDS, "the proxy's start")
        proxy = Proxy(process, port, self.shop.secret)
        self._clients.append(proxy.client)
        return proxy


class Proxy:
    """A served proxy, and calls to it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, secret: str) -> None:
        self.process = process
        headers = {"authorization": f"Bearer {secret}"}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", headers=headers, timeout=60)

    def chat(self, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 64} | fields
        return self.client.post("/chat/completions", json=body, headers=headers)

    def cut(self, **fields: Any) -> bytes:
        """What came of an answer whose server may die under it."""
        body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 64} | fields
        got = b""
        with (
            suppress(httpx.TransportError),
            self.client.stream("POST", "/chat/completions", json=body) as response,
        ):
            for piece in response.iter_raw():
                got += piece
            assert response.status_code == 200, (response.status_code, got)
        return got

    def cut_response(self) -> bytes:
        """The same of a streamed response."""
        body = {"model": "aion-v3", "input": HELLO, "max_output_tokens": 64, "stream": True}
        got = b""
        with suppress(httpx.TransportError), self.client.stream("POST", "/responses", json=body) as response:
            for piece in response.iter_raw():
                got += piece
        return got

    def wait(self) -> int:
        return self.process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running(shop: Shop, database_url: str, wal_dir: Path, folder: Path) -> Iterator[Processes]:
    processes = Processes(shop, database_url, wal_dir, folder)
    try:
        yield processes
    finally:
        processes.close()
