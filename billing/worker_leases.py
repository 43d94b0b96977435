"""Which proxy workers are alive: their leased rows. A worker keeps its own; a rebuild waits for those that are there.

On its own host a rebuilder knows better: a worker whose WAL file nobody holds is dead, whatever its lease says. While
PostgreSQL is away nobody can renew: workers whose lease ran out then are alive, and are given a moment to say so.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.db.models import QuerySet
from django.db.models.functions import Now
from psycopg_pool import AsyncConnectionPool

from billing import remains
from billing.models import WorkerLease

LEASE_SECONDS: Final = 30
RENEW_SECONDS: Final = 5.0
LATELY: Final = timedelta(hours=1)
"""PostgreSQL may have been away for so long. Who did not renew for longer than that is gone."""

_RENEW: Final = (
    "INSERT INTO billing_workerlease (name, host, folder, running, held_nanos, expires_at)"
    " VALUES (%s, %s, %s, %s, %s, now() + make_interval(secs => %s))"
    " ON CONFLICT (name) DO UPDATE SET running = excluded.running, held_nanos = excluded.held_nanos,"
    " expires_at = excluded.expires_at"
)
_END: Final = "DELETE FROM billing_workerlease WHERE name = %s"


async def renew(pool: AsyncConnectionPool[Any], name: str, folder: str, *, running: int, held_nanos: int) -> None:
    """`folder` is its real path. Raises psycopg.Error or PoolTimeout."""
    async with pool.connection(RENEW_SECONDS) as connection:
        values = (name, socket.gethostname(), folder, running, held_nanos, LEASE_SECONDS)
        await connection.execute(_RENEW, values, prepare=False)


async def end(pool: AsyncConnectionPool[Any], name: str) -> None:
    async with pool.connection(RENEW_SECONDS) as connection:
        await connection.execute(_END, (name,), prepare=False)


def live(folder: Path) -> list[str]:
    """The workers that a rebuild waits for, seen from the host whose WAL folder this is."""
    return _alive(folder, WorkerLease.objects.filter(expires_at__gt=Now()))


def late(folder: Path) -> list[str]:
    """Those whose lease ran out, and that may not have been able to renew it."""
    return _alive(folder, WorkerLease.objects.filter(expires_at__lte=Now(), expires_at__gt=Now() - LATELY))


def _alive(folder: Path, leases: QuerySet[WorkerLease]) -> list[str]:
    here = socket.gethostname(), os.path.realpath(folder)
    return [
        lease.name
        for lease in leases.order_by("name")
        if (lease.host, lease.folder) != here or not remains.is_dead(folder, lease.name)
    ]


def silent() -> list[WorkerLease]:
    """Workers whose lease ran out and whose WAL nobody has replayed: what they held is not accounted for yet."""
    return list(WorkerLease.objects.filter(expires_at__lte=Now()).order_by("name"))


def forget(name: str) -> None:
    """Its files are retired: everything it did is in the books."""
    WorkerLease.objects.filter(name=name).delete()
