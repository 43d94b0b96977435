"""Who drains which shard: leased rows of JournalShard, shared evenly among the journal processes that are alive.

A lease is only a promise of time; what makes a shard's writer single is `lock`, which takes the row inside the batch's
own transaction and finds out whether it still names this process. Clocks are PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from keys.caller import SHARDS

LEASE_SECONDS = 15
RENEW_SECONDS = 3.0


class LeaseLost(Exception):
    """Another process has taken a shard over; the batch must be given up."""


class Turn(NamedTuple):
    """What a renewal changed."""

    held: frozenset[int]
    gained: frozenset[int]
    lost: frozenset[int]


class ShardLeases:
    def __init__(self, name: str, *, lease_seconds: int = LEASE_SECONDS) -> None:
        self.name = name
        self.lease_seconds = lease_seconds
        self.held: frozenset[int] = frozenset()
        self._generations: dict[int, int] = {}

    def renew(self) -> Turn:
        """Keeps what is ours, takes what nobody holds, gives up what is above a fair share."""
        with transaction.atomic(), connection.cursor() as cursor:
            share = self._fair_share(cursor)
            kept = self._keep(cursor)
            if len(kept) > share:
                self._give_up(cursor, kept[share:])
            taken = self._take(cursor, share - len(kept)) if len(kept) < share else []
            self._generations = self._generations_of(cursor)
        before, self.held = self.held, frozenset([*kept[:share], *taken])
        return Turn(self.held, gained=self.held - before, lost=before - self.held)

    def release(self) -> None:
        """At the end of a process: others need not wait for the leases to run out."""
        with transaction.atomic(), connection.cursor() as cursor:
            self._give_up(cursor, sorted(self.held))
            cursor.execute("DELETE FROM billing_journalwriter WHERE name = %s", [self.name])
        self.held = frozenset()

    def lock(self, cursor: CursorWrapper, shards: Iterable[int]) -> dict[int, str]:
        """Locks the shards' rows until the transaction ends; the last stream id of each. Raises LeaseLost, also when a
        rebuild of Redis began after the last renewal: what was read before may not be there any more."""
        wanted = sorted(shards)
        cursor.execute(
            "SELECT shard, last_stream_id, generation FROM billing_journalshard WHERE shard = ANY(%s) AND holder = %s"
            " ORDER BY shard FOR NO KEY UPDATE",
            [wanted, self.name],
        )
        found = {shard: (last_id, generation) for shard, last_id, generation in cursor.fetchall()}
        if len(found) < len(wanted):
            raise LeaseLost(f"shards {sorted(set(wanted) - set(found))} have another writer")
        rebuilt = [shard for shard, (_, generation) in found.items() if generation != self._generations.get(shard)]
        if rebuilt:
            raise LeaseLost(f"Redis of shards {rebuilt} was rebuilt")
        return {shard: last_id for shard, (last_id, _) in found.items()}

    def _generations_of(self, cursor: CursorWrapper) -> dict[int, int]:
        cursor.execute("SELECT shard, generation FROM billing_journalshard WHERE holder = %s", [self.name])
        return dict(cursor.fetchall())

    def _fair_share(self, cursor: CursorWrapper) -> int:
        cursor.execute(
            "INSERT INTO billing_journalwriter (name, seen_until) VALUES (%s, now() + make_interval(secs => %s))"
            " ON CONFLICT (name) DO UPDATE SET seen_until = excluded.seen_until",
            [self.name, self.lease_seconds],
        )
        cursor.execute("DELETE FROM billing_journalwriter WHERE seen_until < now() - interval '1 day'")
        cursor.execute("SELECT count(*) FROM billing_journalwriter WHERE seen_until > now()")
        return -(-SHARDS // int(cursor.fetchone()[0]))

    def _keep(self, cursor: CursorWrapper) -> list[int]:
        cursor.execute(
            "UPDATE billing_journalshard SET leased_until = now() + make_interval(secs => %s) WHERE holder = %s"
            " RETURNING shard",
            [self.lease_seconds, self.name],
        )
        return sorted(shard for (shard,) in cursor.fetchall())

    def _take(self, cursor: CursorWrapper, number: int) -> list[int]:
        cursor.execute(
            "INSERT INTO billing_journalshard (shard, holder, last_stream_id)"
            " SELECT shard, '', '0-0' FROM generate_series(0, %s) AS shard ON CONFLICT DO NOTHING",
            [SHARDS - 1],
        )
        cursor.execute(
            "UPDATE billing_journalshard SET holder = %s, leased_until = now() + make_interval(secs => %s)"
            " WHERE shard IN (SELECT shard FROM billing_journalshard WHERE leased_until IS NULL OR leased_until < now()"
            " ORDER BY shard LIMIT %s FOR NO KEY UPDATE SKIP LOCKED) RETURNING shard",
            [self.name, self.lease_seconds, number],
        )
        return [shard for (shard,) in cursor.fetchall()]

    def _give_up(self, cursor: CursorWrapper, shards: list[int]) -> None:
        cursor.execute(
            "UPDATE billing_journalshard SET holder = '', leased_until = NULL WHERE holder = %s AND shard = ANY(%s)",
            [self.name, shards],
        )


def fence(cursor: CursorWrapper, shard: int) -> str:
    """Before a rebuild of the shard's Redis: whoever has read from the one before will book nothing of it. What was
    being booked is committed when this returns. The last stream id that is booked."""
    cursor.execute(
        "INSERT INTO billing_journalshard AS known (shard, holder, last_stream_id, generation)"
        " VALUES (%s, '', '0-0', 1) ON CONFLICT (shard) DO UPDATE SET generation = known.generation + 1"
        " RETURNING last_stream_id",
        [shard],
    )
    return str(cursor.fetchone()[0])


def advance(cursor: CursorWrapper, last_ids: Mapping[int, str]) -> None:
    """Remembers, in the batch's transaction, up to which entry each shard is booked."""
    cursor.execute(
        "UPDATE billing_journalshard AS shard SET last_stream_id = booked.stream_id"
        " FROM unnest(%s::int[], %s::text[]) AS booked (shard, stream_id) WHERE shard.shard = booked.shard",
        [list(last_ids.keys()), list(last_ids.values())],
    )
