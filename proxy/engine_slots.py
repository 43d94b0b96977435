"""How many calls run on an engine at once, shared fairly among organizations. One table per worker, no I/O.

A worker's part is the engine's `max_in_flight` divided by the live workers; approximate, and documented as such. No
organization may hold the last slots of an engine, so one that floods it leaves a door open for the others; a freed slot
goes to the waiting organization that runs the fewest calls. Who cannot expect a slot in time, by how long calls have
kept theirs lately, is refused at once instead of after the wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from proxy.refusals import Reason, decline

WAIT_SECONDS_MAX = 2.0
EXPECTED_PART_MAX = 0.5
"""Who is expected to wait longer than this part of the time allowed is not let wait: half of those whose expected wait
is all of it would wait in vain."""
WAITING_PER_SLOT_MAX = 4
"""However short calls are, a queue is this many times the slots. Each organization that waits may have its share of
that, whatever the others have already."""
USUAL_SECONDS = 1.0
"""How long a call is taken to keep its slot before the first has given one back."""
REMEMBERED_CALLS = 16
"""The mean time that calls keep their slots is, roughly, that of so many last ones."""
DOOR_SHARE = 8
"""One slot in so many (at least one, where there are two) is out of reach for an organization that has all others."""


class Slot(NamedTuple):
    engine_id: int
    organization_id: int
    taken_at: float


class _Line:
    """One engine: what runs per organization, and who waits."""

    __slots__ = ("capacity", "kept_s", "running", "total", "waiting")

    def __init__(self) -> None:
        self.capacity = 1
        self.total = 0
        self.running: dict[int, int] = {}
        self.waiting: dict[int, deque[asyncio.Future[None]]] = {}
        self.kept_s: float | None = None  # how long calls keep their slots, on the mean

    def has_room_for(self, organization_id: int) -> bool:
        if self.total >= self.capacity:
            return False
        return self.running.get(organization_id, 0) < self.most_for_one()

    def most_for_one(self) -> int:
        if self.capacity < 2:
            return self.capacity
        return self.capacity - max(1, self.capacity // DOOR_SHARE)

    def may_wait(self, organization_id: int, wait_s: float) -> bool:
        """One more caller of this organization: freed slots go around among those that wait."""
        organizations = len(self.waiting.keys() | {organization_id})
        place = len(self.waiting.get(organization_id, ())) + 1
        if place > self.capacity * WAITING_PER_SLOT_MAX // organizations:
            return False
        slots = max(1, self.most_for_one() // organizations)
        expected_s = place * (USUAL_SECONDS if self.kept_s is None else self.kept_s) / slots
        return expected_s <= wait_s * EXPECTED_PART_MAX

    def learn(self, kept_s: float) -> None:
        self.kept_s = kept_s if self.kept_s is None else self.kept_s + (kept_s - self.kept_s) / REMEMBERED_CALLS

    def take(self, organization_id: int) -> None:
        self.total += 1
        self.running[organization_id] = self.running.get(organization_id, 0) + 1

    def free(self, organization_id: int) -> None:
        self.total -= 1
        left = self.running[organization_id] - 1
        if left:
            self.running[organization_id] = left
        else:
            del self.running[organization_id]

    def admit(self) -> None:
        """Hand free slots to waiters, fewest running first; dead waiters are skipped."""
        while self.waiting:
            ready = [organization for organization in self.waiting if self.has_room_for(organization)]
            if not ready:
                return
            chosen = min(ready, key=lambda organization: self.running.get(organization, 0))
            line = self.waiting[chosen]
            waiter = line.popleft()
            if not line:
                del self.waiting[chosen]
            if not waiter.done():
                self.take(chosen)
                waiter.set_result(None)


class EngineSlots:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[int, _Line] = {}
        self._workers = 1

    def set_workers(self, live: int) -> None:
        self._workers = max(1, live)

    def in_flight(self) -> dict[int, int]:
        return {engine_id: line.total for engine_id, line in self._lines.items()}

    def running(self, engine_id: int) -> int:
        line = self._lines.get(engine_id)
        return 0 if line is None else line.total

    def free_share(self, engine_id: int, max_in_flight: int) -> float:
        """The part of this worker's slots that is free, 0 to 1: how routes to several engines are weighed."""
        capacity = self._capacity(max_in_flight)
        line = self._lines.get(engine_id)
        return 1.0 if line is None else max(0, capacity - line.total) / capacity

    async def acquire(self, engine_id: int, max_in_flight: int, organization_id: int, wait_s: float) -> Slot:
        """A slot, or Declined(ENGINE_BUSY): at once where none can be expected in time, else after `wait_s`."""
        line = self._lines.get(engine_id)
        if line is None:
            line = self._lines[engine_id] = _Line()
        capacity = self._capacity(max_in_flight)
        if capacity != line.capacity:
            line.capacity = capacity
            line.admit()  # who waits comes first
        if line.has_room_for(organization_id):  # whoever waits all the same may not have it
            line.take(organization_id)
        elif wait_s > 0 and line.may_wait(organization_id, wait_s):
            await self._wait(line, organization_id, wait_s)
        else:
            raise decline(Reason.ENGINE_BUSY)
        return Slot(engine_id, organization_id, self._clock())

    def release(self, slot: Slot) -> None:
        line = self._lines[slot.engine_id]
        line.free(slot.organization_id)
        line.learn(self._clock() - slot.taken_at)
        if line.waiting:
            line.admit()

    async def _wait(self, line: _Line, organization_id: int, wait_s: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.waiting.setdefault(organization_id, deque()).append(waiter)
        line.admit()
        try:
            async with asyncio.timeout(wait_s):
                await waiter
        except TimeoutError:
            if not waiter.cancelled() and waiter.done():
                return
            self._leave(line, organization_id, waiter)
            raise decline(Reason.ENGINE_BUSY) from None
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                line.free(organization_id)
                line.admit()
            else:
                self._leave(line, organization_id, waiter)
            raise

    def _leave(self, line: _Line, organization_id: int, waiter: asyncio.Future[None]) -> None:
        queue = line.waiting.get(organization_id)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del line.waiting[organization_id]

    def _capacity(self, max_in_flight: int) -> int:
        return max(1, max_in_flight // self._workers)
