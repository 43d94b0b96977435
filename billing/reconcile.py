"""Every difference between what Redis counts, what happened, what was summed, what was posted and what Stripe received;
and the engines whose own counters contradict what was metered (found by engine_counters.py, on its schedule).

It may run at any time: PostgreSQL is read in snapshots, Redis as reconcile_counters.py says. It changes nothing but the
figure that metrics show.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import redis
from django.db import connection, transaction
from django.utils import timezone

from billing import engine_counters, reconcile_books, reconcile_counters, reconcile_stripe
from billing.reconcile_books import LAST, Difference


class Last(NamedTuple):
    differences: int
    at_ms: int


def reconcile(store: redis.Redis) -> Iterator[Difference]:
    """Names each difference as it is found; when all are named, their number is kept for metrics."""
    found = 0
    for difference in _differences(store):
        found += 1
        yield difference
    store.hset(LAST, mapping={"differences": found, "at_ms": int(time.time() * 1000)})


def _differences(store: redis.Redis) -> Iterator[Difference]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        within_books = [*reconcile_books.differences(cursor), *engine_counters.unresolved()]
    yield from within_books
    yield from reconcile_counters.differences(store)
    yield from reconcile_stripe.differences(timezone.now())


def last(store: redis.Redis) -> Last | None:
    """What the last complete run found, for metrics; None when there was none."""
    kept = store.hgetall(LAST)
    return Last(int(kept[b"differences"]), int(kept[b"at_ms"])) if kept else None
