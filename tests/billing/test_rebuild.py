"""A Redis that is new, restarted, emptied or behind decides nothing until its shards are opened; then it is right."""

import asyncio
from contextlib import asynccontextmanager

import psycopg_pool
import pytest
import redis

from billing import rebuild, script
from billing.admission import StoreUnavailable
from billing.models import JournalShard, LedgerAccount
from billing.rebuild import ensure_epochs
from billing.seeds import Seeds
from keys import publication
from keys.models import ApiKey
from tests import cast
from tests.billing.stage import Stage, caller, limit


@pytest.fixture
def house(transactional_db, monkeypatch):
    """An organization with a wallet and a key, published as billing's own tests need it: by version."""
    monkeypatch.setitem(publication._renderers, publication.BRAND, lambda brand_id: (3, b"{}"))
    brand = cast.brand()
    organization = cast.organization(brand, version=4)
    LedgerAccount.objects.create(brand=brand, organization=organization, kind="wallet", balance_nanos=10**12)
    key = ApiKey.objects.create(organization=organization, name="one", digest=b"1" * 32, pepper_version=1, version=6)
    return brand, organization, key


@pytest.fixture
def stage(redis_connection, wal_dir, settings, database_url, house):
    brand, organization, key = house

    @asynccontextmanager
    async def made(*limits):
        s = Stage(redis_connection, wal_dir, settings.REDIS_URL, *limits)
        s.caller = s.sources.caller = caller(organization.id, key.id)
        brand_record = s.snapshot.brand.__class__(id=brand.id, slug="b", name="B")
        s.snapshot = s.sources.snapshot = s.snapshot.__class__(
            version=3, brand=brand_record, models=s.snapshot.models, tiers=s.snapshot.tiers
        )
        async with psycopg_pool.AsyncConnectionPool(database_url, min_size=0, max_size=4, open=False) as pool, s:
            redis_connection.flushall()
            s.admission._seeds = Seeds(s.counters, pool)
            yield s

    return made


def restarted(client):
    """As after a restart: all data is there, the run id is another."""
    for shard in range(64):
        client.set(script.name(shard, script.EPOCH), "1234567890123:anotherrunid")


class Twice:
    """A client that sends every command twice, as after a lost reply, and tells the second answer."""

    def __init__(self, client):
        self._client = client

    def execute_command(self, *arguments):
        self._client.execute_command(*arguments)
        return self._client.execute_command(*arguments)

    def __getattr__(self, name):
        return getattr(self._client, name)


def twice(client):
    return Twice(client)


async def opened(client):
    return await asyncio.to_thread(_in_thread, client)


def _in_thread(client):
    from django.db import connection

    try:
        return ensure_epochs(client)
    finally:
        connection.close()


async def test_a_new_redis_serves_once_its_shards_are_opened(stage, redis_connection):
    async with stage() as s:
        with pytest.raises(StoreUnavailable, match="rebuilt"):
            await s.reserve()
        assert await opened(redis_connection) == list(range(64))
        assert await opened(redis_connection) == []
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}


async def test_after_a_restart_nothing_is_decided_on_what_redis_remembers(stage, redis_connection):
    async with stage() as s:
        await opened(redis_connection)
        running = await s.reserve()
        await s.admission.dispatched(running, 1)
        redis_connection.hset(script.name(s.caller.shard, f"a:{s.caller.organization.id}"), "bal", 10**17)  # stale
        restarted(redis_connection)
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        await s.settle(running)
        assert await s.counters.drain(0.3) == 1  # not even settled
        assert await opened(redis_connection) == list(range(64))
        assert await s.counters.drain(5) == 0
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
        assert s.nothing_is_held()


async def test_running_calls_keep_what_they_hold_through_a_rebuild(stage, redis_connection):
    async with stage(limit("tokens", "day", 10_000), limit("concurrent", "minute", 5)) as s:
        await opened(redis_connection)
        holds = [await s.reserve() for _ in range(3)]
        restarted(redis_connection)
        await opened(twice(redis_connection))
        await s.reserve()
        assert s.account()["held"] == 4 * 420_000
        assert s.counted()["tok.h"] == 4 * 1100
        zset = script.name(s.caller.shard, f"z:{s.caller.organization.id}:o")
        assert redis_connection.zcard(zset) == 4
        for hold in holds:
            await s.settle(hold)
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 3 * 38_000, "seq": 0, "held": 420_000}
        assert s.counted()["tok.h"] == 1100


async def test_a_call_whose_hold_was_lost_settles_late(stage, redis_connection):
    async with stage() as s:
        await opened(redis_connection)
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        redis_connection.flushall()
        await s.settle(hold)
        await opened(redis_connection)
        assert await s.counters.drain(5) == 0
        assert [entry["late"] for entry in s.entries()] == ["1"]
        s.admission._renew(hold)
        await asyncio.sleep(0.05)
        assert not hold.lapsed  # it is settled already


async def test_a_key_that_was_revoked_in_the_last_seconds_stays_revoked(stage, redis_connection, house):
    async with stage() as s:
        await opened(redis_connection)
        hold = await s.reserve()
        await s.admission.void(hold)
        await asyncio.to_thread(_raise_version, house[2].id)
        restarted(redis_connection)
        await opened(redis_connection)
        s.sources.reloads.clear()
        with pytest.raises(StoreUnavailable):  # the stage's directory knows only the old record
            await s.reserve()
        assert set(s.sources.reloads) == {"caller"}


def _raise_version(key_id):
    from django.db import connection

    ApiKey.objects.filter(id=key_id).update(version=99)
    connection.close()


async def test_stream_ids_never_fall_behind_the_books(stage, redis_connection):
    async with stage() as s:
        far = 4_000_000_000_000
        await asyncio.to_thread(_place, s.caller.shard, f"{far}-7")
        await opened(redis_connection)
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        ((entry_id, _),) = redis_connection.xrange(script.name(s.caller.shard, script.JOURNAL))
        assert entry_id > f"{far}-7".encode()


def _place(shard, stream_id):
    from django.db import connection

    JournalShard.objects.create(shard=shard, last_stream_id=stream_id)
    connection.close()


def test_only_one_process_rebuilds_a_shard(redis_connection, house):
    (shard,) = rebuild._claimed(redis_connection, [5])
    assert rebuild._claimed(redis_connection, [5]) == []
    assert script.run(redis_connection, [("check", 5, 0, "1", "2", "3", "1", "1", "1")])[0][::2] == ["EPOCH", ""]
    for step in rebuild.STEPS:
        step(shard)
    with pytest.raises(rebuild.RebuildLost):
        shard.step("clear", shard.token, [])
    assert ensure_epochs(redis_connection, shards=[5]) == []


def test_an_abandoned_rebuild_is_taken_over_and_its_sleeper_changes_nothing(redis_connection, house, monkeypatch):
    (sleeper,) = rebuild._claimed(redis_connection, [5])
    monkeypatch.setattr(rebuild, "ABANDONED_MS", 0)
    assert ensure_epochs(redis_connection, shards=[5]) == [5]
    for step in (rebuild.forget_counters, rebuild.assert_holds, rebuild.open_epoch):
        sleeper.counters = [script.name(5, "a:5")]
        redis_connection.hset(script.name(5, "a:5"), "bal", 1)
        redis_connection.hset(script.name(5, script.HOLDS), "x", "not read")
        with pytest.raises(rebuild.RebuildLost):
            step(sleeper)
    assert redis_connection.hget(script.name(5, "a:5"), "bal") == b"1"


def test_a_shard_that_cannot_be_prepared_stays_closed(redis_connection, house, monkeypatch):
    def away(shard):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(publication, "apply_everything", away)
    with pytest.raises(redis.ConnectionError):
        ensure_epochs(redis_connection, shards=[5])
    assert redis_connection.get(script.name(5, script.EPOCH)).startswith(b"~")
