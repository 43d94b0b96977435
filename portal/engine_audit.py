"""Where engines' counters meet the books. Reading engines is the proxy's (its client knows their keys), judging is
billing's, and billing must not know the proxy: so the two are put together here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import redis

from billing import engine_counters, reconcile_calls, reconcile_engine_log
from billing.reconcile import reconcile
from billing.reconcile_books import Difference
from keys.connections import redis_client
from proxy.engine_counters import read_all, read_logs

log = logging.getLogger(__name__)


def compare(*, now: datetime) -> int:
    """Reads every engine and judges what can be judged; how many differences are new. Each is logged as an error, and
    stays a row of reconcile until it is resolved."""
    engine_counters.keep(asyncio.run(read_all(engine_counters.engines_to_read())), now)
    store = redis_client()
    findings = engine_counters.compare(store, now)
    engine_counters.tell_metrics(store)
    for found in findings:
        said = "%s: %s tokens: %s counted there, %s metered, %s to %s"
        log.error(said, found.root, found.kind, found.counted, found.metered, found.since, found.until)
    return len(findings)


def all_that_differs(store: redis.Redis, *, now: datetime) -> Iterator[Difference]:
    """What `manage.py reconcile --deep` names: books and counters, every call and hold, demo engines' logs."""
    yield from reconcile(store)
    yield from reconcile_calls.differences(store)
    yield from logs_that_differ(now=now)


def logs_that_differ(*, now: datetime) -> Iterator[Difference]:
    """Metered usage against the logs of demo engines. Only they have one, and only on this machine."""
    logs = _logs()
    pending = reconcile_calls.pending(redis_client())
    for root, log_lines in logs.items():
        ids = [engine.id for engine in engine_counters.engines_at(root)]
        yield from reconcile_engine_log.differences(log_lines, ids, pending, now)


def counted_by_demo_engines(call_ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Prompt and output tokens of these calls, as the demo engines' own logs have them; calls they never had are left
    out."""
    wanted = set(call_ids)
    entries = [entry for lines in _logs().values() for entry in lines if entry["request_id"] in wanted]
    done = [entry for entry in entries if entry["end"] != "refused"]
    return {entry["request_id"]: (entry["prompt_tokens"], entry["output_tokens"]) for entry in done}


def _logs() -> dict[str, list[dict[str, Any]]]:
    near = {root: engine for root, engine in engine_counters.engines_to_read().items() if _is_near(root)}
    return asyncio.run(read_logs(near))


def _is_near(root: str) -> bool:
    return urlsplit(root).hostname in ("127.0.0.1", "localhost", "::1")
