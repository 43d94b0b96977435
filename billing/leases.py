"""Holds whose worker is gone. A lapsed hold settles at its last running usage, once: the hold is the marker, so a
worker that wakes up late finds none, and its settlement goes through the journal as a correction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from billing import events, script
from billing.facts import Facts, Held, Running, event_of_lapsed, unit_amounts
from billing.script import SyncRedis
from keys.caller import SHARDS

log = logging.getLogger(__name__)

GRACE_MS: Final = 5_000
BATCH: Final = 200

_facts: Final = msgspec.json.Decoder(Facts).decode
_running: Final = msgspec.json.Decoder(Running).decode


def sweep(client: SyncRedis, *, shards: Iterable[int] = range(SHARDS), limit: int = BATCH) -> int:
    """Settle at most `limit` lapsed holds of each shard; returns how many. Any number of processes may sweep at once.
    Raises redis.RedisError. Called every second by `manage.py journal`."""
    numbers = list(shards)
    lists = script.run(client, [("due", shard, 0, GRACE_MS, limit) for shard in numbers])
    settled = 0
    for shard, listed in zip(numbers, lists, strict=True):
        if listed[0] != "OK":
            continue  # the shard is being rebuilt
        entries = [_lapse_entry(shard, found, listed[1]) for found in listed[2]]
        if entries:
            settled += sum(verdict[0] == "OK" for verdict in script.run(client, entries))
    return settled


def _lapse_entry(shard: int, found: list[Any], now_ms: int) -> tuple[Any, ...]:
    call_id, organization, key, model, brand, day_id, granted, payer, held_nanos, facts_text, running_text, _ = found
    held = Held(call_id, int(organization), int(key), int(model), day_id[1:], payer, granted, held_nanos)
    try:
        facts = _facts(facts_text)
        running = _running(running_text) if running_text else Running()
    except msgspec.DecodeError:
        log.exception("what the hold of call %s says cannot be read: it ends at no cost", call_id)
        facts, running = _unknown_facts(int(brand), now_ms), Running()
    event = event_of_lapsed(held, facts, running, now_ms)
    log.warning("call %s lapsed; it settles at its last known usage", call_id)
    return (
        *("lapse", shard, 0, call_id, organization, key, model, day_id),
        *(unit_amounts(event), event.cost_nanos, events.encode(event).decode(), GRACE_MS),
    )


def _unknown_facts(brand_id: int, now_ms: int) -> Facts:
    return Facts(brand_id=brand_id, rate_id=0, rates={}, endpoint="", started_at_ms=now_ms, prompt_tokens_max=0)
