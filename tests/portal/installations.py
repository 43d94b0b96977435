"""Installations of a test's own: folders, environments and programs apart from the suite's stores."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portal.stores import children
from portal.stores.place import PROJECT_DIR, Place
from tests import migrated

OURS = (
    "DJANGO_SETTINGS_MODULE",
    "DATABASE_",
    "REDIS_",
    "BROKER_",
    "CACHE_",
    "SECRET_KEY",
    "KEY_PEPPER",
    "SEALING_KEYS",
)


def servers(place: Place) -> list[int]:
    """Processes of PostgreSQL and Redis that serve this installation's data."""
    postgresql = children.servers_in(place.var / "postgresql-18", "postgres")
    return postgresql + children.servers_in(place.redis_data, "redis-server")


def own_environment(place: Place, **more: str) -> dict[str, str]:
    """As a shell that knows nothing of the suite's stores would have it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"VAR_DIR": str(place.var), "PYTHONUNBUFFERED": "1"} | more


@contextmanager
def installation(migrated_data: Path | None = None) -> Iterator[Place]:
    """A short path, so that sockets lie under it; open to pass through, as PostgreSQL may run as another user. With
    `migrated_data` its tables are there; without, the first start makes them."""
    with tempfile.TemporaryDirectory(prefix="gw-inst-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        place = Place(Path(folder) / "var")
        if migrated_data is not None:
            migrated.put(migrated_data, place)
        yield place


@contextmanager
def program(place: Place, *argv: str, prefix: tuple[str, ...] = (), **more: str) -> Iterator[subprocess.Popen[str]]:
    """`python ARGV` in the project, a process of its own that reads and writes lines; killed when the block ends."""
    process = subprocess.Popen(
        [*prefix, sys.executable, *argv],
        env=own_environment(place, **more),
        cwd=PROJECT_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def expect(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read lines until one holds `text`; all lines read."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was never said, but:\n" + "\n".join(lines))


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str], line: str = "", *, within_seconds: float = 60) -> tuple[int, str]:
    """Give it a last line to read; its exit status and the rest of what it said."""
    said, _ = process.communicate(line, timeout=within_seconds)
    return process.returncode, said
