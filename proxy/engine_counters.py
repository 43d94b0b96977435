"""What engines count themselves: their Prometheus totals, read with the client that calls go through, so that their
keys, headers and certificates are as for calls. What the totals mean is told by engine kind; comparing is billing's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from billing.engine_counters import Reading
from billing.snapshot import EngineRecord
from keys.sealing import open_text
from proxy.upstream import Deadlines, Pool, UpstreamFailure

PATIENCE = Deadlines(connect_ms=3_000, first_byte_ms=10_000, idle_ms=10_000, total_ms=15_000)
ANSWER_BYTES_MAX = 16 * 1024 * 1024
LOG_BYTES_MAX = 256 * 1024 * 1024
AT_ONCE = 16
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)
log = logging.getLogger(__name__)


class _Names(NamedTuple):
    """`cached`: counted apart from `prompt`, where the engine counts it."""

    prompt: str
    output: str
    running: tuple[str, ...]
    cached: str = ""


NAMES = {
    "vllm": _Names(
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ),
    "sglang": _Names(
        "sglang:prompt_tokens_total",
        "sglang:generation_tokens_total",
        ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    ),
    "llamacpp": _Names(
        "llamacpp:prompt_tokens_total",
        "llamacpp:tokens_predicted_total",
        ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        cached="llamacpp:prompt_tokens_cached_total",
    ),
}


async def read_all(engines: Mapping[str, EngineRecord]) -> dict[str, Reading]:
    """The readings of engines that have counters and answer, by the key they were given under."""
    pool = Pool(open_text)
    places = asyncio.Semaphore(AT_ONCE)

    async def one(engine: EngineRecord) -> Reading | None:
        async with places:
            text = await get(pool, engine, "/metrics") if engine.kind in NAMES else None
        return None if text is None else understood(engine.kind, text.decode(errors="replace"))

    try:
        found = await asyncio.gather(*(one(engine) for engine in engines.values()))
    finally:
        await pool.close()
    return {key: reading for key, reading in zip(engines, found, strict=True) if reading is not None}


async def get(pool: Pool, engine: EngineRecord, path: str, bytes_max: int = ANSWER_BYTES_MAX) -> bytes | None:
    """The body at a path below the engine's host; None when it has no such thing or does not answer."""
    try:
        response = await pool.send(engine, path, b"", (), PATIENCE, method="GET", from_root=True)
        try:
            body = await response.read(bytes_max)
        finally:
            response.close()
    except (UpstreamFailure, ValueError) as error:
        log.warning("engine %s: %s: %s", engine.name, path, error)
        return None
    return body if response.status == 200 else None


def understood(kind: str, text: str) -> Reading | None:
    """The totals in an exposition, summed over labels; None when they are not there."""
    totals = _totals(_SAMPLE.findall(text))
    names = NAMES[kind]
    if names.prompt not in totals or names.output not in totals:
        return None
    cached = totals.get(names.cached)
    known = [totals[name] for name in names.running if name in totals]
    return Reading(
        prompt_tokens=int(totals[names.prompt] + (cached or 0)),
        output_tokens=int(totals[names.output]),
        is_prompt_whole=not names.cached or cached is not None,
        running=int(sum(known)) if known else None,
        process_started=totals.get("process_start_time_seconds"),
    )


def _totals(samples: Iterable[tuple[str, str]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for name, text in samples:
        try:
            totals[name] = totals.get(name, 0.0) + float(text)
        except ValueError:
            continue
    return totals


async def read_logs(engines: Mapping[str, EngineRecord]) -> dict[str, list[dict[str, Any]]]:
    """What demo engines among these have done, request by request. Other engines have no such log and are left out."""
    pool = Pool(open_text)
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for key, engine in engines.items():
            body = await get(pool, engine, "/log", LOG_BYTES_MAX)
            with contextlib.suppress(orjson.JSONDecodeError):
                lines = [orjson.loads(line) for line in (body or b"").splitlines()]
                if all(isinstance(line, dict) and "request_id" in line for line in lines):
                    found[key] = lines
    finally:
        await pool.close()
    return found
