"""Which engines may take a call, best first. No I/O; one table per worker.

An engine that cannot be reached, or whose answers for this model fail, comes after those that work (breaker.py).
Among equals the conversation's own engine is first, unless it is loaded out of proportion (affinity.py); then the one
with the fewest calls for its weight.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

from billing.snapshot import EngineRecord, ModelRecord, Route, Snapshot
from proxy import affinity
from proxy.breaker import Breaker, Health
from proxy.engine_slots import EngineSlots
from proxy.refusals import Reason, decline

OWN_SHARE_MAX = 1.5
"""A conversation's engine takes it until it runs this many times its fair share of the model's calls…"""
OWN_CALLS_MIN = 4
"""…or that many, whichever is more."""
Choice = tuple[EngineRecord, Route]


class EngineHealth(NamedTuple):
    """For metrics: what this worker makes of an engine now."""

    name: str
    healthy: bool


class Routing:
    def __init__(self, slots: EngineSlots) -> None:
        self._slots = slots
        self._reach: dict[int, Breaker] = {}
        self._answers: dict[tuple[int, str], Breaker] = {}
        self._unready: set[int] = set()
        self.known: dict[int, EngineRecord] = {}
        """Engines of the models that were asked for, as last seen: those that are worth probing."""

    def order(self, model: ModelRecord, snapshot: Snapshot, conversation: bytes = b"") -> list[Choice]:
        """The engines to try, best first. Declines when there is none, at once when none of them can be reached."""
        if not model.routes:
            raise decline(Reason.ENGINE_MISCONFIGURED, model=model.slug)
        engines = snapshot.engines_by_id
        live = [
            (engines[route.engine_id], route)
            for route in model.routes
            if route.engine_id in engines and engines[route.engine_id].state == "live"
        ]
        if not live:
            raise decline(Reason.ENGINE_UNAVAILABLE, model=model.slug)
        for engine, _ in live:
            self.known[engine.id] = engine
        now = time.monotonic()
        reachable = [choice for choice in live if self._reached(choice[0].id, now) is not Health.OPEN]
        if not reachable:
            raise decline(Reason.ENGINE_UNREACHABLE, model=model.slug)
        return reachable if len(reachable) == 1 else self._sorted(reachable, conversation, now)

    # what became of calls and probes ------------------------------------------------------------------------------

    def began(self, engine: EngineRecord, route: Route) -> None:
        now = time.monotonic()
        for breaker in (self._reach.get(engine.id), self._answers.get((engine.id, route.name_there))):
            if breaker is not None:
                breaker.begin(now)

    def reached(self, engine_id: int) -> None:
        breaker = self._reach.get(engine_id)
        if breaker is not None:
            breaker.succeeded()

    def unreached(self, engine_id: int) -> None:
        self._reach.setdefault(engine_id, Breaker()).failed(time.monotonic())

    def answered(self, engine: EngineRecord, route: Route) -> None:
        breaker = self._answers.get((engine.id, route.name_there))
        if breaker is not None:
            breaker.succeeded()

    def failed(self, engine: EngineRecord, route: Route) -> None:
        """It took the call and did not answer it: 5xx, loading, a deadline, an answer cut short."""
        self._answers.setdefault((engine.id, route.name_there), Breaker()).failed(time.monotonic())

    def set_ready(self, engine_id: int, ready: bool) -> None:
        (self._unready.discard if ready else self._unready.add)(engine_id)

    def unreachable(self) -> list[int]:
        """Engines that could not be reached just now."""
        now = time.monotonic()
        return sorted(engine for engine in self._reach if self._reached(engine, now) is not Health.CLOSED)

    def healths(self) -> dict[int, EngineHealth]:
        now = time.monotonic()
        return {
            engine.id: EngineHealth(
                engine.name, self._reached(engine.id, now) is Health.CLOSED and engine.id not in self._unready
            )
            for engine in self.known.values()
        }

    # order --------------------------------------------------------------------------------------------------------

    def _reached(self, engine_id: int, now: float) -> Health:
        breaker = self._reach.get(engine_id)
        return Health.CLOSED if breaker is None else breaker.health(now)

    def _trouble(self, choice: Choice, now: float) -> Health:
        engine, route = choice
        reached = self._reached(engine.id, now)
        if engine.id in self._unready or reached is Health.TRIAL:
            return Health.OPEN  # whether it is back is for a probe to find out while others can take the calls
        answers = self._answers.get((engine.id, route.name_there))
        return max(reached, Health.CLOSED if answers is None else answers.health(now))

    def _sorted(self, choices: list[Choice], conversation: bytes, now: float) -> list[Choice]:
        """An engine whose answers failed gets one call before all others when its trial is due: so it comes back."""
        trouble = {choice[0].id: self._trouble(choice, now) for choice in choices}
        running = {choice[0].id: self._slots.running(choice[0].id) for choice in choices}
        well = [engine for engine, _ in choices if trouble[engine.id] is Health.CLOSED]
        own = self._own(well, running, conversation)

        def rank(choice: Choice) -> tuple[bool, Health, bool, float, float]:
            engine = choice[0]
            health = trouble[engine.id]
            load = (running[engine.id] + 1) / engine.weight if engine.weight > 0 else float("inf")
            return health is not Health.TRIAL, health, engine is not own, load, random.random()  # noqa: S311 - a tie

        return sorted(choices, key=rank)

    def _own(self, engines: list[EngineRecord], running: dict[int, int], conversation: bytes) -> EngineRecord | None:
        """The conversation's engine, None while it is loaded out of proportion or full."""
        weights = sum(engine.weight for engine in engines)
        if not conversation or weights <= 0:
            return None
        own = max(engines, key=lambda engine: affinity.draw(conversation, engine.id, engine.weight))
        fair = (sum(running[engine.id] for engine in engines) + 1) * own.weight / weights
        if running[own.id] >= max(OWN_CALLS_MIN, OWN_SHARE_MAX * fair):
            return None
        return own if self._slots.free_share(own.id, own.max_in_flight) > 0 else None
