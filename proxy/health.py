"""Asks engines how they are, beside the calls: so one that is back is used again, and one that is loading comes last,
before a customer's call finds out. Never generates a token.

One task per worker, for engines whose models were asked for lately. What it finds goes to routing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

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


async def probe(engine: EngineRecord, pool: Pool, routing: Routing) -> bool:
    """One question. An engine that is connected to but slow to answer is not called unreachable: it may be at work."""
    path, from_root = DOORS.get(engine.kind, DOORS["openai"])
    try:
        response = await pool.send(engine, path, b"", (), DEADLINES, method="GET", from_root=from_root)
    except ConnectFailed:
        routing.unreached(engine.id)
        return False
    except UpstreamFailure:
        routing.set_ready(engine.id, ready=False)
        return False
    except (ValueError, SealBroken):  # its row; calls say so
        return True
    routing.reached(engine.id)
    is_ready = response.status < 500
    routing.set_ready(engine.id, ready=is_ready)
    try:
        await response.read(ANSWER_BYTES_MAX)
    except UpstreamFailure:
        pass
    finally:
        response.close()
    return is_ready
