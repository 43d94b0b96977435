"""`make overload`: five times more clients than an engine has slots, beside as many as it has. A minute and a half, on
private stores and loopback: demo engine with 100 slots, one proxy worker, clients that call again as soon as they have
their answer, and after a refusal when it says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from tests.speed.__main__ import NOT_OURS

SLOTS, FEW, MANY = 100, 100, 500
SECONDS = 30.0
CALL_MS = 500
RECOVERED_SECONDS = 5.0
GOODPUT_MIN = 0.8


class Burst(NamedTuple):
    """Whole calls: seconds from ask to answer of those that got 200; of refusals; other answers and broken ones."""

    seconds: float
    answered: list[float]
    refused: list[float]
    failed: int

    @property
    def rate(self) -> float:
        return len(self.answered) / self.seconds

    def line(self, name: str) -> str:
        refused = f"{statistics.median(self.refused) * 1000:.1f} ms" if self.refused else "-"
        median, longest = statistics.median(self.answered) * 1000, max(self.answered) * 1000
        return (
            f"{name:<22}{self.rate:>9.1f}{median:>12.0f}{longest:>12.0f}"
            f"{len(self.refused):>10}{refused:>16}{self.failed:>8}"
        )


async def burst(port: int, path: str, secret: str, clients: int, seconds: float) -> Burst:
    body = json.dumps(
        {
            "model": "speed-whole",
            "max_tokens": 8,
            "messages": [{"role": "user", "content": f"Go. demo:tokens=8 demo:delay={CALL_MS}"}],
        }
    ).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {secret}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    answered: list[float] = []
    refused: list[float] = []
    failed = 0
    until = time.monotonic() + seconds

    async def client() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.monotonic()) < until:
            try:
                writer.write(head.encode() + body)
                status, wait_s = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                failed += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            took = time.monotonic() - began
            if status == 200:
                answered.append(took)
            elif status == 503 and wait_s:
                refused.append(took)
                await asyncio.sleep(min(wait_s, until - time.monotonic()) if time.monotonic() < until else 0)
            else:
                failed += 1
        writer.close()

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Burst(time.monotonic() - began, answered, refused, failed)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, float]:
    """Status, and for how long it asks to wait."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    await reader.readexactly(int(fields[b"content-length"]))
    return int(lines[0].split()[1]), int(fields.get(b"retry-after-ms", 0)) / 1000


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, str, str]]:
    """(port, path, secret) of a running proxy before a demo engine."""
    from billing import engines
    from billing.models import Engine, ModelEngine
    from portal.stores.place import PROJECT_DIR
    from tests.speed.customer import customer
    from tests.speed.programs import _child, _wait_for

    engine, proxy = _free_port(), _free_port()
    environment = {"VAR_DIR": str(folder / "var"), "PORT": str(proxy), "WORKERS": "1", "SERVE": "proxy"}
    manage = [sys.executable, str(PROJECT_DIR / "manage.py")]
    with ExitStack() as stack:
        _child(stack, folder / "engine.log", [*manage, "demo_engine", "--port", str(engine), "--slots", str(SLOTS)])
        url = f"http://127.0.0.1:{engine}/v1"
        buyer = customer(whole_url=url, streamed_url=url)
        engines.change(engine=Engine.objects.get(name="speed-whole"), actor="speed", max_in_flight=SLOTS)
        route = ModelEngine.objects.get(engine__name="speed-whole")
        engines.set_route(model=route.model, engine=route.engine, name_there="demo-chat", actor="speed")
        _child(stack, folder / "journal.log", [*manage, "journal"], environment)
        server = [sys.executable, "-m", "gunicorn", "portal.asgi:application", "-c", f"{PROJECT_DIR}/portal/server.py"]
        _child(stack, folder / "web.log", server, environment)
        _wait_for(engine)
        _wait_for(proxy)
        yield proxy, buyer.path, buyer.secret


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(port: int, path: str, secret: str) -> int:
    def run(clients: int, seconds: float) -> Burst:
        return uvloop.run(burst(port, path, secret, clients, seconds))

    run(FEW, 2.0)
    few = run(FEW, SECONDS)
    many = run(MANY, SECONDS)
    after = run(FEW, RECOVERED_SECONDS)
    print(
        f"{'':<22}{'calls/s':>9}{'median ms':>12}{'longest ms':>12}{'refused':>10}{'median refusal':>16}{'failed':>8}"
    )
    for name, found in ((f"{FEW} clients", few), (f"{MANY} clients", many), (f"{FEW} in the 5 s after", after)):
        print(found.line(name))
    share, recovered = many.rate / few.rate, after.rate / few.rate
    print(f"goodput {share:.2f} of {FEW} clients alone (aim: {GOODPUT_MIN}); after it {recovered:.2f}")
    return exit_status(few, many, after)


def exit_status(few: Burst, many: Burst, after: Burst) -> int:
    """0 where overload harmed nothing: no call broke before, in or after it, and the rates were kept."""
    if any(burst.failed or not burst.answered for burst in (few, many, after)):
        return 1
    return 0 if min(many.rate, after.rate) >= GOODPUT_MIN * few.rate else 1


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="gw-overload-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # the unprivileged PostgreSQL passes through
        for setting in [name for name in os.environ if name.startswith(NOT_OURS)]:
            del os.environ[setting]
        os.environ |= {"VAR_DIR": str(folder / "var"), "DEMO": "0", "DJANGO_SETTINGS_MODULE": "portal.settings"}
        from portal.stores import running
        from portal.stores.place import Place

        with running.stores(Place.from_environment()):
            import django

            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0, interactive=False)
            with gateway(folder) as (port, path, secret):
                return measure(port, path, secret)


if __name__ == "__main__":
    sys.exit(main())
