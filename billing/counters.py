"""Redis' counters, asked by a proxy worker: all entries of one event-loop turn go as one script call.

`submit` gives a future of the entry's verdict; `submit_until_done` repeats an entry until the script has answered it.
At most a few batches are under way; what comes meanwhile waits and leaves together, so batches grow with the load. On a
single server every batch may hold any shards; in a cluster each shard is a queue of its own, because a script touches
one slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import redis.asyncio

from billing import script
from billing.script import (
    Applied,
    CountersFailed,
    Entry,
    HoldRecord,
    Verdict,
    apply_change_sync,
    forget_journaled,
    read_holds,
)
from billing.transports import ClusterTransport, NeverSent, SingleTransport, StoreUnavailable, Transport
from keys.caller import SHARDS

__all__ = [
    "Applied",
    "Counters",
    "CountersFailed",
    "HoldRecord",
    "StoreUnavailable",
    "apply_change_sync",
    "forget_journaled",
    "read_holds",
]

log = logging.getLogger(__name__)

BATCH_MAX: Final = 64
"""Entries per script call: Redis does nothing else meanwhile (about 5 ms)."""
WAITING_MAX: Final = 20_000
IN_FLIGHT_MAX: Final = 2
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class _Item(NamedTuple):
    """`until_done` gets the verdict of an entry that must be answered; the others have a future. Entries are encoded
    when they come, so that one which cannot be harms its own caller only."""

    entry: Entry
    encoded: bytes
    future: asyncio.Future[Verdict] | None
    until_done: Callable[[Verdict], bool] | None
    tries: int


class Counters:
    """One per event loop. `client`: redis.asyncio.Redis or RedisCluster that answers in bytes; its owner closes it."""

    def __init__(self, client: Any) -> None:
        self.loop = asyncio.get_running_loop()
        clustered = isinstance(client, redis.asyncio.RedisCluster)
        count, in_flight = (SHARDS, 1) if clustered else (1, IN_FLIGHT_MAX)
        self._queues = [_Queue(self, client, in_flight, clustered) for _ in range(count)]
        self._waiting = 0
        self._unfinished = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.clock_offset_ms = 0.0
        self.epochs = [0] * SHARDS
        """The epoch this worker knows of each shard; 0 before the first answer."""

    def now_ms(self) -> int:
        """Redis' clock, as far as this worker knows."""
        return int(time.time() * 1000 + self.clock_offset_ms)

    def submit(self, entry: Entry) -> asyncio.Future[Verdict]:
        """The verdict; StoreUnavailable. A reserve that nobody waits for any more is voided."""
        future: asyncio.Future[Verdict] = self.loop.create_future()
        if self._waiting >= WAITING_MAX:
            future.set_exception(StoreUnavailable("too many calls wait for Redis"))
        else:
            self._put(_Item(entry, script.encode(entry), future, None, 0))
        return future

    def submit_until_done(self, entry: Entry, done: Callable[[Verdict], bool]) -> None:
        """Ask until an answer comes that `done` accepts (it returns True). Owned here: `drain` waits for it."""
        item = _Item(entry, script.encode(entry), None, done, 0)
        self._unfinished += 1
        self._idle.clear()
        self._put(item)

    async def drain(self, timeout_seconds: float) -> int:
        """Wait until nothing is owed to Redis any more; returns how many entries are left when the time is up."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._unfinished

    async def close(self) -> None:
        """Entries under way are given up (the WAL has them); call drain first."""
        self._closed = True
        for queue in self._queues:
            await queue.close()

    def _put(self, item: _Item) -> None:
        if self._closed:
            return
        self._waiting += 1
        self._queues[item.entry[1] % len(self._queues)].put(item)

    def _answered(self, items: list[_Item], verdicts: list[Verdict]) -> None:
        self._waiting -= len(items)
        if verdicts:
            self.clock_offset_ms = verdicts[0][1] - time.time() * 1000
        for item, verdict in zip(items, verdicts, strict=True):
            if item.future is not None:
                self._resolve(item.future, item.entry, verdict)
            elif verdict[0] in ("ERROR", "EPOCH"):
                if verdict[0] == "ERROR":
                    log.error("a step failed and is tried again: %s", verdict[2])
                self._again(item)
            else:
                self._finish(item, verdict)

    def _resolve(self, future: asyncio.Future[Verdict], entry: Entry, verdict: Verdict) -> None:
        if future.done():
            if entry[0] == "reserve" and verdict[0] == "OK":
                self._give_back(entry)
        elif verdict[0] == "ERROR":
            future.set_exception(StoreUnavailable(verdict[2]))
        else:
            future.set_result(verdict)

    def _finish(self, item: _Item, verdict: Verdict) -> None:
        assert item.until_done is not None
        if not item.until_done(verdict):
            self._again(item)
            return
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.set()

    def _failed(self, items: list[_Item], error: StoreUnavailable) -> None:
        self._waiting -= len(items)
        for item in items:
            if item.future is None:
                self._again(item)
                continue
            if item.entry[0] == "reserve" and not isinstance(error, NeverSent):
                self._give_back(item.entry)
            if not item.future.done():
                item.future.set_exception(error)

    def _again(self, item: _Item) -> None:
        delay = RETRY_SECONDS[min(item.tries, len(RETRY_SECONDS) - 1)]
        self.loop.call_later(delay, self._put, item._replace(tries=item.tries + 1))

    def _give_back(self, entry: Entry) -> None:
        """Void a reserve whose outcome nobody knows. It may still be on its way, so the void counts once Redis' clock
        has passed the time after which the reserve refuses to act (its tenth field)."""
        if self._unfinished >= WAITING_MAX:
            log.error("too much is owed to Redis: the reserve of call %s is left to its lease", entry[3])
            return
        not_after_ms = entry[9]

        def done(verdict: Verdict) -> bool:
            return verdict[0] == "OK" or bool(verdict[1] > not_after_ms)

        self.submit_until_done(("void", entry[1], 0, entry[3]), done)


class _Queue:
    """Entries that may share a script call, and the few calls under way."""

    def __init__(self, counters: Counters, client: Any, in_flight: int, clustered: bool) -> None:
        self._counters = counters
        self._waiting: deque[_Item] = deque()
        self._transports: list[Transport] = [
            ClusterTransport(client) if clustered else SingleTransport(client) for _ in range(in_flight)
        ]
        self._free = list(self._transports)
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def put(self, item: _Item) -> None:
        self._waiting.append(item)
        if self._free and not self._scheduled:
            self._scheduled = True
            self._counters.loop.call_soon(self._start)

    def _start(self) -> None:
        """At the end of the turn: everything that it brought leaves together."""
        self._scheduled = False
        if self._counters._closed:
            return
        while self._waiting and self._free:
            batch = self._batch()
            if not batch:
                return
            task = self._counters.loop.create_task(self._send(self._free.pop(), batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _batch(self) -> list[_Item]:
        batch: list[_Item] = []
        while self._waiting and len(batch) < BATCH_MAX:
            item = self._waiting.popleft()
            if item.future is None or not item.future.done():
                batch.append(item)
            else:
                self._counters._waiting -= 1  # its caller has gone before it was sent
        return batch

    async def _send(self, transport: Transport, batch: list[_Item]) -> None:
        try:
            reply = await transport.call([item.entry[1] for item in batch], [item.encoded for item in batch])
            verdicts = script.decode(reply)
            if len(verdicts) != len(batch):
                raise StoreUnavailable(f"{len(verdicts)} verdicts for {len(batch)} entries")
        except StoreUnavailable as error:
            self._counters._failed(batch, error)
        except asyncio.CancelledError:
            self._counters._failed(batch, StoreUnavailable("the worker is closing"))
            raise
        except Exception as error:
            log.exception("a batch failed")
            self._counters._failed(batch, StoreUnavailable(str(error)))
        else:
            self._counters._answered(batch, verdicts)
        finally:
            self._free.append(transport)
            if self._waiting:
                self._start()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for item in self._waiting:
            if item.future is not None and not item.future.done():
                item.future.set_exception(StoreUnavailable("the worker is closing"))
        for transport in self._transports:
            await transport.close()
