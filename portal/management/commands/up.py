"""`manage.py up`: the whole installation in the foreground. What it runs and in which order is read here."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.db import OperationalError, connections

from portal import roster, supervisor
from portal.checks import OF_SETTINGS
from portal.stores import StoresError
from portal.stores.place import PROJECT_DIR, Place
from portal.stores.running import Ownership, Stores
from portal.supervisor import Program, StopAsked, Store, Supervisor, say

READY_SECONDS_MAX = 120.0
USE_UP_SECONDS_MAX = 30.0
STOP_ORDER = ("web", "journal", "celery", "demo engine", "demo stripe", "redis", "postgresql")
MANAGE: list[str | Path] = [sys.executable, PROJECT_DIR / "manage.py"]


class Command(BaseCommand):
    help = "Runs pages, proxy, journal, jobs and (when no DATABASE_URL is given) private PostgreSQL and Redis."
    requires_system_checks = OF_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--workers", type=int, default=settings.WORKERS, help="proxy workers")
        parser.add_argument("--serve", choices=["both", "portal", "proxy"], default=settings.SERVE)
        parser.add_argument("--no-demo", action="store_true", help="no demo brands, no demo engine")

    def handle(self, *args: Any, port: int, workers: int, serve: str, no_demo: bool, **options: Any) -> None:
        settings.PORT, settings.SERVE, settings.DEMO = port, serve, settings.DEMO and not no_demo
        os.environ |= {"PORT": str(port), "WORKERS": str(workers), "SERVE": serve, "DEMO": str(int(settings.DEMO))}
        supervisor.raise_on_signals()
        try:
            Installation(settings.PLACE).run()
        except StoresError as error:
            raise CommandError(str(error)) from error
        except StopAsked:  # a second signal while stopping: what is left dies with this process
            sys.exit(130)


class Installation:
    """One run of `up` in one folder."""

    def __init__(self, place: Place) -> None:
        self.place = place.made()
        self.ownership = Ownership(place)
        self.supervisor = Supervisor(say=say, note=partial(roster.write, place.processes_file))
        self.base_url = f"http://localhost:{settings.PORT}"

    def run(self) -> None:
        try:
            self._take_the_folder()
            supervisor.end_leftovers(str(self.place.var))
            _refuse_taken_port(_own_address(), settings.PORT)
            self._start()
            self.supervisor.watch()
        except StopAsked as asked:
            say(f"Stopping ({asked}).")
        finally:
            self._stop()

    def _take_the_folder(self) -> None:
        waited = False
        while not self.ownership.take():
            holder = self.ownership.holder()
            if holder.get("purpose") == "up":
                raise CommandError(
                    f"Already running in {self.place.var} (process {holder.get('pid')}). Another instance needs a"
                    " folder and a port of its own: VAR_DIR=… PORT=…."
                )
            if not waited:
                say("Waiting for another command that uses the stores.")
            waited = True
            self.supervisor.watch(within_seconds=0.2)

    def _start(self) -> None:
        self.ownership.declare(purpose="up", ready=False)
        if settings.PRIVATE_STORES:
            say(f"Starting PostgreSQL and Redis in {self.place.var}")
            stores = Stores(self.place)
            self._start_or_fail(Store("postgresql", stores.postgresql))
            self._start_or_fail(Store("redis", stores.redis))
        say("Bringing the database up to date")
        _migrate()
        self.ownership.declare(purpose="up", ready=True)
        self._start_program("journal", "journal")  # first: it opens the shards that everything else counts in
        demo = self._start_demo() if settings.DEMO else {}
        connections.close_all()
        self._start_services()
        say("Waiting for the first answer")
        self._wait_for("web", _own_address(), settings.PORT)
        if demo and settings.SERVE != "portal":
            self._use_up(demo)
        say(f"Logs are in {self.place.logs}; Ctrl-C stops.")
        say(f"Ready: {self.base_url}")

    def _start_or_fail(self, store: Store) -> None:
        self.supervisor.start(store)
        if store.ended() is not None:
            raise CommandError(f"{store.name} did not start; see {store.log}.")

    def _wait_for(self, name: str, address: str, port: int) -> None:
        if not self.supervisor.watch(until=lambda: _answers(address, port), within_seconds=READY_SECONDS_MAX):
            raise CommandError(f"No answer on port {port}; see {self._log(name)}.")

    def _start_demo(self) -> dict[str, Any]:
        """The stand-ins for an engine and for Stripe, and what sells through them; what demo.json says."""
        from portal.demo.seed import seed
        from proxy.probe import ProbeFailed

        port = _remembered_port(self.place.var / "demo-engine.port")
        self._start_program("demo engine", "demo_engine", "--port", str(port))
        stripe_port = _remembered_port(self.place.var / "demo-stripe.port")
        state = self.place.var / "demo-stripe.json"
        self._start_program("demo stripe", "demo_stripe", "--port", str(stripe_port), "--state", str(state))
        self._wait_for("demo engine", "127.0.0.1", port)
        self._wait_for("demo stripe", "127.0.0.1", stripe_port)
        say("Preparing the demo")
        try:
            facts = seed(
                base_url=self.base_url,
                engine_url=f"http://127.0.0.1:{port}/v1",
                stripe_url=f"http://127.0.0.1:{stripe_port}",
            )
        except ProbeFailed as error:
            raise CommandError(f"DEMO_INFERENCE_URL={settings.DEMO_INFERENCE_URL}: {error}") from error
        _write_privately(self.place.var / "demo.json", json.dumps(facts, indent=2) + "\n")
        return facts

    def _use_up(self, demo: dict[str, Any]) -> None:
        """Calls are answered once the journal has opened the shards."""
        from portal.demo.exhausting import use_up

        address = f"{_own_address()}:{settings.PORT}"
        if not self.supervisor.watch(
            until=lambda: not use_up(demo, address=address), within_seconds=USE_UP_SECONDS_MAX
        ):
            say(f"Calls are not answered as they should be; see {self._log('web')} and {self._log('journal')}.")

    def _start_services(self) -> None:
        self.supervisor.start(self._program("web", _gunicorn(), stop_seconds=settings.DRAIN_SECONDS + 30))
        self.supervisor.start(self._program("celery", _celery(self.place), stop_seconds=30))

    def _start_program(self, name: str, command: str, *arguments: str) -> None:
        self.supervisor.start(self._program(name, [*MANAGE, command, *arguments], stop_seconds=30))

    def _program(self, name: str, argv: list[str | Path], *, stop_seconds: float) -> Program:
        mark = str(self.place.var)
        return Program(name=name, argv=argv, log=self._log(name), stop_seconds=stop_seconds, mark=mark)

    def _log(self, name: str) -> Path:
        return self.place.logs / f"{name.replace(' ', '-')}.log"

    def _stop(self) -> None:
        connections.close_all()
        self.supervisor.stop(STOP_ORDER)
        self.ownership.give_up()


def _migrate() -> None:
    try:
        call_command("migrate", verbosity=0, interactive=False)
    except OperationalError as error:
        raise CommandError(f"PostgreSQL does not answer: {error} Is DATABASE_URL right?") from error


def _gunicorn() -> list[str | Path]:
    here = PROJECT_DIR / "portal" / "server.py"
    return [sys.executable, "-m", "gunicorn", "portal.asgi:application", "-c", here, "--chdir", PROJECT_DIR]


def _celery(place: Place) -> list[str | Path]:
    return [
        *(sys.executable, "-m", "celery", "-A", "portal.celery", "--workdir", PROJECT_DIR),
        *("worker", "-B", "-c", "1", "--loglevel", "INFO", "--without-gossip", "--without-mingle"),
    ]


def _own_address() -> str:
    """Where this machine reaches its own server."""
    listening = settings.BIND[0].strip("[]") if settings.BIND else "127.0.0.1"
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listening, listening)  # noqa: S104


def _refuse_taken_port(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise CommandError(f"Port {port} cannot be used ({error.strerror}). Choose another: PORT=8001.") from error


def _remembered_port(record: Path) -> int:
    """The demo engine's port: the same at every start while it is free, so that its row need not change."""
    with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
        port = int(record.read_text())
        probe.bind(("127.0.0.1", port))
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    record.write_text(str(port))
    return port


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/v1/health", headers={"Host": "localhost"})
        connection.getresponse()  # also "no brand yet", which an installation without the demo says
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _write_privately(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
