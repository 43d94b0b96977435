"""How well the models of a brand have served its customers lately: from the rollups alone, never from events.

All customers together, so that nobody's own use shows; the house's own calls (the canary's) are left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from django.core.cache import cache
from redis.exceptions import RedisError

from billing import reports
from keys.models import Brand
from portal.canary import accounts
from portal.docs.surface import Surface
from portal.docs.tables import Table, amount, code

KEPT_SECONDS = 60
"""Anybody may read these pages; the rollups are summed once a minute at most."""
MONTH_DAYS = 30
HALF, TAIL = 500, 950
"""Per mille: the median, and what one call in twenty passes."""


class Served(NamedTuple):
    """Of one model. `available` in hundredths of a per cent, times in ms, speed in tokens per second; None: unknown."""

    model_id: int
    available: int | None
    first_token_half_ms: int | None
    first_token_tail_ms: int | None
    speed_half: int | None
    speed_tail: int | None


def served(brand: Brand, period: str, now: datetime) -> dict[int, Served]:
    """By model id."""
    name = f"docs:service:{brand.pk}:{period}"
    try:
        kept = cache.get(name)
        if kept is None:
            kept = [tuple(row) for row in _measured(brand, period, now)]
            cache.set(name, kept, KEPT_SECONDS)
    except RedisError:
        kept = _measured(brand, period, now)
    return {row[0]: Served(*row) for row in kept}


def _measured(brand: Brand, period: str, now: datetime) -> list[Served]:
    without = accounts.ids(brand)
    if period == "day":
        found = reports.models_by_quarter(brand.pk, since=now - timedelta(hours=24), without=without)
    else:
        found = reports.models_by_day(brand.pk, first=now.date() - timedelta(days=MONTH_DAYS), without=without)
    return [_served(row) for row in found]


def _served(row: reports.Usage) -> Served:
    return Served(
        row.model_id or 0,
        None if not row.requests else (row.requests - row.failures) * 10_000 // row.requests,
        row.first_token_ms(HALF),
        row.first_token_ms(TAIL),
        row.tokens_per_second(HALF),
        row.tokens_per_second(1000 - TAIL),
    )


def table(surface: Surface, period: str) -> Table:
    found = served(surface.brand, period, surface.now)
    rows = []
    for model in surface.models:
        each = found.get(model.id) or Served(model.id, None, None, None, None, None)
        rows.append(
            (
                code(model.slug),
                amount(per_cent(each.available)),
                amount(_ms(each.first_token_half_ms)),
                amount(_ms(each.first_token_tail_ms)),
                amount(_speed(each.speed_half)),
                amount(_speed(each.speed_tail)),
            )
        )
    headers = (
        "Model",
        "Answered",
        "First token, median",
        "First token, 95 %",
        "Tokens/s, median",
        "Tokens/s, slowest 5 %",
    )
    return Table(headers, rows)


def per_cent(hundredths: int | None) -> str:
    """Rounded down: never better than it was."""
    return "–" if hundredths is None else f"{hundredths // 100}.{hundredths % 100:02d} %"


def _ms(value: int | None) -> str:
    return "–" if value is None else f"{value:,} ms"


def _speed(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
