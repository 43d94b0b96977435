"""Tables without migrating again: to bring an empty database up to date takes as long as many a test.

One database of the run's PostgreSQL is migrated; every runner's own is a copy of it, and so are the data folders of
installations that tests start, but for those that show a first start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connection

from portal.stores.place import DATABASE, ROLE, Place
from portal.stores.postgresql import MAJOR, PostgreSQL

NAME = "migrated"
FOLDER = "TEST_FOLDER"
"""The environment variable that names the run's folder, the same for all its runners."""


def database() -> str:
    """The name of the migrated database; made by the first runner that asks, while others wait."""
    with _alone() as folder:
        if not (folder / NAME).exists():
            _migrate()
            (folder / NAME).touch()
    return NAME


def data() -> Path:
    """A data folder of PostgreSQL that holds the tables, at rest; made by the first runner that asks."""
    database()
    with _alone() as folder:
        made = folder / "data"
        if not made.exists():
            _copy_into_own_server(Place(folder / "copy").made()).rename(made)
    return made


def put(data_folder: Path, place: Place) -> None:
    """An installation that finds its tables when it starts for the first time."""
    place.made()
    command = ["cp", "-a", str(data_folder), str(place.var / f"postgresql-{MAJOR}")]
    subprocess.run(command, check=True)


@contextmanager
def _alone() -> Iterator[Path]:
    folder = Path(os.environ[FOLDER])
    with (folder / "migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _migrate() -> None:
    settings: dict[str, Any] = connection.settings_dict
    before = settings["NAME"]
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {NAME}")
    connection.close()
    settings["NAME"] = NAME
    try:
        call_command("migrate", verbosity=0, interactive=False)
    finally:
        connection.close()
        settings["NAME"] = before


def _copy_into_own_server(place: Place) -> Path:
    server = PostgreSQL(
        folder=place.var, sockets=place.postgresql_sockets, log=place.logs / "postgresql.log", durable=False
    )
    server.start()
    try:
        facts = connection.settings_dict
        dump = ["pg_dump", "--no-sync", "-h", facts["HOST"], "-U", facts["USER"], NAME]
        read = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(place.postgresql_sockets), "-U", ROLE, DATABASE]
        programs = server.programs
        said = subprocess.run([programs / dump[0], *dump[1:]], check=True, capture_output=True)
        subprocess.run([programs / read[0], *read[1:]], check=True, input=said.stdout, stdout=subprocess.DEVNULL)
    finally:
        server.stop()
        shutil.rmtree(place.logs, ignore_errors=True)
    return server.data
