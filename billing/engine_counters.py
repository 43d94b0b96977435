"""Do engines' own counters agree with what was metered? The only writer of EngineReading and EngineFinding.

An interval lies between two readings of one root. What the engine counted in it is compared with the calls settled in
it. A call that was under way at an end is counted partly on the one side and wholly on the other, so its tokens are
allowed as difference; hence an interval is judged only when the calls under way at its end have settled: at once after
a reading at rest, after the longest call otherwise. It goes on until the difference is found, or until it is so long
that its agreement means something.

Reads no engine: who does (proxy.engine_counters) hands in what it read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

import redis
from django.conf import settings
from django.db import connection, transaction

from billing import script
from billing.catalogue import engine_record
from billing.entries import order
from billing.models import Engine
from billing.reading_models import EngineFinding, EngineReading
from billing.reconcile_books import Difference
from billing.snapshot import EngineRecord
from keys.caller import SHARDS

AT_REST = timedelta(seconds=120)
"""After a reading without running calls: leases have ended by then, replay and journal are done."""
UNDER_WAY = timedelta(minutes=20)
"""After a reading with running calls: longer than a call may take."""
SKEW = timedelta(seconds=5)
"""By which clocks differ, and engines count late."""
CUT_TOKENS = 64
"""What an engine writes at most between the last usage heard of a call and its end, where the call was cut: it takes
engines steps to notice, and usage is told a chunk at a time."""
FASTER = 4
"""How much faster a call may have been than the fastest that was timed: it had the engine to itself, say."""
TIMED_TOKENS = 64
JUDGED_BY = timedelta(days=1)
KEPT = timedelta(days=7)
BACKLOG = timedelta(seconds=60)
FINDINGS = "reconcile:engines"
"""Redis: how many findings are not resolved, for metrics."""
Boundary = EngineReading.Boundary
log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """What one engine's /metrics said. Totals since it started."""

    prompt_tokens: int
    output_tokens: int
    is_prompt_whole: bool
    running: int | None
    process_started: float | None


@dataclass(frozen=True, slots=True)
class Metered:
    """Of one kind of tokens: what calls of an interval used; what of it may be none of the interval's, because calls
    were under way at its ends, or is a guess; and what calls may have used whose end nobody heard of."""

    tokens: int
    under_way: int
    unheard: int


def root_of(base_url: str) -> str:
    return base_url.removesuffix("/v1")


def engines_to_read() -> dict[str, EngineRecord]:
    """One engine by root of each that is not down."""
    rows = Engine.objects.exclude(state=Engine.State.DOWN).order_by("-id")
    return {root_of(row.base_url): engine_record(row) for row in rows}


def keep(readings: dict[str, Reading], at: datetime) -> None:
    """Stores what was read, by root. `at`: when it was read, the same for all."""
    for root, reading in readings.items():
        ids = sorted(row.id for row in engines_at(root))
        before = EngineReading.objects.filter(root=root).order_by("at").last()
        boundary = _boundary(before, ids, reading)
        EngineReading.objects.create(root=root, engine_ids=ids, at=at, boundary=boundary, **reading._asdict())
    EngineReading.objects.filter(at__lt=at - KEPT).delete()


def compare(store: redis.Redis, now: datetime) -> list[EngineFinding]:
    """Judges every interval that can be judged; what it found new. Nothing while the journal is behind."""
    if _journal_is_behind(store, now):
        log.info("engines' counters wait for the journal")
        return []
    roots = EngineReading.objects.order_by("root").values_list("root", flat=True).distinct()
    return [finding for root in roots for finding in _judged(root, now)]


def begin_anew(base_url: str) -> None:
    """What the engine did so far, for somebody who is not metered (the probe, say), is not compared."""
    EngineReading.objects.filter(root=root_of(base_url)).delete()


def tell_metrics(store: redis.Redis) -> None:
    store.set(FINDINGS, EngineFinding.objects.filter(resolved_at=None).count())


def unresolved() -> Iterator[Difference]:
    """The findings that nobody has resolved, for reconcile."""
    for found in EngineFinding.objects.filter(resolved_at=None).order_by("id"):
        subject = f"{found.root}, {found.kind} tokens {found.since:%Y-%m-%dT%H:%M:%SZ} to {found.until:%H:%M:%SZ}"
        allowed = f"{found.counted} counted there, give or take {found.allowed}"
        yield Difference("engine counters", subject, allowed, f"{found.metered} metered")


def resolve(ids: Iterable[int], now: datetime) -> int:
    """An operator knows why; how many were open."""
    return EngineFinding.objects.filter(pk__in=list(ids), resolved_at=None).update(resolved_at=now)


def engines_at(root: str) -> list[Engine]:
    return list(Engine.objects.filter(base_url__in=(root, f"{root}/v1")))


def _boundary(before: EngineReading | None, ids: Sequence[int], now: Reading) -> str:
    if before is None or list(before.engine_ids) != list(ids) or before.is_prompt_whole != now.is_prompt_whole:
        return Boundary.FIRST
    fell = now.prompt_tokens < before.prompt_tokens or now.output_tokens < before.output_tokens
    return Boundary.RESTARTED if fell or now.process_started != before.process_started else ""


def _judged(root: str, now: datetime) -> list[EngineFinding]:
    readings = EngineReading.objects.filter(root=root)
    last = readings.order_by("at").last()
    start = readings.exclude(boundary="").order_by("at").last()
    if last is None or start is None:
        return []
    after = readings.filter(at__gt=start.at)
    end = (after.filter(running=0, at__lte=now - AT_REST) | after.filter(at__lte=now - UNDER_WAY)).order_by("at").last()
    if end is None:
        return []
    with transaction.atomic():
        end = EngineReading.objects.select_for_update().get(pk=end.pk)
        if end.boundary:
            return []  # another process was faster
        findings, is_conclusive = _verdict(start, end)
        if findings:
            end.boundary = Boundary.DIFFERED
        elif is_conclusive:
            end.boundary = Boundary.AGREED
        elif end.at - start.at > JUDGED_BY:
            end.boundary = Boundary.TOO_LONG
        end.save(update_fields=["boundary"])
        return EngineFinding.objects.bulk_create(findings)


def _verdict(start: EngineReading, end: EngineReading) -> tuple[list[EngineFinding], bool]:
    """What differs, and whether the interval is long enough to say that the rest agrees."""
    is_shared = any(engine.is_shared for engine in engines_at(end.root))
    findings = []
    conclusive = []
    kinds: tuple[Literal["prompt", "output"], ...] = ("prompt", "output")
    for kind in kinds:
        counted = getattr(end, f"{kind}_tokens") - getattr(start, f"{kind}_tokens")
        metered = _metered(kind, start, end)
        bound = bound_of(max(counted, metered.tokens))
        more, fewer = counted - metered.tokens, metered.tokens - counted
        allowed = bound + metered.under_way + (metered.unheard if more > 0 else 0)
        if fewer > allowed or (more > allowed and not is_shared):
            findings.append(
                EngineFinding(
                    root=end.root,
                    engine_ids=end.engine_ids,
                    kind=kind,
                    since=start.at,
                    until=end.at,
                    counted=counted,
                    metered=metered.tokens,
                    allowed=allowed,
                )
            )
        least = settings.ENGINE_DIFFERENCE_TOKENS * 100 // settings.ENGINE_DIFFERENCE_PERCENT
        conclusive.append(counted >= least and metered.under_way + metered.unheard <= bound)
    return findings, all(conclusive)


def bound_of(tokens: int) -> int:
    """The difference that is not worth a word."""
    return int(max(settings.ENGINE_DIFFERENCE_TOKENS, tokens * settings.ENGINE_DIFFERENCE_PERCENT // 100))


_METERED = """
    WITH ended AS (
        SELECT {tokens} AS tokens, COALESCE(engine_id = ANY(%(engines)s), false) AS is_ours, duration_ms,
            COALESCE({most}, max({tokens}) OVER ()) AS most,
            usage_source = 'none' OR (usage_source = 'running' AND NOT {heard})
                OR (usage_source = 'estimated' AND {cut}) AS is_unheard,
            usage_source = 'running' AND {heard} AS is_cut,
            end_reason <> 'lapsed' AND (stream OR %(stops_on_close)s) AS is_over,
            choices, max({speed}) OVER () * %(faster)s AS tokens_per_ms,
            settled_at > %(since)s AND settled_at <= %(until)s AS is_inside,
            (started_at < %(since)s + %(skew)s AND settled_at > %(since)s AND settled_at <= %(until)s)
                OR (settled_at > %(since)s - %(skew)s AND settled_at <= %(since)s)
                OR (started_at < %(until)s + %(skew)s AND settled_at > %(until)s - %(skew)s) AS is_under_way,
            usage_source = 'estimated' AND {cut} AS is_guessed
        FROM usage_event
        WHERE settled_at > %(since)s - %(skew)s AND (engine_id = ANY(%(engines)s) OR engine_id IS NULL)
    ), bounded AS (
        SELECT *, CASE
            WHEN is_unheard AND is_over THEN
                LEAST(most, ceil(duration_ms * choices * tokens_per_ms)::bigint + %(cut_tokens)s) - tokens
            WHEN is_unheard THEN most - tokens
            WHEN is_cut THEN LEAST(most - tokens, %(cut_tokens)s)
            ELSE 0 END AS unheard
        FROM ended
    )
    SELECT COALESCE(sum(tokens) FILTER (WHERE is_inside AND is_ours), 0)::bigint,
        COALESCE(sum(abs(tokens)) FILTER (WHERE is_ours AND (is_under_way OR (is_guessed AND is_inside))), 0)::bigint,
        COALESCE(sum(GREATEST(unheard, 0)) FILTER (WHERE is_inside OR is_under_way), 0)::bigint
    FROM bounded
"""
_HEARD = "(end_reason <> 'lapsed' AND NOT 'prompt_estimated' = ANY(flags))"
_CUT = "end_reason IN ('client_gone', 'upstream_error', 'upstream_cut', 'timeout', 'lapsed')"
_SPEED = """CASE WHEN usage_source = 'final' AND kind = 'call' AND output_tokens >= %(timed_tokens)s THEN
        output_tokens / (GREATEST(duration_ms - CASE WHEN stream THEN COALESCE(first_token_ms, 0) ELSE 0 END, 1)
            * choices::float) END"""
"""Output tokens per millisecond of each choice, of calls that are long enough to time."""
_TOKENS = {
    ("output", True): "output_tokens",
    ("output", False): "output_tokens",
    ("prompt", True): "uncached_input_tokens + COALESCE(cache_read_tokens, 0) + COALESCE(cache_write_tokens, 0)",
    ("prompt", False): "uncached_input_tokens + COALESCE(cache_write_tokens, 0)",
}
_MOST = {"output": "granted_tokens * choices", "prompt": "prompt_tokens_max"}


def _metered(kind: Literal["prompt", "output"], start: EngineReading, end: EngineReading) -> Metered:
    """A call of which nothing was heard, or whose worker was gone, has used at most what it was held for; and where its
    engine stopped with it, no more output than such an engine makes in its time (of events that do not say: as much as
    the largest call). One that was cut while it was heard has used a little more output than was heard, and no other
    prompt."""
    stops = all(engine.capabilities.get("stops_on_close") for engine in engines_at(end.root))
    given: dict[str, Any] = {
        "since": start.at,
        "until": end.at,
        "skew": SKEW,
        "engines": list(end.engine_ids),
        "cut_tokens": CUT_TOKENS if kind == "output" else 0,
        "stops_on_close": stops,
        "faster": FASTER if kind == "output" else None,
        "timed_tokens": TIMED_TOKENS,
    }
    statement = _METERED.format(
        tokens=_TOKENS[kind, end.is_prompt_whole], most=_MOST[kind], heard=_HEARD, cut=_CUT, speed=_SPEED
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, given)
        return Metered(*cursor.fetchone())


def _journal_is_behind(store: redis.Redis, now: datetime) -> bool:
    """Whether a settled call has waited for the books longer than BACKLOG."""
    oldest_ms = (now - BACKLOG).timestamp() * 1000
    for shard in range(SHARDS):
        first: Any = store.xrange(script.name(shard, script.JOURNAL), count=1)
        if first and order(first[0][0].decode())[0] < oldest_ms:
            return True
    return False
