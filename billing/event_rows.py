"""Rows of usage_event: made from journal entries, inserted in one statement, read back to judge what comes late.

The table is append-only, so a call whose usage turned out different gets a second row (kind correction) that holds the
difference and everything else as the call's own row has it. What a call amounts to is the sum of its rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
from django.db.backends.utils import CursorWrapper

from billing import call_ids
from billing.events import Event


class Amounts(NamedTuple):
    """Everything of a call that adds up; an unreported token bucket is 0 here."""

    uncached_input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    images: int
    credits: int
    list_cost_nanos: int
    cost_nanos: int

    def plus(self, other: Amounts) -> Amounts:
        return Amounts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Amounts) -> Amounts:
        return Amounts(*(a - b for a, b in zip(self, other, strict=True)))


class Booked(NamedTuple):
    """A call that is in the table (or in the batch at hand): where its amounts were counted, as first booked and with
    its corrections."""

    brand_id: int
    organization_id: int
    key_id: int
    model_id: int
    engine_id: int | None
    end_reason: str
    day: str
    started_at_ms: int
    first: Amounts
    total: Amounts


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """A row as it is inserted; times in Unix ms, the day as YYYYMMDD."""

    call_id: str
    kind: str
    corrects: str | None
    brand_id: int
    organization_id: int
    key_id: int
    model_id: int
    engine_id: int | None
    tier_id: int | None
    rate_id: int | None
    rates: dict[str, int | None]
    endpoint: str
    payer: str
    uncached_input_tokens: int
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int
    reasoning_tokens: int | None
    images: int
    credits: int
    list_cost_nanos: int
    cost_nanos: int
    held_nanos: int
    prompt_tokens_max: int | None
    granted_tokens: int | None
    choices: int
    usage_source: str
    end_reason: str
    flags: tuple[str, ...]
    http_status: int
    stream: bool
    day: str
    started_at_ms: int
    first_token_ms: int | None
    duration_ms: int
    settled_at_ms: int
    address: str | None
    agent: str
    metadata: dict[str, str]
    user: str
    posting_id: int | None = None


_UNKNOWABLE = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_COPIED = tuple(name for name in Event.__struct_fields__ if name in Row.__struct_fields__)
_copied_of = attrgetter(*_COPIED)


def amounts_of(event: Event) -> Amounts:
    return Amounts(
        event.uncached_input_tokens,
        event.cache_read_tokens or 0,
        event.cache_write_tokens or 0,
        event.output_tokens,
        event.reasoning_tokens or 0,
        event.images,
        event.credits,
        event.list_cost_nanos,
        event.cost_nanos,
    )


def booked_as(event: Event) -> Booked:
    amounts = amounts_of(event)
    return Booked(
        event.brand_id,
        event.organization_id,
        event.key_id,
        event.model_id,
        event.engine_id,
        event.end_reason,
        event.day,
        event.started_at_ms,
        amounts,
        amounts,
    )


def call_row(event: Event, posting_id: int | None) -> Row:
    fields = dict(zip(_COPIED, _copied_of(event), strict=True))
    return Row(kind="call", corrects=None, posting_id=posting_id, **fields)


def correction_row(correction_id: str, late: Event, booked: Booked, posting_id: int | None) -> Row:
    """The row that makes the rows of `late`'s call add up to what `late` says."""
    fields = dict(zip(_COPIED, _copied_of(late), strict=True))
    placed = booked._asdict()
    del placed["first"], placed["total"]
    difference: dict[str, int | None] = {**amounts_of(late).minus(booked.total)._asdict()}
    for name in _UNKNOWABLE:
        if getattr(late, name) is None and not difference[name]:
            difference[name] = None  # what nobody reported stays unknown
    fields |= (
        placed | difference | {"call_id": correction_id, "held_nanos": 0, "prompt_tokens_max": 0, "granted_tokens": 0}
    )
    return Row(kind="correction", corrects=late.call_id, posting_id=posting_id, **fields)


def correction_id(call_id: str, stream_id: str) -> str:
    """The same late entry always makes the same id, so that it cannot correct twice."""
    noise = hashlib.sha256(f"{call_id} {stream_id}".encode()).digest()[:10]
    return call_ids.mint(int(stream_id.partition("-")[0]) & call_ids.TIMESTAMP_MS_MAX, noise)


_INSERT = """
INSERT INTO usage_event (
    call_id, kind, corrects, brand_id, organization_id, key_id, model_id, engine_id, tier_id, rate_id, rates, endpoint,
    payer, uncached_input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, images,
    credits, list_cost_nanos, cost_nanos, held_nanos, prompt_tokens_max, granted_tokens, choices, usage_source,
    end_reason, flags, http_status, stream, day, started_at, first_token_ms, duration_ms, settled_at, address, agent,
    metadata, "user", posting_id)
SELECT
    call_id, kind, corrects, brand_id, organization_id, key_id, model_id, engine_id, tier_id, rate_id, rates, endpoint,
    payer, uncached_input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, images,
    credits, list_cost_nanos, cost_nanos, held_nanos, prompt_tokens_max, granted_tokens, choices, usage_source,
    end_reason, flags, http_status, stream, day, to_timestamp(started_at_ms / 1000.0), first_token_ms, duration_ms,
    to_timestamp(settled_at_ms / 1000.0), address, agent, metadata, "user", posting_id
FROM json_to_recordset(%s::json) AS row (
    call_id uuid, kind text, corrects uuid, brand_id bigint, organization_id bigint, key_id bigint, model_id bigint,
    engine_id bigint, tier_id bigint, rate_id bigint, rates jsonb, endpoint text, payer text,
    uncached_input_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint, output_tokens bigint,
    reasoning_tokens bigint, images integer, credits bigint, list_cost_nanos bigint, cost_nanos bigint,
    held_nanos bigint, prompt_tokens_max bigint, granted_tokens bigint, choices smallint, usage_source text,
    end_reason text, flags text[], http_status smallint, stream boolean, day date,
    started_at_ms bigint, first_token_ms integer, duration_ms integer, settled_at_ms bigint, address inet, agent text,
    metadata jsonb, "user" text, posting_id bigint)
ON CONFLICT (call_id) DO NOTHING
RETURNING call_id::text
"""

_BOOKED = """
SELECT call_id::text, brand_id, organization_id, key_id, model_id, engine_id, end_reason, to_char(day, 'YYYYMMDD'),
    (extract(epoch FROM started_at) * 1000)::bigint, uncached_input_tokens, COALESCE(cache_read_tokens, 0),
    COALESCE(cache_write_tokens, 0), output_tokens, COALESCE(reasoning_tokens, 0), images, credits, list_cost_nanos,
    cost_nanos
FROM usage_event WHERE call_id = ANY(%s::uuid[])
"""

_CORRECTED = """
SELECT corrects::text, sum(uncached_input_tokens)::bigint, sum(COALESCE(cache_read_tokens, 0))::bigint,
    sum(COALESCE(cache_write_tokens, 0))::bigint, sum(output_tokens)::bigint,
    sum(COALESCE(reasoning_tokens, 0))::bigint, sum(images)::bigint, sum(credits)::bigint,
    sum(list_cost_nanos)::bigint, sum(cost_nanos)::bigint
FROM usage_event WHERE corrects = ANY(%s::uuid[]) GROUP BY corrects
"""


def insert(cursor: CursorWrapper, rows: Sequence[Row]) -> set[str]:
    """The call ids that were new."""
    if not rows:
        return set()
    cursor.execute(_INSERT, [msgspec.json.encode(rows).decode()])
    return {call_id for (call_id,) in cursor.fetchall()}


def booked_among(cursor: CursorWrapper, ids: Sequence[str]) -> dict[str, Booked]:
    """Those of the calls that are in the table, with their corrections."""
    cursor.execute(_BOOKED, [list(ids)])
    found = {}
    for call_id, *placed in cursor.fetchall():
        amounts = Amounts(*placed[8:])
        found[call_id] = Booked._make([*placed[:8], amounts, amounts])
    if found:
        cursor.execute(_CORRECTED, [list(found)])
        for call_id, *difference in cursor.fetchall():
            booked = found[call_id]
            found[call_id] = booked._replace(total=booked.first.plus(Amounts(*difference)))
    return found
