"""The programs of an installation to break: two proxies, journal and Celery, and the wires to their stores.

Programs are started as `manage.py up` starts them. What dies is started again after a pause, as a supervisor would.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any, NamedTuple

import redis

from billing import script, wal
from keys.caller import SHARDS
from portal.stores import children
from portal.stores.place import PROJECT_DIR
from tests.chaos.processes import free_port
from tests.chaos.relay import Relay
from tests.chaos.stores import Stores

PROXIES = 2
DRAIN_SECONDS = 5
STOP_SECONDS_MAX = 40.0
POSTGRESQL_SOCKET = ".s.PGSQL.5432"


@dataclass
class Program:
    """One command that is kept running while `wanted`; not started again before `due`."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    child: Popen[bytes] | None = None
    wanted: bool = True
    due: float = 0.0

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    @property
    def is_running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def start(self) -> None:
        if self.child is not None:
            children.kill_session(self.child.pid)
        self.child = children.spawn(self.argv, log=self.log, environment=self.environment, cwd=PROJECT_DIR)

    def kill(self, restart_after_seconds: float) -> None:
        assert self.child is not None
        self.due = time.monotonic() + restart_after_seconds
        self.child.kill()
        self.child.wait()


class Death(NamedTuple):
    """Of a worker: when it did its last, and when it was killed; seconds of time.time(). They differ where it had been
    stopped before."""

    silent_at: float
    at: float


@dataclass
class ProxyProgram(Program):
    """gunicorn's master and its one worker."""

    port: int = 0
    wal_dir: Path = field(default_factory=Path)
    deaths: list[Death] = field(default_factory=list)
    _stopped_at: float | None = None

    def start(self) -> None:
        if self.child is not None and children.session_members(self.child.pid):
            self._note_death()  # who outlived the master is killed now
        super().start()

    def kill(self, restart_after_seconds: float) -> None:
        """The worker dies with its master."""
        super().kill(restart_after_seconds)
        self._note_death()

    def kill_worker(self, pid: int) -> None:
        """Its master starts the next one at once."""
        os.kill(pid, signal.SIGKILL)
        self._note_death()

    def worker(self) -> int | None:
        """The living worker's process id, once it has its write-ahead log."""
        files = self.files()
        return int(files[-1].name.split("-")[-2]) if files else None

    def files(self) -> list[Path]:
        """The write-ahead log of the living worker."""
        if self.child is None:
            return []
        ours = set(children.session_members(self.child.pid))
        return [path for path in wal.files(self.wal_dir) if int(path.name.split("-")[-2]) in ours]

    def stop_worker(self, pid: int) -> None:
        """Until `wake_worker`."""
        os.kill(pid, signal.SIGSTOP)
        self._stopped_at = time.time()

    def wake_worker(self, pid: int) -> None:
        self._stopped_at = None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _note_death(self) -> None:
        now = time.time()
        self.deaths.append(Death(self._stopped_at or now, now))
        self._stopped_at = None

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


class World:
    """`replays`: whether dead workers' write-ahead logs are left where their successors find them. `timeout`: seconds
    after which gunicorn replaces a still worker; None: as shipped."""

    def __init__(
        self,
        stores: Stores,
        loop: asyncio.AbstractEventLoop,
        *,
        seed: int,
        replays: bool = True,
        timeout: int | None = 240,
    ) -> None:
        self.place = place = stores.place
        self.loop = loop
        self.replays = replays
        self.timeout = timeout
        self.wal_dir = place.var / "wal"
        self.postgresql, self.redis = stores.postgresql, stores.redis
        self.redis_wire = Relay(place.run / "wire.sock", place.redis_socket, seed=seed)
        self.postgresql_wire = Relay(
            place.run / "wire" / POSTGRESQL_SOCKET, place.postgresql_sockets / POSTGRESQL_SOCKET, seed=seed + 1
        )
        self.stores_wanted = {"redis": True, "postgresql": True}
        self.programs: dict[str, Program] = {}
        self.proxies: list[ProxyProgram] = []
        self._file_sizes: deque[tuple[float, int]] = deque(maxlen=2_000)

    def start_programs(self) -> None:
        self.postgresql_wire.path.parent.mkdir(mode=0o700)
        self.in_loop(self.redis_wire.start())
        self.in_loop(self.postgresql_wire.start())
        plain = dict(os.environ) | {"LOG_LEVEL": "INFO"}
        wired = plain | {"REDIS_URL": f"unix://{self.redis_wire.path}?db=0"}
        for number in range(PROXIES):
            self._add_proxy(number, wired)
        database = self.place.database_url().replace(
            str(self.place.postgresql_sockets), str(self.postgresql_wire.path.parent)
        )
        self._add("journal", ("manage.py", "journal"), wired | {"DATABASE_URL": database})
        celery = ("-m", "celery", "-A", "portal.celery", "worker", "-B", "-c", "1", "--loglevel", "INFO")
        self._add("worker", (*celery, "--without-gossip", "--without-mingle"), plain)
        self.look()

    def _add(self, name: str, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
        argv = (sys.executable, *argv)
        self.programs[name] = Program(name, argv, environment, self.place.logs / f"{name}.log")

    def _add_proxy(self, number: int, environment: Mapping[str, str]) -> None:
        port, name = free_port(), f"proxy {number}"
        var = self.place.var / f"p{number}"  # gunicorn's control socket is one per VAR_DIR
        own = {"PORT": str(port), "BIND": "127.0.0.1", "SERVE": "proxy", "DRAIN_SECONDS": str(DRAIN_SECONDS)}
        # A worker that is stopped for longer than its leases is to wake up again, not to be replaced, however late.
        patience = () if self.timeout is None else ("--timeout", str(self.timeout))
        options = ("-c", "portal/server.py", "--workers", "1", *patience)
        program = ProxyProgram(
            name,
            (sys.executable, "-m", "gunicorn", "portal.asgi:application", *options),
            dict(environment) | own | {"VAR_DIR": str(var)},
            self.place.logs / f"proxy{number}.log",
            port=port,
            wal_dir=self.wal_dir,
        )
        self.programs[name] = program
        self.proxies.append(program)

    def look(self) -> None:
        """Starts what ought to run and does not."""
        now = time.monotonic()
        for program in self.programs.values():
            if program.wanted and not program.is_running and now >= program.due:
                program.start()
        with suppress(OSError):
            self._file_sizes.append((now, self.append_only_file.stat().st_size))

    def stop_program(self, name: str) -> bool:
        """SIGTERM; True when it went by itself."""
        program = self.programs[name]
        program.wanted = False
        return program.child is None or children.stop(program.child, signal.SIGTERM, within_seconds=STOP_SECONDS_MAX)

    def close(self) -> None:
        for program in self.programs.values():
            program.wanted = False
            if program.child is not None:
                children.kill_session(program.child.pid)
                program.child.wait()

    # what faults and questions need

    def in_loop(self, coroutine: Coroutine[Any, Any, Any], within_seconds: float = 30.0) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within_seconds)

    def soon(self, act: Callable[[], None]) -> None:
        self.loop.call_soon_threadsafe(act)

    def store(self) -> redis.Redis:
        """Redis itself, past the wire."""
        return redis.Redis(unix_socket_path=str(self.place.redis_socket), socket_timeout=5)

    @property
    def append_only_file(self) -> Path:
        return self.place.redis_data / "appendonly.aof"

    def file_size_before(self, seconds: float) -> int | None:
        """Bytes of the append-only file so long ago, when it has only grown since."""
        then = time.monotonic() - seconds
        older = [size for at, size in self._file_sizes if at <= then]
        newer = [size for at, size in self._file_sizes if at > then]
        return older[-1] if older and all(size >= older[-1] for size in newer) else None

    def is_ready(self, target: str) -> bool:
        """Whether `target` is there to be broken."""
        if target == "redis":
            return self.stores_wanted["redis"] and self.redis.answers()
        if target == "postgresql":
            return self.stores_wanted["postgresql"] and self.postgresql.answers()
        program = self.programs.get(target)
        if isinstance(program, ProxyProgram):
            return program.is_running and program.answers() and program.worker() is not None
        return program is None or program.is_running

    def is_open(self) -> bool:
        """Whether Redis decides, in all shards."""
        with suppress(redis.RedisError):
            epochs = script.run(self.store(), [("epoch", number) for number in range(SHARDS)])
            return all(is_open for _, _, _, is_open, _ in epochs)
        return False

    def end_leases(self) -> None:
        store = self.store()
        for shard in range(SHARDS):
            for hold in script.read_holds(store, shard):
                store.zadd(script.name(shard, script.LEASES), {hold.call_id: 1})

    def forget_files(self, proxy: ProxyProgram) -> None:
        """Where write-ahead logs are withheld: nobody will find the dead worker's."""
        if not self.replays:
            for path in proxy.files():
                path.unlink(missing_ok=True)

    def forget_redis(self) -> None:
        shutil.rmtree(self.place.redis_data, ignore_errors=True)
        self._file_sizes.clear()


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="chaos: loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
