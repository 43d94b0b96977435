"""Sums of usage events per quarter of an hour (UTC, by start) and per brand day. Written by the journal only.

A correction adds its difference to the row its call is in and counts no request; a token bucket that the engine did not
report adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson
from django.db.backends.utils import CursorWrapper

from billing import histograms
from billing.event_rows import Row
from billing.events import is_failure

QUARTER_MS = 900_000
KEYS = ("organization_id", "key_id", "model_id", "engine_id", "end_reason", "brand_id")
SUMS = (
    "requests",
    "failures",
    "uncached_input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "images",
    "credits",
    "list_cost_nanos",
    "cost_nanos",
)
HISTOGRAMS = {
    "first_token_histogram": histograms.MILLISECONDS,
    "duration_histogram": histograms.MILLISECONDS,
    "speed_histogram": histograms.TOKENS_PER_SECOND,
}
"""Column → its bounds."""

_Place = tuple[int, int | str, int, int, int, str, int]
"""Organization, window, key, model, engine, end reason, brand: the order of the unique index."""


@dataclass(slots=True)
class _Sum:
    amounts: list[int] = field(default_factory=lambda: [0] * len(SUMS))
    first_token: list[int] = field(default_factory=list)
    duration: list[int] = field(default_factory=list)
    speed: list[int] = field(default_factory=list)

    def add(self, row: Row) -> None:
        is_call = row.kind == "call"
        amounts = self.amounts
        amounts[0] += is_call
        amounts[1] += is_call and is_failure(row.usage_source, row.end_reason)
        amounts[2] += row.uncached_input_tokens
        amounts[3] += row.cache_read_tokens or 0
        amounts[4] += row.cache_write_tokens or 0
        amounts[5] += row.output_tokens
        amounts[6] += row.reasoning_tokens or 0
        amounts[7] += row.images
        amounts[8] += row.credits
        amounts[9] += row.list_cost_nanos
        amounts[10] += row.cost_nanos
        if is_call:
            speed = histograms.speed(row.output_tokens, row.first_token_ms, row.duration_ms)
            histograms.count(self.first_token, row.first_token_ms, histograms.MILLISECONDS)
            histograms.count(self.duration, row.duration_ms, histograms.MILLISECONDS)
            histograms.count(self.speed, speed, histograms.TOKENS_PER_SECOND)


def add(cursor: CursorWrapper, rows: Iterable[Row]) -> None:
    """Adds rows that were just inserted, in the same transaction."""
    quarters: dict[_Place, _Sum] = {}
    days: dict[_Place, _Sum] = {}
    for row in rows:
        place = (row.key_id, row.model_id, row.engine_id or 0, row.end_reason, row.brand_id)
        quarter = row.started_at_ms - row.started_at_ms % QUARTER_MS
        quarters.setdefault((row.organization_id, quarter, *place), _Sum()).add(row)
        days.setdefault((row.organization_id, row.day, *place), _Sum()).add(row)
    _upsert(cursor, _UPSERT_QUARTER, quarters)
    _upsert(cursor, _UPSERT_DAY, days)


def _upsert(cursor: CursorWrapper, statement: str, sums: dict[_Place, _Sum]) -> None:
    """In the order of the unique index, so that two writers never wait for each other in a circle."""
    if sums:
        cursor.execute(statement, [orjson.dumps([_record(place, sums[place]) for place in sorted(sums)]).decode()])


def _record(place: _Place, total: _Sum) -> dict[str, object]:
    organization_id, window, key_id, model_id, engine_id, end_reason, brand_id = place
    return {
        "organization_id": organization_id,
        "window": window,
        "key_id": key_id,
        "model_id": model_id,
        "engine_id": engine_id,
        "end_reason": end_reason,
        "brand_id": brand_id,
        "first_token_histogram": total.first_token,
        "duration_histogram": total.duration,
        "speed_histogram": total.speed,
        **dict(zip(SUMS, total.amounts, strict=True)),
    }


def _upsert_sql(table: str, column: str, window_type: str, window: str) -> str:
    """An upsert of sums; `window` is the SQL that turns the record's "window" into the column."""
    copied: Sequence[str] = (*KEYS, *SUMS, *HISTOGRAMS)
    types = (
        *(f"{name} {'text' if name == 'end_reason' else 'bigint'}" for name in (*KEYS, *SUMS)),
        *(f"{name} bigint[]" for name in HISTOGRAMS),
    )
    added = (
        *(f"{name} = total.{name} + excluded.{name}" for name in SUMS),
        *(f"{name} = add_histograms(total.{name}, excluded.{name})" for name in HISTOGRAMS),
    )
    return (
        f"INSERT INTO {table} AS total ({column}, {', '.join(copied)})"  # noqa: S608 - constants of this module
        f" SELECT {window}, {', '.join(copied)} FROM json_to_recordset(%s::json)"
        f' AS row ("window" {window_type}, {", ".join(types)})'
        f" ON CONFLICT (organization_id, {column}, key_id, model_id, engine_id, end_reason, brand_id)"
        f" DO UPDATE SET {', '.join(added)}"
    )


_UPSERT_QUARTER = _upsert_sql("billing_usagequarter", "starts_at", "bigint", 'to_timestamp("window" / 1000.0)')
_UPSERT_DAY = _upsert_sql("billing_usageday", "day", "date", '"window"')
