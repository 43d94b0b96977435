"""Which engine takes a call: live ones by weight and free room, those that just failed last. No I/O."""

from __future__ import annotations

import random
import time

from billing.snapshot import EngineRecord, ModelRecord, Route, Snapshot
from proxy.engine_slots import EngineSlots
from proxy.refusals import Reason, decline

COOLING_SECONDS = 5.0
"""An engine that could not be reached is asked last for this long."""


class Routing:
    def __init__(self, slots: EngineSlots) -> None:
        self._slots = slots
        self._cooling: dict[int, float] = {}

    def order(self, model: ModelRecord, snapshot: Snapshot) -> list[tuple[EngineRecord, Route]]:
        """The engines to try, best first. Declines when there is none."""
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
        if len(live) > 1:
            live.sort(key=self._rank)
        return live

    def failed(self, engine: EngineRecord) -> None:
        self._cooling[engine.id] = time.monotonic() + COOLING_SECONDS

    def unreachable(self) -> list[int]:
        """Engines that could not be reached just now."""
        now = time.monotonic()
        return sorted(engine_id for engine_id, until in self._cooling.items() if until > now)

    def _rank(self, choice: tuple[EngineRecord, Route]) -> tuple[bool, float]:
        """Weighted random order (each key is drawn as u^(1/w)), by the room that is left."""
        engine = choice[0]
        weight = engine.weight * self._slots.free_share(engine.id, engine.max_in_flight)
        drawn = random.random() ** (1 / weight) if weight > 0 else 0.0  # noqa: S311 - spreads load, guards nothing
        return self._cooling.get(engine.id, 0.0) > time.monotonic(), -drawn
