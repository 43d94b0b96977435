"""Was metered what the demo engine says it did? Its log has one entry per request, by our call id. Whoever can read
engines hands the log in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from billing.reconcile_books import Difference

SETTLED_WITHIN = timedelta(seconds=120)
"""After the engine's end of it a call has an event: leases have ended, dead workers' calls are replayed."""
CALLS_AT_ONCE = 5_000


class _Metered(NamedTuple):
    prompt: int
    output: int
    usage_source: str


def differences(
    log: Sequence[Mapping[str, Any]], engine_ids: Collection[int], pending: Collection[str], now: datetime
) -> Iterator[Difference]:
    """`log`: entries as GET /log gives them, oldest first. `pending`: calls that are held or not booked yet."""
    done: dict[str, list[tuple[int, int]]] = defaultdict(list)
    ended: dict[str, float] = {}
    for entry in log:
        call_id = entry["request_id"]
        if entry["end"] != "refused" and _is_ours(call_id):
            done[call_id].append((entry["prompt_tokens"], entry["output_tokens"]))
            ended[call_id] = entry["ended_at"]
    metered = _metered(list(done))
    for call_id, tries in done.items():
        if call_id in metered:
            yield from _compared(call_id, metered[call_id], tries)
        elif call_id not in pending and ended[call_id] < (now - SETTLED_WITHIN).timestamp():
            yield Difference("engine log", f"call {call_id}", "an event", f"none; it did {_said(tries)}")
    if log:
        yield from _invented(datetime.fromtimestamp(log[0]["ended_at"], UTC), engine_ids, done)


def _compared(call_id: str, metered: _Metered, tries: Sequence[tuple[int, int]]) -> Iterator[Difference]:
    """The engine's last word is exact; what was heard of a call that was cut is at most what was done."""
    found = (metered.prompt, metered.output)
    if metered.usage_source == "final":
        agrees = found in tries
    else:
        agrees = metered.usage_source == "estimated" or any(
            metered.prompt <= prompt and metered.output <= output for prompt, output in tries
        )
    if not agrees:
        yield Difference("engine log", f"call {call_id} ({metered.usage_source})", _said(tries), _said([found]))


def _said(tries: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{prompt} in {output} out" for prompt, output in tries)


_OF_CALLS = """
    SELECT COALESCE(corrects, call_id)::text,
        sum(uncached_input_tokens + COALESCE(cache_read_tokens, 0) + COALESCE(cache_write_tokens, 0))::bigint,
        sum(output_tokens)::bigint, (array_agg(usage_source ORDER BY settled_at DESC, kind DESC))[1]
    FROM usage_event WHERE call_id = ANY(%s::uuid[]) OR corrects = ANY(%s::uuid[]) GROUP BY 1
"""


def _metered(call_ids: Sequence[str]) -> dict[str, _Metered]:
    found: dict[str, _Metered] = {}
    with connection.cursor() as cursor:
        for start in range(0, len(call_ids), CALLS_AT_ONCE):
            some = list(call_ids[start : start + CALLS_AT_ONCE])
            cursor.execute(_OF_CALLS, [some, some])
            found |= {call_id: _Metered(*rest) for call_id, *rest in cursor.fetchall()}
    return found


def _invented(since: datetime, engine_ids: Collection[int], done: Collection[str]) -> Iterator[Difference]:
    """Calls that were charged as the engine's last word, and that the engine knows nothing of."""
    statement = (
        "SELECT call_id::text, uncached_input_tokens, output_tokens FROM usage_event WHERE engine_id = ANY(%s)"
        " AND started_at > %s AND kind = 'call' AND usage_source = 'final' ORDER BY call_id"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(engine_ids), since])
        for call_id, prompt, output in cursor.fetchall():
            if call_id not in done:
                yield Difference("engine log", f"call {call_id}", "nothing done", _said([(prompt, output)]))


def _is_ours(request_id: str) -> bool:
    try:
        return UUID(request_id).version == 7
    except ValueError:
        return False
