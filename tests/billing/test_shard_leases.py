"""Shards are shared evenly, taken over from the dead, and never have two writers."""

from __future__ import annotations

import pytest
from django.db import connection, transaction

from billing.models import JournalShard, JournalWriter
from billing.shard_leases import LeaseLost, ShardLeases, advance
from keys.caller import SHARDS
from tests.billing.books import end_leases

pytestmark = pytest.mark.django_db


def test_one_process_holds_every_shard():
    assert ShardLeases("a").renew().held == frozenset(range(SHARDS))


def test_a_second_process_gets_its_share_when_the_first_renews():
    first, second = ShardLeases("a"), ShardLeases("b")
    first.renew()
    assert second.renew().held == frozenset()
    turn = first.renew()
    assert (len(turn.held), len(turn.lost)) == (32, 32)
    assert second.renew().gained == turn.lost
    assert first.renew() == (turn.held, frozenset(), frozenset())


def test_the_shards_of_a_dead_process_are_taken_over():
    first, second = ShardLeases("a"), ShardLeases("b")
    first.renew()
    end_leases()
    assert len(second.renew().held) == SHARDS
    assert len(first.renew().held) == 0


def test_writers_of_yesterday_are_forgotten():
    first = ShardLeases("a")
    first.renew()
    end_leases()
    ShardLeases("b").renew()
    assert set(JournalWriter.objects.values_list("name", flat=True)) == {"b"}


def test_a_released_share_is_free_at_once():
    first, second = ShardLeases("a"), ShardLeases("b")
    first.renew()
    first.release()
    assert len(second.renew().held) == SHARDS


def test_a_shard_that_was_taken_over_cannot_be_locked():
    first, second = ShardLeases("a"), ShardLeases("b")
    first.renew()
    end_leases()
    second.renew()
    with pytest.raises(LeaseLost), transaction.atomic(), connection.cursor() as cursor:
        first.lock(cursor, [3])


def test_positions_move_together():
    leases = ShardLeases("a")
    leases.renew()
    with transaction.atomic(), connection.cursor() as cursor:
        assert leases.lock(cursor, [5, 3]) == {3: "0-0", 5: "0-0"}
        advance(cursor, {3: "7-1", 5: "8-2"})
    assert JournalShard.objects.get(shard=5).last_stream_id == "8-2"
    assert JournalShard.objects.get(shard=4).last_stream_id == "0-0"
