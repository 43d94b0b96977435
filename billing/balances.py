"""What an organization may spend just now: the ledger's balance, and what Redis has set aside for running calls."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from billing import ledger, script
from keys.caller import shard_of
from keys.connections import redis_client
from keys.models import Organization


@dataclass(frozen=True, slots=True)
class Balance:
    """Nanos. `posted_nanos` is the ledger's; `available_nanos` is what the next call is judged by, a few seconds ahead
    of the ledger. `is_live` False: Redis cannot be asked, so nothing is known of running calls."""

    posted_nanos: int
    held_nanos: int
    available_nanos: int
    is_live: bool


def of(organization: Organization) -> Balance:
    posted = ledger.balance_nanos(organization)
    try:
        account = redis_client().hmget(script.name(shard_of(organization.pk), f"a:{organization.pk}"), ["bal", "held"])
    except redis.RedisError:
        return Balance(posted, 0, posted, is_live=False)
    balance, held = (None if value is None else int(value) for value in account)
    if balance is None:  # nobody called since the counters were made: the ledger knows it all
        return Balance(posted, 0, posted, is_live=True)
    return Balance(posted, held or 0, balance - (held or 0), is_live=True)
