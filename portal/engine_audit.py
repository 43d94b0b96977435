"""Where engines' counters meet the books. Reading engines is the proxy's (its client knows their keys), judging is
billing's, and billing must not know the proxy: so the two are put together here."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from billing import engine_counters
from keys.connections import redis_client
from proxy.engine_counters import read_all

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
