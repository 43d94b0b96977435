"""Who runs the private stores of a folder: one process owns them, others attach.

`manage.py up` owns them for as long as it serves. Any other command attaches when somebody owns them already; else it
starts them for its own time and stops them when no other command uses them any more.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from portal.stores import StoresError
from portal.stores.place import Place
from portal.stores.postgresql import PostgreSQL
from portal.stores.redis_server import RedisServer

ATTACH_SECONDS_MAX = 180.0


class Stores:
    """The pair of servers. Start and stop happen in the owner's main thread."""

    def __init__(self, place: Place, *, durable: bool = True) -> None:
        place.made()
        self.postgresql = PostgreSQL(
            folder=place.var,
            sockets=place.postgresql_sockets,
            log=place.logs / "postgresql.log",
            durable=durable,
        )
        self.redis = RedisServer(data=place.redis_data, socket=place.redis_socket, log=place.logs / "redis.log")

    def start(self) -> None:
        try:
            self.postgresql.start()
            self.redis.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.redis.stop()
        self.postgresql.stop()


class Ownership:
    """The lock on `stores.json`. The kernel frees it when its holder dies, however it dies."""

    def __init__(self, place: Place) -> None:
        place.made()
        self.path = place.owner_file
        self._file: IO[str] | None = None

    def take(self) -> bool:
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def declare(self, *, purpose: str, ready: bool) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "purpose": purpose, "ready": ready}, self._file)
        self._file.flush()

    def give_up(self) -> None:
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.close()
            self._file = None

    def holder(self) -> dict[str, object]:
        """What the holder declared; empty while it has not yet, or when nobody holds it."""
        try:
            facts = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}


@contextmanager
def stores(place: Place) -> Iterator[None]:
    """For the time of one command: attached to a running owner's stores, or with stores of its own."""
    ownership = Ownership(place)
    deadline = time.monotonic() + ATTACH_SECONDS_MAX
    while not ownership.take():
        if ownership.holder().get("ready"):
            with _shared(place.users_file):
                yield
            return
        if time.monotonic() > deadline:
            raise StoresError(f"The stores of {place.var} are held by {ownership.holder()} but never became ready.")
        time.sleep(0.05)
    pair = Stores(place)
    try:
        ownership.declare(purpose="command", ready=False)
        pair.start()
        ownership.declare(purpose="command", ready=True)
        yield
        _wait_for_users(place.users_file)
    finally:
        pair.stop()
        ownership.give_up()


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _wait_for_users(path: Path) -> None:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
