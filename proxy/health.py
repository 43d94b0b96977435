"""Asks engines how they are, beside the calls: so one that is back is used again, and one that is loading comes last,
before a customer's call finds out. Never generates a token.

One task per worker, for engines whose models were asked for lately. What it finds goes to routing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from billing.snapshot import EngineRecord
from keys.sealing import SealBroken
from proxy.routing import Routing
from proxy.upstream import ConnectFailed, Deadlines, Pool, UpstreamFailure

TICK_SECONDS = 0.5
WELL_SECONDS = 10.0
SICK_SECONDS = 2.0
PAID_SECONDS = 60.0
"""Between two questions to somebody else's API."""
JITTER = 0.3
"""So that workers do not ask together."""
FORGET_SECONDS = 600.0
DEADLINES = Deadlines(connect_ms=2_000, first_byte_ms=3_000, idle_ms=3_000, total_ms=4_000)
ANSWER_BYTES_MAX = 1024 * 1024

DOORS = {
    "vllm": ("/health", True),  # 503 when its engine process is dead
    "llamacpp": ("/health", True),  # 503 while it loads; /v1/models answers even then
    "sglang": ("/models", False),  # its /health generates a token
    "tgi": ("/info", True),  # its /health generates one too
    "transformers": ("/models", False),
    "openai": ("/models", False),
}
"""Kind → where to ask (below the base URL, or below its host without /v1)."""


class Prober:
    def __init__(self, pool: Pool, routing: Routing) -> None:
        self._pool = pool
        self._routing = routing
        self._due: dict[int, float] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="proxy: engine health")

    async def stop(self) -> None:
        tasks = [*self._asking.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        forget_at = loop.time() + FORGET_SECONDS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            if now >= forget_at:  # what is still asked for comes back with its next call
                forget_at = now + FORGET_SECONDS
                self._routing.known.clear()
                self._due.clear()
            for engine in list(self._routing.known.values()):
                if engine.id not in self._asking and now >= self._due.setdefault(engine.id, now):
                    task = loop.create_task(self._ask(engine, loop.time), name=f"proxy: health of {engine.name}")
                    self._asking[engine.id] = task

    async def _ask(self, engine: EngineRecord, clock: Callable[[], float]) -> None:
        try:
            is_well = await probe(engine, self._pool, self._routing)
        finally:
            del self._asking[engine.id]
        pause = SICK_SECONDS if not is_well else PAID_SECONDS if engine.kind == "openai" else WELL_SECONDS
        self._due[engine.id] = clock() + pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads questions


@dataclass(frozen=True, slots=True)
class Look:
    """One question and what came of it. `status` 0: no answer; `trouble` then says why, in words."""

    is_reached: bool
    status: int = 0
    took_ms: int = 0
    trouble: str = ""

    @property
    def is_ready(self) -> bool:
        return 0 < self.status < 500

    def in_words(self) -> str:
        if not self.is_reached:
            return f"unreachable: {self.trouble}"
        if not self.status:
            return f"reached, but no answer: {self.trouble}"
        return f"{'well' if self.is_ready else 'not ready'}: HTTP {self.status} in {self.took_ms} ms"


async def look(engine: EngineRecord, pool: Pool) -> Look:
    """Ask once, within DEADLINES. Raises ValueError or SealBroken where the engine's row cannot be read."""
    path, from_root = DOORS.get(engine.kind, DOORS["openai"])
    began = time.perf_counter()
    try:
        response = await pool.send(engine, path, b"", (), DEADLINES, method="GET", from_root=from_root)
    except ConnectFailed as failure:
        return Look(is_reached=False, trouble=str(failure))
    except UpstreamFailure as failure:
        return Look(is_reached=True, trouble=str(failure))
    took_ms = int((time.perf_counter() - began) * 1000)
    try:
        await response.read(ANSWER_BYTES_MAX)
    except UpstreamFailure:
        pass
    finally:
        response.close()
    return Look(is_reached=True, status=response.status, took_ms=took_ms)


async def look_at_all(engines: Sequence[EngineRecord], open_key: Callable[[str], str]) -> list[Look]:
    """All at once, for people who wait for the answer: no longer than the slowest of them, which DEADLINES bound."""
    pool = Pool(open_key)

    async def one(engine: EngineRecord) -> Look:
        try:
            return await look(engine, pool)
        except (ValueError, SealBroken) as error:
            return Look(is_reached=False, trouble=str(error))

    try:
        return await asyncio.gather(*map(one, engines))
    finally:
        await pool.close()


async def probe(engine: EngineRecord, pool: Pool, routing: Routing) -> bool:
    """One question. An engine that is connected to but slow to answer is not called unreachable: it may be at work."""
    try:
        found = await look(engine, pool)
    except (ValueError, SealBroken):  # its row; calls say so
        return True
    if not found.is_reached:
        routing.unreached(engine.id)
        return False
    if found.status:
        routing.reached(engine.id)
    routing.set_ready(engine.id, ready=found.is_ready)
    return found.is_ready
