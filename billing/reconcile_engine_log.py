"""Was metered what the demo engine says it did? Its log has one entry per request, by our call id. Whoever can read
engines hands the log in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from billing.admission import PROGRESS_MS
from billing.engine_counters import CUT_TOKENS
from billing.reconcile_books import Difference

SETTLED_WITHIN = timedelta(seconds=120)
"""After the engine's end of it a call has an event: leases have ended, dead workers' calls are replayed."""
CALLS_AT_ONCE = 5_000
_WHOLE = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""How a call ends that was answered."""


class _Done(NamedTuple):
    """What the engine did for a call. `unheard`: the output that its metering may lack where the call was cut."""

    prompt: int
    output: int
    unheard: int


class _Metered(NamedTuple):
    prompt: int
    output: int
    usage_source: str
    stream: bool
    end_reason: str


def differences(
    log: Sequence[Mapping[str, Any]], engine_ids: Collection[int], pending: Collection[str], now: datetime
) -> Iterator[Difference]:
    """`log`: entries as GET /log gives them, oldest first. `pending`: calls that are held or not booked yet."""
    done: dict[str, list[_Done]] = defaultdict(list)
    ended: dict[str, float] = {}
    for entry in log:
        call_id = entry["request_id"]
        if entry["end"] != "refused" and _is_ours(call_id):
            done[call_id].append(_Done(entry["prompt_tokens"], entry["output_tokens"], _unheard(entry)))
            ended[call_id] = entry["ended_at"]
    metered = _metered(list(done))
    for call_id, tries in done.items():
        if call_id in metered:
            yield from _compared(call_id, metered[call_id], tries)
        elif call_id not in pending and ended[call_id] < (now - SETTLED_WITHIN).timestamp():
            yield Difference("engine log", f"call {call_id}", "an event", f"none; it did {_said(tries)}")
    if log:
        yield from _invented(datetime.fromtimestamp(log[0]["ended_at"], UTC), engine_ids, done)


def _unheard(entry: Mapping[str, Any]) -> int:
    """What an engine makes at its pace in one progress interval, and in the steps that it takes to notice a cut."""
    seconds: float = entry["ended_at"] - entry.get("started_at", entry["ended_at"])
    interval = PROGRESS_MS / 1000
    output: int = entry["output_tokens"]
    return CUT_TOKENS + ceil(output * interval / max(seconds, interval))


def _compared(call_id: str, metered: _Metered, tries: Sequence[_Done]) -> Iterator[Difference]:
    if not any(_agrees(metered, done) for done in tries):
        found = f"{metered.prompt} in {metered.output} out"
        yield Difference("engine log", f"call {call_id} ({metered.usage_source})", _said(tries, metered), found)


def _agrees(metered: _Metered, done: _Done) -> bool:
    """The engine's last word is exact, and no answer was given for nothing. What was heard of a stream that was cut is
    at most what was done, and at least that but for what was made unheard; of a whole answer that was cut nothing is
    heard, and nobody got it."""
    if metered.usage_source == "final" or (metered.usage_source == "none" and metered.end_reason in _WHOLE):
        return (metered.prompt, metered.output) == (done.prompt, done.output)
    if metered.usage_source == "estimated":
        return True
    if metered.prompt > done.prompt or metered.output > done.output:
        return False
    if metered.output and metered.prompt < done.prompt:
        return False
    return not metered.stream or metered.output >= done.output - done.unheard


def _said(tries: Sequence[_Done], metered: _Metered | None = None) -> str:
    is_cut = metered is not None and metered.usage_source != "final"
    less = ", less {} at most" if is_cut else ""
    return ", ".join(f"{done.prompt} in {done.output} out" + less.format(done.unheard) for done in tries)


_OF_CALLS = """
    SELECT COALESCE(corrects, call_id)::text,
        sum(uncached_input_tokens + COALESCE(cache_read_tokens, 0) + COALESCE(cache_write_tokens, 0))::bigint,
        sum(output_tokens)::bigint, (array_agg(usage_source ORDER BY settled_at DESC, kind DESC))[1],
        bool_or(stream), max(end_reason)
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
                yield Difference("engine log", f"call {call_id}", "nothing done", f"{prompt} in {output} out")


def _is_ours(request_id: str) -> bool:
    try:
        return UUID(request_id).version == 7
    except ValueError:
        return False
