"""What an organization may spend just now: the ledger's balance, and what Redis has set aside for running calls."""

from __future__ import annotations

from collections.abc import Collection
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
    return of_all([organization])[organization.pk]


def of_all(organizations: Collection[Organization]) -> dict[int, Balance]:
    """By organization id; the books are asked once, and Redis too."""
    posted = ledger.balances_nanos(organizations)
    try:
        with redis_client().pipeline(transaction=False) as pipeline:
            for organization in organizations:
                pipeline.hmget(script.name(shard_of(organization.pk), f"a:{organization.pk}"), ["bal", "held"])
            accounts = pipeline.execute()
    except redis.RedisError:
        return {id: Balance(nanos, 0, nanos, is_live=False) for id, nanos in posted.items()}
    return {
        organization.pk: _live(posted[organization.pk], *account)
        for organization, account in zip(organizations, accounts, strict=True)
    }


def _live(posted: int, balance: bytes | str | None, held: bytes | str | None) -> Balance:
    if balance is None:  # nobody called since the counters were made: the ledger knows it all
        return Balance(posted, 0, posted, is_live=True)
    return Balance(posted, int(held or 0), int(balance) - int(held or 0), is_live=True)
