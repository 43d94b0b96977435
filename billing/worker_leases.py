"""Which proxy workers are alive: their leased rows. A worker keeps its own; a rebuild waits for those that are there.

On its own host a rebuilder knows better: a worker whose WAL file nobody holds is dead, whatever its lease says.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final

from django.db.models.functions import Now
from psycopg_pool import AsyncConnectionPool

from billing import remains
from billing.models import WorkerLease

LEASE_SECONDS: Final = 30
RENEW_SECONDS: Final = 5.0

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
    here = socket.gethostname(), os.path.realpath(folder)
    leases = WorkerLease.objects.filter(expires_at__gt=Now()).order_by("name")
    return [
        lease.name for lease in leases if (lease.host, lease.folder) != here or not remains.is_dead(folder, lease.name)
    ]


def silent() -> list[WorkerLease]:
    """Workers whose lease ran out and whose WAL nobody has replayed: what they held is not accounted for yet."""
    return list(WorkerLease.objects.filter(expires_at__lte=Now()).order_by("name"))


def forget(name: str) -> None:
    """Its files are retired: everything it did is in the books."""
    WorkerLease.objects.filter(name=name).delete()
