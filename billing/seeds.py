"""What Redis does not know of an organization, from PostgreSQL: exact at a position of the journal's stream.

Balance, number of changes, sums of usage and the position that the journal has reached are read in one transaction;
lua/seed.lua adds what the stream still holds and refuses what does not fit. One seeding per organization at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg_pool import AsyncConnectionPool

from billing import script, windows
from billing.counters import Counters
from billing.events import COUNTED_SQL
from billing.money import AMOUNT_MAX
from keys.caller import shard_of

SEEDS_AT_ONCE_MAX: Final = 8
SEED_SECONDS_MAX: Final = 5.0
TRIES_MAX: Final = 20
CHANGES_MAX: Final = 1_000
KEEP_MS: Final = {"d": 3 * 86_400_000, "m": 40 * 86_400_000}

_SUMS: Final = ", ".join(f"coalesce(sum({sql}), 0)::text" for sql in COUNTED_SQL.values())
_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WALLET: Final = (
    "SELECT balance_nanos, changes FROM billing_ledgeraccount WHERE organization_id = %s AND kind = 'wallet'"
)
_POSITION: Final = "SELECT last_stream_id FROM billing_journalshard WHERE shard = %s"
_CHANGES: Final = (
    "SELECT organization_id, seq, balance_nanos, day, key_id, model_id, amounts, month_anchor"
    " FROM billing_counterchange JOIN keys_organization ON keys_organization.id = organization_id"
    " WHERE organization_id = %s AND seq > %s ORDER BY seq LIMIT %s"
)


class SeedUnavailable(Exception):
    """PostgreSQL cannot be asked, or too much of the stream waits for it: the call is refused with 503."""


class WantedCounter(NamedTuple):
    """`ends_ms` None: the window never ends (life). Fields as Redis spells them."""

    window_id: str
    ends_ms: int | None
    scope: str
    unit: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one transaction saw."""

    balance_nanos: int
    changes: int
    last_stream_id: str
    sums: Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Change:
    organization_id: int
    seq: int
    balance_nanos: int
    day: str
    key_id: int | None
    model_id: int | None
    amounts: dict[str, int]
    month_anchor: int

    @property
    def month_id(self) -> str:
        return windows.month_of_day(self.day, self.month_anchor) if self.day else ""


class Seeds:
    """One per event loop. `pool`: connections to the database of Django's models."""

    def __init__(self, counters: Counters, pool: AsyncConnectionPool[Any]) -> None:
        self._counters = counters
        self._pool = pool
        self._slots = asyncio.Semaphore(SEEDS_AT_ONCE_MAX)
        self._running: dict[int, asyncio.Task[None]] = {}

    async def seed(self, organization_id: int, wanted: Iterable[WantedCounter]) -> None:
        """The account, and the counters wanted, are in Redis when this returns, or a seeding that was under way has
        ended: ask again. SeedUnavailable."""
        running = self._running.get(organization_id)
        if running is None:
            running = asyncio.create_task(self._seed(organization_id, frozenset(wanted)))
            self._running[organization_id] = running
            running.add_done_callback(lambda task: self._ended(organization_id, task))
        await asyncio.shield(running)

    def _ended(self, organization_id: int, task: asyncio.Task[None]) -> None:
        del self._running[organization_id]
        if not task.cancelled():
            task.exception()  # seen here: who waited may be gone

    async def _seed(self, organization_id: int, wanted: frozenset[WantedCounter]) -> None:
        try:
            async with asyncio.timeout(SEED_SECONDS_MAX), self._slots:
                for _ in range(TRIES_MAX):
                    if await self._tried(organization_id, wanted):
                        return
                    await asyncio.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - spreads tries, guards nothing
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise SeedUnavailable(f"PostgreSQL: {error or type(error).__name__}") from error
        raise SeedUnavailable("the journal does not come to rest")

    async def _tried(self, organization_id: int, wanted: frozenset[WantedCounter]) -> bool:
        shard = shard_of(organization_id)
        epoch = self._counters.epochs[shard]  # before reading: what is read must not outlive the epoch
        seen = await read_snapshot(self._pool, organization_id, wanted)
        verdict = await self._counters.submit(seed_entry(organization_id, epoch, seen, wanted))
        if verdict[0] == "BACKLOG":
            raise SeedUnavailable(f"{verdict[2]} calls of shard {shard} wait for the journal")
        if verdict[0] == "SEQ":
            await self._apply_changes(organization_id, int(verdict[2]))
        return verdict[0] in ("OK", "EPOCH")  # a new epoch is learned by asking again

    async def _apply_changes(self, organization_id: int, applied: int) -> None:
        """Bring Redis up to what PostgreSQL decided since; the outbox finds them applied."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_CHANGES, (organization_id, applied, CHANGES_MAX), prepare=False)
            rows = await cursor.fetchall()
        for row in rows:
            await self._counters.submit(script.apply_entry(_Change(*row)))


async def read_snapshot(
    pool: AsyncConnectionPool[Any], organization_id: int, wanted: Iterable[WantedCounter]
) -> Snapshot:
    pairs = {(counter.window_id, counter.scope) for counter in wanted}
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(_SNAPSHOT, prepare=False)
        wallet = await (await connection.execute(_WALLET, (organization_id,), prepare=False)).fetchone()
        place = await (await connection.execute(_POSITION, (shard_of(organization_id),), prepare=False)).fetchone()
        sums = {}
        for window_id, scope in sorted(pairs):
            statement, values = _sums_query(organization_id, window_id, scope)
            row = await (await connection.execute(statement, values, prepare=False)).fetchone()
            assert row is not None
            sums[window_id, scope] = tuple(row)
    balance_nanos, changes = wallet or (0, 0)
    return Snapshot(balance_nanos, changes, place[0] if place else "0-0", sums)


def _sums_query(organization_id: int, window_id: str, scope: str) -> tuple[Any, list[Any]]:
    conditions: list[str] = ["organization_id = %s"]
    values: list[Any] = [organization_id]
    if window_id != windows.LIFETIME_ID:
        conditions.append("day >= %s AND day < %s")
        values += windows.days_of(window_id)
    if scope != "o":
        conditions.append("key_id = %s" if scope[0] == "k" else "model_id = %s")
        values.append(int(scope[1:]))
    return f"SELECT {_SUMS} FROM billing_usageday WHERE {' AND '.join(conditions)}", values  # noqa: S608


def seed_entry(organization_id: int, epoch: int, seen: Snapshot, wanted: Iterable[WantedCounter]) -> tuple[Any, ...]:
    units = tuple(COUNTED_SQL)
    found: defaultdict[tuple[str, int], list[tuple[str, str, str]]] = defaultdict(list)
    for counter in wanted:
        value = min(int(seen.sums[counter.window_id, counter.scope][units.index(counter.unit)]), AMOUNT_MAX)
        expires_ms = 0 if counter.ends_ms is None else counter.ends_ms + KEEP_MS[counter.window_id[0]]
        found[counter.window_id, expires_ms].append((counter.scope, counter.unit, str(value)))
    return (
        *("seed", shard_of(organization_id), epoch, str(organization_id)),
        *(str(seen.changes), seen.last_stream_id, str(seen.balance_nanos)),
        [
            (window_id, expires_ms, *(f"{day:%Y%m%d}" for day in windows.days_of(window_id)), counters)
            for (window_id, expires_ms), counters in found.items()
        ],
    )
