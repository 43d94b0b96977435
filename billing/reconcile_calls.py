"""What `reconcile --deep` adds: invariants of calls, one by one. It reads every event and hold, so it takes its time.

That each organization's money is conserved needs no more than the plain run compares: the balance in Redis with ledger
and unread journal, and what is held with the sum of the holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from django.db import connection

from billing import entries, script
from billing.entries import EntryRefused, order
from billing.reconcile_books import Difference
from keys.caller import SHARDS

OVERDUE_MS = 60_000
ENTRIES_MAX = 50_000


def differences(store: redis.Redis) -> Iterator[Difference]:
    yield from _brands_that_do_not_balance()
    yield from _charges_outside_their_holds()
    yield from _priced_otherwise()
    yield from _corrections_of_nothing()
    yield from _twice()
    for shard in range(SHARDS):
        yield from _unread_twice(store, shard)
        yield from _held_too_long(store, shard)


def pending(store: redis.Redis) -> set[str]:
    """The calls that are held, or settled and not booked yet."""
    found: set[str] = set()
    for shard in range(SHARDS):
        found |= {hold.call_id for hold in script.read_holds(store, shard)}
        found |= {call_id for _, call_id, _ in _entries(store, shard)}
    return found


def _rows(statement: str, given: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, given)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def _brands_that_do_not_balance() -> Iterator[Difference]:
    """Each posting sums to zero; here each brand's books do, so that none of them pays for another."""
    statement = """
        SELECT account.brand_id, sum(line.amount_nanos)::bigint FROM billing_postingline line
        JOIN billing_ledgeraccount account ON account.id = line.account_id
        GROUP BY 1 HAVING sum(line.amount_nanos) <> 0 ORDER BY 1
    """
    for brand_id, total in _rows(statement):
        yield Difference("ledger", f"lines of brand {brand_id} sum", 0, total)


def _charges_outside_their_holds() -> Iterator[Difference]:
    statement = """
        SELECT COALESCE(corrects, call_id), sum(cost_nanos)::bigint, max(held_nanos) FROM usage_event
        GROUP BY 1 HAVING sum(cost_nanos) > max(held_nanos) OR sum(cost_nanos) < 0 ORDER BY 1
    """
    for call_id, cost, held in _rows(statement):
        yield Difference("charge", f"call {call_id}", f"0 to {held} held", cost)


def _priced_otherwise() -> Iterator[Difference]:
    """What each call's usage costs by the rates frozen with it, and the credits it takes by its rate, which never
    changes. Of a call whose usage nobody knows nothing is charged, or what every request costs."""
    for call_id, expected, found, free in _rows(_PRICED):
        if found != expected and not (free and set(found) == {0}):
            yield Difference("price", f"call {call_id}", _priced(expected), _priced(found))


def _priced(amounts: Sequence[int]) -> str:
    cost, listed, credits = amounts
    return f"{cost} nanos, {listed} by the list, {credits} credits"


_PRICED = """
    WITH of_call AS (
        SELECT COALESCE(corrects, call_id) AS call_id, min(payer) AS payer, max(held_nanos) AS held,
            (array_agg(rates ORDER BY kind))[1] AS rates, max(rate_id) AS rate_id,
            bool_and(usage_source = 'none') AS is_unknown, sum(uncached_input_tokens) AS uncached,
            sum(COALESCE(cache_read_tokens, 0)) AS cache_read, sum(COALESCE(cache_write_tokens, 0)) AS cache_write,
            sum(output_tokens) AS output, LEAST(sum(COALESCE(reasoning_tokens, 0)), sum(output_tokens)) AS reasoning,
            sum(images) AS images, sum(cost_nanos)::bigint AS cost, sum(list_cost_nanos)::bigint AS listed,
            sum(credits)::bigint AS credits
        FROM usage_event GROUP BY 1
    ), rated AS (
        SELECT *, COALESCE((rates ->> 'input_picos')::numeric, 0) AS input_rate,
            COALESCE((rates ->> 'output_picos')::numeric, 0) AS output_rate
        FROM of_call
    ), priced AS (
        SELECT rated.*, (ceil((uncached * input_rate
                + cache_read * COALESCE((rates ->> 'cache_read_picos')::numeric, input_rate)
                + cache_write * COALESCE((rates ->> 'cache_write_picos')::numeric, input_rate)
                + (output - reasoning) * output_rate
                + reasoning * COALESCE((rates ->> 'reasoning_picos')::numeric, output_rate)) / 1000)
            + COALESCE((rates ->> 'request_nanos')::numeric, 0)
            + images * COALESCE((rates ->> 'image_nanos')::numeric, 0))::bigint AS by_rates,
            COALESCE(rate.credits_per_request + ceil((uncached + cache_read + cache_write + output)
                * rate.credits_per_1000_tokens / 1000.0), rated.credits)::bigint AS credits_by_rate
        FROM rated LEFT JOIN billing_rate rate ON rate.id = rated.rate_id
    ), due AS (
        SELECT *, CASE WHEN payer = 'prepaid' THEN LEAST(by_rates, held) ELSE 0 END AS cost_by_rates FROM priced
    )
    SELECT call_id, ARRAY[cost_by_rates, by_rates, credits_by_rate], ARRAY[cost, listed, credits], is_unknown FROM due
    WHERE (cost, listed, credits) IS DISTINCT FROM (cost_by_rates, by_rates, credits_by_rate) ORDER BY 1
"""


def _corrections_of_nothing() -> Iterator[Difference]:
    statement = """
        SELECT late.call_id, late.corrects FROM usage_event late
        LEFT JOIN usage_event call ON call.call_id = late.corrects AND call.kind = 'call'
        WHERE late.kind = 'correction' AND call.call_id IS NULL ORDER BY 1
    """
    for correction_id, call_id in _rows(statement):
        yield Difference("correction", str(correction_id), f"call {call_id}", "no such call")


def _twice() -> Iterator[Difference]:
    """The primary key forbids it; a partition that lost its key would not."""
    for call_id, count in _rows("SELECT call_id, count(*) FROM usage_event GROUP BY 1 HAVING count(*) > 1 ORDER BY 1"):
        yield Difference("call", str(call_id), "one event", f"{count} events")


def _unread_twice(store: redis.Redis, shard: int) -> Iterator[Difference]:
    """A call that was settled from its hold twice: in the stream itself, or in the stream after it was booked. Redis is
    read first: what is past the position of the books then cannot be what booked it."""
    unread = [(stream_id, call_id) for stream_id, call_id, is_late in _entries(store, shard) if not is_late]
    for call_id, count in Counter(call_id for _, call_id in unread).items():
        if count > 1:
            yield Difference("call", call_id, "settled once", f"{count} entries in shard {shard}")
    held = [hold.call_id for hold in script.read_holds(store, shard)]
    last, booked = _booked(shard, {call_id for _, call_id in unread} | set(held))
    for stream_id, call_id in unread:
        if call_id in booked and order(stream_id) > last:
            yield Difference("call", call_id, "settled once", "booked, and settled again")
    for call_id in sorted(booked & set(held)):
        if store.hexists(script.name(shard, script.HOLDS), call_id):
            yield Difference("call", call_id, "no hold, it is booked", "a hold")


def _booked(shard: int, call_ids: set[str]) -> tuple[tuple[int, int], set[str]]:
    """Up to where the shard's stream is booked, and which of the calls are; in one statement, hence of one moment."""
    statement = """
        SELECT (SELECT last_stream_id FROM billing_journalshard WHERE shard = %s),
            ARRAY(SELECT call_id::text FROM usage_event WHERE call_id = ANY(%s::uuid[]))
    """
    ((last, booked),) = _rows(statement, [shard, sorted(call_ids)])
    return order(last or "0-0"), set(booked)


def _entries(store: redis.Redis, shard: int) -> list[tuple[str, str, bool]]:
    """Stream id, call id and whether it came late, of each entry of a shard that can be read."""
    found = []
    read: Any = store.xrange(script.name(shard, script.JOURNAL), count=ENTRIES_MAX)
    for stream_id, fields in read:
        try:
            entry = entries.parse(shard, stream_id.decode(), fields)
        except EntryRefused:
            continue  # it becomes a dead letter, which the plain run names
        found.append((entry.stream_id, entry.event.call_id, entry.late))
    return found


def _held_too_long(store: redis.Redis, shard: int) -> Iterator[Difference]:
    seconds, _ = store.time()
    for hold in script.read_holds(store, shard):
        if hold.deadline_ms is not None and hold.deadline_ms < seconds * 1000 - OVERDUE_MS:
            overdue = f"{seconds - hold.deadline_ms // 1000} s past its lease"
            yield Difference("lease", f"call {hold.call_id}", "ended by the sweeper", overdue)
