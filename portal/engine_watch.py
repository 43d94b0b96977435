"""What is known of engines just now: as this host's workers find them, as they answer when asked, and how their own
counters last compared with what was metered. Reads only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from billing import engine_counters
from billing.catalogue import engine_record
from billing.models import Engine, EngineFinding, EngineReading
from keys.sealing import open_text
from proxy import health, metrics
from proxy.health import Look
from proxy.metrics import EngineNow

STALE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """`at` None: never. `result`: a boundary of EngineReading; `open`: findings that nobody has resolved."""

    at: datetime | None
    result: str
    open: int

    @property
    def in_words(self) -> str:
        if self.at is None:
            return "never"
        said = "agreed" if self.result == EngineReading.Boundary.AGREED else "differed"
        said = "without a result" if self.result == EngineReading.Boundary.TOO_LONG else said
        return f"{said} {self.at:%Y-%m-%d %H:%M} UTC" + (f", {self.open} open" if self.open else "")


def by_workers() -> dict[int, EngineNow] | None:
    """By engine id; None where no worker of this host is alive. A list asks for each of its rows, so what was read half
    a second ago is good enough."""
    return _read(settings.VAR_DIR / "metrics", int(time.monotonic() / STALE_SECONDS))


@lru_cache(maxsize=1)
def _read(folder: Path, _moment: int) -> dict[int, EngineNow] | None:
    return metrics.engines_now(folder)


def in_words(engine: Engine) -> str:
    """What workers make of it."""
    known = by_workers()
    if engine.state == Engine.State.DOWN:
        return "down"
    if known is None:
        return "no worker here"
    now = known.get(engine.pk)
    if now is None or now.is_well is None:
        return "not used lately"
    return "well" if now.is_well else "not ready" if now.is_reached else "unreachable"


def in_flight(engine: Engine) -> int | None:
    known = by_workers()
    return None if known is None else known.get(engine.pk, EngineNow()).in_flight


def looks(engines: Sequence[Engine]) -> list[Look]:
    """Each is asked now, all at once: within a few seconds, whatever they do."""
    return asyncio.run(health.look_at_all([engine_record(engine) for engine in engines], open_text))


def compared(engine: Engine) -> Compared:
    root = engine_counters.root_of(engine.base_url)
    judged = (EngineReading.Boundary.AGREED, EngineReading.Boundary.DIFFERED, EngineReading.Boundary.TOO_LONG)
    last = EngineReading.objects.filter(root=root, boundary__in=judged).order_by("-at").first()
    findings = EngineFinding.objects.filter(root=root, resolved_at=None).count()
    return Compared(last.at if last else None, last.boundary if last else "", findings)
