"""A living worker's part in a rebuild of Redis: it says that it is there, and brings in what Redis lost.

For a shard that waits, in this order: the calls of dead workers of this host, from their WALs; its own running calls'
holds; its own charges that are neither booked nor on the stream, from its own WAL; then it acknowledges. A call that
settles meanwhile is in the file, or has its hold, or both: either way it is counted once (lua/rebuild.lua).
After the opening it settles again whatever of its own charges is booked otherwise, or not on its way (`tell`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psycopg
from django.db import DatabaseError
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from redis.exceptions import RedisError

from billing import remains, replay, worker_leases
from billing.admission import Admission
from billing.counters import Counters, StoreUnavailable
from billing.hold import Hold
from billing.rebuild import is_waiting
from billing.remains import Told
from billing.wal import Wal
from keys.caller import SHARDS, shard_of

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 1.0
CLOSED_SECONDS: Final = 0.2
LOOK_AGAIN_SECONDS: Final = 5.0
"""Whether what was told again is booked by now: a look reads the shards' streams, which are long where the journal
lags."""

IDS_PER_QUERY: Final = 2_000
_BOOKED: Final = "SELECT call_id::text FROM usage_event WHERE call_id = ANY(%s::uuid[])"

SettleAgain = Callable[[Mapping[str, Told]], dict[str, Told]]
"""billing.replay.settle_again with a synchronous connection to Redis; runs in a thread."""

BringIn = Callable[[Path, Mapping[int, str]], int]
"""billing.replay.bring_in with a synchronous connection to Redis; runs in a thread."""


class ShardLost(Exception):
    """The shard went on without this worker: it was opened, or is rebuilt again."""


class Assertion:
    """One per worker. `start` … `stop`."""

    def __init__(
        self,
        counters: Counters,
        admission: Admission,
        wal: Wal,
        pool: AsyncConnectionPool[Any],
        *,
        bring_in: BringIn,
        settle_again: SettleAgain,
    ) -> None:
        self._counters = counters
        self._admission = admission
        self._wal = wal
        self._pool = pool
        self._bring_in = bring_in
        self._settle_again = settle_again
        self._folder = os.path.realpath(wal.folder)
        self._done: dict[int, str] = {}
        self._known: dict[int, str] = {}
        self._opened: set[int] = set()
        self._untold: dict[str, Told] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._lease()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._watch_forever(), name="rebuild: watch"),
            loop.create_task(self._tell_forever(), name="rebuild: what was lost"),
            loop.create_task(self._renew_forever(), name="rebuild: worker lease"),
        ]

    async def stop(self) -> None:
        """After the admission is drained: a rebuild waits for this worker no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(psycopg.Error, PoolTimeout, OSError):
            await worker_leases.end(self._pool, self._wal.worker)

    async def watch(self) -> bool:
        """Look at all shards once, and bring in what this worker has for those that wait; whether all are open."""
        verdicts = await asyncio.gather(*(self._counters.submit(("epoch", number)) for number in range(SHARDS)))
        tokens, closed = {}, False
        for number, (_, _, epoch, is_open, _) in enumerate(verdicts):
            if is_open:
                self._counters.epochs[number] = int(epoch.partition(":")[0])
                if self._known.get(number) != epoch:
                    self._known[number] = epoch
                    self._opened.add(number)
                continue
            closed = True
            if is_waiting(epoch) and self._done.get(number) != epoch[1:]:
                tokens[number] = epoch[1:]
        if tokens:
            await self._assert(tokens)
        return not closed

    async def tell(self) -> None:
        """After an opening: settle again, late, what this worker charged there and the books do not have as it says.
        That is a correction that Redis lost, which no shard takes while it waits; and everything, where the shard
        was opened without this worker, because its lease had run out. Holds that are gone are found at once."""
        shards, self._opened = self._opened, set()  # what is opened from here on is for the next time
        if shards:
            self._wal.flush()
            for hold in self._admission.holds():
                if hold.shard in shards:
                    hold.renew_at_ms = 0
            try:
                self._untold |= await asyncio.to_thread(self._own_calls, shards)
            except BaseException:
                self._opened |= shards
                raise
        if self._untold:
            self._untold = await asyncio.to_thread(self._settle_again, self._untold)

    async def _assert(self, tokens: Mapping[int, str]) -> None:
        if self._wal.folder.is_dir():  # else no worker of this host has left anything there
            await asyncio.to_thread(self._bring_in, self._wal.folder, tokens)
        running = [hold for hold in self._admission.holds() if hold.shard in tokens]
        self._wal.flush()  # whatever is not among them has its line now
        await self._assert_holds(running, tokens)
        await self._bring_in_own(tokens)
        for number, token in tokens.items():
            await self._step(("ack", number, 0, self._wal.worker, token))
            self._done[number] = token
        log.warning("asserted %d holds in %d shards that are rebuilt", len(running), len(tokens))

    async def _assert_holds(self, running: Iterable[Hold], tokens: Mapping[int, str]) -> None:
        by_id = {hold.call_id: hold for hold in running}
        booked = await self._booked(by_id)
        for call_id, hold in by_id.items():
            if (
                call_id in booked or await self._step(reassert_entry(hold, tokens[hold.shard])) == "KNOWN"
            ):  # it had lapsed
                hold.lapsed = hold.charge is None

    async def _bring_in_own(self, tokens: Mapping[int, str]) -> None:
        calls = await asyncio.to_thread(self._own_calls, tokens)
        booked = await self._booked(calls)
        for call_id, call in calls.items():
            event = None if call_id in booked else call.event(0)
            if event is not None:
                await self._step(replay.bring_entry(event, tokens[shard_of(event.organization_id)]))

    def _own_calls(self, shards: Container[int]) -> dict[str, Told]:
        return {
            call_id: call
            for call_id, call in remains.told(remains.segments(self._wal.folder, self._wal.worker)).items()
            if call.settled and call.shard() in shards
        }

    async def _booked(self, call_ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        wanted = list(call_ids)
        for start in range(0, len(wanted), IDS_PER_QUERY):
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_BOOKED, (wanted[start : start + IDS_PER_QUERY],), prepare=False)
                found |= {call_id for (call_id,) in await cursor.fetchall()}
        return found

    async def _step(self, entry: tuple[Any, ...]) -> str:
        verdict = await self._counters.submit(entry)
        if verdict[0] == "LOST":
            raise ShardLost(f"shard {entry[1]}")
        return str(verdict[0])

    async def _watch_forever(self) -> None:
        while True:
            is_open = False
            try:
                await self._lease()
                is_open = await self.watch()
            except replay.ReplayBusy as busy:
                log.warning("this worker acknowledges nothing before dead workers' calls are brought in: %s", busy)
            except (StoreUnavailable, ShardLost, psycopg.Error, PoolTimeout, OSError) as error:
                log.debug("the shards cannot be watched: %s", error)
            except Exception:
                log.exception("what Redis lost could not be brought in; tried again")
            await asyncio.sleep(WATCH_SECONDS if is_open else CLOSED_SECONDS)

    async def _tell_forever(self) -> None:
        loop = asyncio.get_running_loop()
        look_again_at = 0.0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self._opened and (not self._untold or loop.time() < look_again_at):
                continue
            try:
                await self.tell()
            except (RedisError, DatabaseError, OSError) as error:
                log.warning("what Redis lost is not told again yet: %s", error)
            except Exception:
                log.exception("what Redis lost could not be told again; tried again")
            look_again_at = loop.time() + LOOK_AGAIN_SECONDS

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(worker_leases.RENEW_SECONDS)
            if self._wal.is_leased:
                await self._renew()

    async def _lease(self) -> None:
        """Until it is there this worker takes no call, because no rebuild would wait for it: where it began without a
        file, or while PostgreSQL was away."""
        if self._wal.has_file and not self._wal.is_leased:
            self._wal.is_leased = await self._renew()

    async def _renew(self) -> bool:
        """Whether the lease is there."""
        holds = self._admission.holds()
        try:
            await worker_leases.renew(
                self._pool,
                self._wal.worker,
                self._folder,
                running=len(holds),
                held_nanos=sum(hold.held_nanos for hold in holds),
            )
        except (psycopg.Error, PoolTimeout, OSError) as error:
            log.warning("this worker's lease could not be renewed: %s", error)
            return False
        return True


def reassert_entry(hold: Hold, token: str) -> tuple[Any, ...]:
    needs = [number for need in hold.needs for number in need]
    return (
        *("reassert", hold.shard, 0, hold.call_id, hold.template.static, hold.plan + 1, hold.granted, needs),
        *(hold.facts_text(), hold.reserved_at_ms, token),
    )
