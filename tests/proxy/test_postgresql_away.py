"""A worker's way to PostgreSQL, after PostgreSQL has been away."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import pytest
from django.db import connection
from psycopg_pool import PoolTimeout

from proxy.worker import postgresql_pool

SOCKET = ".s.PGSQL.5432"
AWAY_SECONDS = 3.3
BACK_SECONDS_MAX = 2.5


@pytest.mark.django_db
async def test_a_postgresql_that_is_back_is_there_for_the_worker_in_seconds() -> None:
    """However long it was away: pauses that go on doubling would make it as long again."""
    facts = connection.settings_dict
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # short, so that a socket lies in it
        pool = postgresql_pool(f"host={folder} dbname={facts['NAME']} user={facts['USER']}")
        await pool.open()
        began = time.monotonic()
        back_at = 0.0
        while True:
            if not back_at and time.monotonic() - began > AWAY_SECONDS:
                (Path(folder) / SOCKET).symlink_to(Path(facts["HOST"]) / SOCKET)
                back_at = time.monotonic()
            try:
                async with pool.connection(0.2):
                    break
            except PoolTimeout:
                assert not back_at or time.monotonic() - back_at < BACK_SECONDS_MAX
                await asyncio.sleep(0.1)
        assert back_at
        await pool.close()
