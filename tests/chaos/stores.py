"""Stores of a run's own, and the environment that names them: before Django reads it, so this module knows no model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import django

from portal.stores.place import Place
from portal.stores.postgresql import PostgreSQL
from portal.stores.redis_server import RedisServer

SECRETS = {
    "SECRET_KEY": "chaos" * 10,
    "KEY_PEPPER": f"1:{'cd' * 32}",
    "SEALING_KEYS": "dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q=",
}


class Stores(NamedTuple):
    """PostgreSQL keeps what it has committed, as in production: a crash of it is one of the faults."""

    place: Place
    postgresql: PostgreSQL
    redis: RedisServer


@contextmanager
def started(*, keep: bool, tables: str = "") -> Iterator[Stores]:
    """Django is set up, and the tables are there. `keep`: the folder outlives the run. `tables`: a data folder of
    PostgreSQL to begin with."""
    folder = Path(tempfile.mkdtemp(prefix="gw-chaos-"))  # short, so that sockets lie under it
    folder.chmod(0o711)  # PostgreSQL may run as another user, who passes through
    place = Place(folder / "var").made()
    stores = Stores(
        place,
        PostgreSQL(folder=place.var, sockets=place.postgresql_sockets, log=place.logs / "postgresql.log"),
        RedisServer(data=place.redis_data, socket=place.redis_socket, log=place.logs / "redis.log"),
    )
    try:
        if tables:
            subprocess.run(["cp", "-a", tables, stores.postgresql.data], check=True)
        stores.postgresql.start()
        stores.redis.start()
        os.environ |= _environment(place)
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        yield stores
    finally:
        for server in (stores.redis, stores.postgresql):
            if server.child is not None:
                with suppress(ProcessLookupError):
                    server.child.send_signal(signal.SIGCONT)
                server.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _environment(place: Place) -> dict[str, str]:
    return {
        **SECRETS,
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "DATABASE_URL": place.database_url(),
        "REDIS_URL": place.redis_url(),
        "BROKER_URL": place.redis_url(1),
        "CACHE_URL": place.redis_url(2),
        "WAL_DIR": str(place.var / "wal"),
        "VAR_DIR": str(place.var),
        "ALLOWED_HOSTS": "*",
        "DEFAULT_BRAND": "dialogix",
        "LOG_LEVEL": "CRITICAL",
    }
