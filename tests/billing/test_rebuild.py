"""A Redis that is new, restarted, emptied or behind decides nothing until its shards are opened; then it is right."""

import asyncio
import errno
import hashlib
import os
import subprocess
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import psycopg_pool
import pytest
import redis
from django.conf import settings
from django.db.models.functions import Now
from psycopg import OperationalError

from billing import leases, rebuild, remains, replay, script, transports, worker_leases
from billing.admission import StoreUnavailable
from billing.assertion import Assertion
from billing.journal import Journal
from billing.models import JournalShard, LedgerAccount, UsageEvent, WorkerLease
from billing.rebuild import ensure_epochs
from billing.seeds import Seeds
from billing.shard_leases import LeaseLost
from billing.usage import Usage
from billing.wal import Wal
from keys import publication
from keys.models import ApiKey
from tests import cast
from tests.billing.draining import drain, read
from tests.billing.stage import Stage, caller, limit

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
CONCURRENT = limit("concurrent", "minute", 5)
PER_MINUTE = limit("tokens", "minute", 9_000)


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
            s.pool = pool
            yield s

    return made


def restarted(client):
    """As after a restart: all data is there, the run id is another."""
    for shard in range(64):
        client.set(script.name(shard, script.EPOCH), "1234567890123:anotherrunid")


def another_run(patch):
    """From here on Redis says that it is another process, as after a restart or a fail-over."""
    asked = b"local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')"
    assert asked in script.TEXT
    text = script.TEXT.replace(asked, b"local run_id = '%b'" % (b"f0" * 20))
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    patch.setattr(transports, "_EVALSHA", transports._EVALSHA.replace(script.SHA, sha))
    patch.setattr(script, "TEXT", text)
    patch.setattr(script, "SHA", sha)


def in_thread(work):
    """Whatever talks to the database, away from the event loop."""

    def done():
        from django.db import connection

        try:
            return work()
        finally:
            connection.close()

    return asyncio.to_thread(done)


@asynccontextmanager
async def living(s, pool):
    """The stage's worker takes part in rebuilds, as a proxy worker does; it acts when told to."""
    assertion = Assertion(s.counters, s.admission, s.wal, pool, bring_in=bring_in, settle_again=settle_again)
    await assertion._renew()
    await rebuilt(s, assertion)
    yield assertion
    await assertion.stop()


async def rebuilt(s, worker):
    await opened(s.sync)
    await worker.watch()
    assert await opened(s.sync) == list(range(64))


def bring_in(folder, tokens):
    from django.db import connection

    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        return replay.bring_in(client, folder, tokens)
    finally:
        connection.close()
        client.close()


def settle_again(calls):
    from django.db import connection

    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        return replay.settle_again(client, calls)
    finally:
        connection.close()
        client.close()


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
    (shard,) = rebuild._claimed(redis_connection, [5], [])
    assert rebuild._claimed(redis_connection, [5], []) == []
    assert script.run(redis_connection, [("check", 5, 0, "1", "2", "3", "1", "1", "1")])[0][::2] == ["EPOCH", ""]
    for step in (*rebuild.PREPARING, *rebuild.OPENING):
        step(shard)
    with pytest.raises(rebuild.RebuildLost):
        shard.step("clear", shard.token, [])
    assert ensure_epochs(redis_connection, shards=[5]) == []


def test_an_abandoned_rebuild_is_taken_over_and_its_sleeper_changes_nothing(redis_connection, house, monkeypatch):
    (sleeper,) = rebuild._claimed(redis_connection, [5], [])
    monkeypatch.setattr(rebuild, "ABANDONED_MS", 0)
    assert ensure_epochs(redis_connection, shards=[5]) == [5]
    for step in (rebuild.forget_counters, rebuild.assert_holds, rebuild.open_epoch):
        sleeper.counters = [script.name(5, "a:5")]
        redis_connection.hset(script.name(5, "a:5"), "bal", 1)
        redis_connection.hset(script.name(5, script.HOLDS), "x", "not read")
        with pytest.raises(rebuild.RebuildLost):
            step(sleeper)
    assert redis_connection.hget(script.name(5, "a:5"), "bal") == b"1"


async def test_a_redis_that_is_set_back_while_it_is_rebuilt_is_rebuilt_anew(stage, redis_connection, monkeypatch):
    """What came back is a rebuild that waits for a worker which had acknowledged, and knows it: neither is asked twice
    by a token that it has seen."""
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        redis_connection.flushall()
        assert await opened(redis_connection) == []
        await worker.watch()
        waiting = {name: redis_connection.get(name) for name in map(_epoch, range(64))}
        assert all(epoch.endswith(b"!") for epoch in waiting.values())
        for shard in range(64):  # the last second is lost: what was asserted, and that it was
            redis_connection.delete(*(script.name(shard, name) for name in ("asserted", script.HOLDS, script.LEASES)))
        another_run(monkeypatch)
        await rebuilt(s, worker)
        assert s.account()["held"] == hold.held_nanos == 420_000


def _epoch(shard):
    return script.name(shard, script.EPOCH)


def test_a_rebuilder_whose_redis_was_restarted_changes_nothing_more(redis_connection, house, monkeypatch):
    """The one that came back may have the counters again that were forgotten."""
    (sleeper,) = rebuild._claimed(redis_connection, [5], [])
    another_run(monkeypatch)
    sleeper.counters = [script.name(5, "a:5")]
    redis_connection.hset(script.name(5, "a:5"), "bal", 1)
    for step in (rebuild.forget_counters, rebuild.await_workers, rebuild.open_epoch):
        with pytest.raises(rebuild.RebuildLost):
            step(sleeper)
    assert redis_connection.hget(script.name(5, "a:5"), "bal") == b"1"
    assert ensure_epochs(redis_connection, shards=[5]) == [5]
    assert not redis_connection.exists(script.name(5, "a:5"))


@pytest.mark.parametrize("maker", ["dead", "failed"])
def test_a_rebuild_that_ended_half_way_is_taken_over_at_once(redis_connection, house, monkeypatch, maker):
    def away(*_):
        raise redis.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(rebuild, "_find_counters", away)
        with pytest.raises(redis.ConnectionError):
            ensure_epochs(redis_connection, shards=[5])
    epoch = redis_connection.get(script.name(5, script.EPOCH)).decode()
    assert f"-{os.getpid()}@" in epoch
    if maker == "dead":
        gone = subprocess.Popen(["true"])
        gone.wait()
        redis_connection.set(script.name(5, script.EPOCH), epoch.replace(f"-{os.getpid()}@", f"-{gone.pid}@"))
    assert ensure_epochs(redis_connection, shards=[5]) == [5]


def test_a_rebuild_of_another_host_is_waited_for(redis_connection, house):
    (shard,) = rebuild._claimed(redis_connection, [5], [])
    elsewhere = f"~{shard.token.partition('@')[0]}@another"
    redis_connection.set(script.name(5, script.EPOCH), elsewhere)
    assert ensure_epochs(redis_connection, shards=[5]) == []
    assert redis_connection.get(script.name(5, script.EPOCH)) == elsewhere.encode()


def test_a_shard_that_cannot_be_prepared_stays_closed(redis_connection, house, monkeypatch):
    def away(shard):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(publication, "apply_everything", away)
    with pytest.raises(redis.ConnectionError):
        ensure_epochs(redis_connection, shards=[5])
    assert redis_connection.get(script.name(5, script.EPOCH)).startswith(b"~")


async def test_living_workers_bring_in_the_holds_that_redis_lost(stage, redis_connection):
    async with (
        stage(limit("tokens", "day", 10_000), limit("concurrent", "minute", 5)) as s,
        living(s, s.pool) as worker,
    ):
        await opened(redis_connection)
        holds = [await s.reserve() for _ in range(3)]
        redis_connection.flushall()
        assert await opened(redis_connection) == []  # the worker has not acknowledged
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        await worker.watch()
        assert await opened(redis_connection) == list(range(64))
        await s.reserve()
        assert s.account()["held"] == 4 * 420_000
        assert s.counted()["tok.h"] == 4 * 1100
        assert redis_connection.zcard(script.name(s.caller.shard, f"z:{s.caller.organization.id}:o")) == 4
        for hold in holds:
            await s.settle(hold)
        await s.admission.drain(5)
        assert [entry["late"] for entry in s.entries()] == ["0"] * 3
        assert s.account() == {"bal": 10**12 - 3 * 38_000, "seq": 0, "held": 420_000}
        records = script.read_holds(redis_connection, s.caller.shard)
        assert [record.held_nanos for record in records] == [420_000]


async def test_a_hold_that_was_brought_in_is_as_it_was(stage, redis_connection):
    async with (
        stage(limit("tokens", "day", 10_000), limit("tokens", "minute", 9_000)) as s,
        living(s, s.pool) as worker,
    ):
        await opened(redis_connection)
        hold = await s.reserve(stream=True, address="192.0.2.7")
        (before,) = script.read_holds(redis_connection, s.caller.shard)
        redis_connection.flushall()
        await opened(redis_connection)
        await worker.watch()
        (after,) = script.read_holds(redis_connection, s.caller.shard)
        assert after._replace(deadline_ms=0) == before._replace(deadline_ms=0)
        await opened(redis_connection)
        await s.admission.void(hold)
        await s.admission.drain(5)
        assert s.nothing_is_held()


async def test_living_workers_bring_in_charges_that_redis_lost_before_anybody_is_admitted(stage, redis_connection):
    async with stage(limit("tokens", "day", 10_000)) as s, living(s, s.pool) as worker:
        booked, lost = await s.reserve(), await s.reserve()
        await s.settle(booked)
        await s.admission.drain(5)
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        await in_thread(lambda: drain(journal))
        await s.settle(lost)
        await s.admission.drain(5)
        redis_connection.flushall()
        await opened(redis_connection)
        await worker.watch()
        await opened(redis_connection)
        running = await s.reserve()
        assert s.account() == {"bal": 10**12 - 2 * 38_000, "seq": 0, "held": 420_000}
        assert s.counted()["tok.p"] == 2 * 140
        await s.admission.void(running)
        await in_thread(journal._start_over)
        for _ in range(2):
            await in_thread(lambda: drain(journal))
        assert await in_thread(UsageEvent.objects.count) == 2


async def test_a_settle_that_was_under_way_when_redis_was_lost_counts_once(stage, redis_connection):
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        redis_connection.flushall()
        await s.settle(hold)  # Redis does not take it: the shard is closed
        await opened(redis_connection)
        await worker.watch()
        await opened(redis_connection)
        assert await s.counters.drain(5) == 0
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        await in_thread(lambda: drain(journal))
        assert await in_thread(UsageEvent.objects.count) == 1
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}


async def test_a_worker_that_says_nothing_is_waited_for_until_its_lease_is_gone(stage, redis_connection):
    async with stage() as s, living(s, s.pool):
        redis_connection.flushall()
        assert await opened(redis_connection) == []
        assert await in_thread(lambda: worker_leases.live(s.wal.folder)) == [s.wal.worker]
        await in_thread(_end_worker_leases)
        assert await opened(redis_connection) == list(range(64))
        assert [lease.name for lease in await in_thread(worker_leases.silent)] == [s.wal.worker]


def _end_worker_leases():
    WorkerLease.objects.update(expires_at="2020-01-01T00:00:00Z")


async def test_a_worker_that_could_not_renew_its_lease_lately_is_given_a_moment(stage, redis_connection, monkeypatch):
    """PostgreSQL was away for longer than a lease, and Redis was lost with it."""
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        redis_connection.flushall()
        await in_thread(lambda: WorkerLease.objects.update(expires_at=Now() - timedelta(seconds=1)))
        assert await opened(redis_connection) == []
        await worker.watch()
        assert await opened(redis_connection) == list(range(64))
        assert s.account()["held"] == hold.held_nanos
        redis_connection.flushall()
        assert await opened(redis_connection) == []
        monkeypatch.setattr(rebuild, "LATE_MS", 0)  # it has gone by
        assert await opened(redis_connection) == list(range(64))


async def test_a_worker_without_a_file_is_waited_for_by_nobody_until_it_may_take_calls(
    stage, redis_connection, tmp_path
):
    """Root may write everywhere, but not below a regular file."""
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    async with stage() as s, living(s, s.pool):
        fileless = Wal(blocker / "wal")
        late = Assertion(s.counters, s.admission, fileless, s.pool, bring_in=bring_in, settle_again=settle_again)
        await late.start()
        try:
            names = await in_thread(lambda: set(WorkerLease.objects.values_list("name", flat=True)))
            assert names == {s.wal.worker}
            blocker.unlink()
            assert not fileless.probe()  # it has its file, and no lease yet
            assert fileless.has_file
            async with asyncio.timeout(5):
                while not fileless.healthy:  # noqa: ASYNC110 - another task's turn
                    await asyncio.sleep(0.02)
            assert await in_thread(lambda: worker_leases.live(s.wal.folder)) == sorted([s.wal.worker, fileless.worker])
        finally:
            await late.stop()
            fileless.close()


async def test_a_worker_that_begins_while_postgresql_is_away_takes_no_call_before_it_has_its_lease(
    stage, wal_dir, monkeypatch
):
    """It has its file; but a rebuild would not wait for it."""
    really = worker_leases.renew

    async def away(*arguments, **fields):
        raise OperationalError("the server closed the connection")

    async with stage() as s, living(s, s.pool):
        monkeypatch.setattr(worker_leases, "renew", away)
        young = Wal(wal_dir)
        its = Assertion(s.counters, s.admission, young, s.pool, bring_in=bring_in, settle_again=settle_again)
        await its.start()
        try:
            assert (young.has_file, young.healthy) == (True, False)
            monkeypatch.setattr(worker_leases, "renew", really)
            async with asyncio.timeout(5):
                while not young.healthy:  # noqa: ASYNC110 - another task's turn
                    await asyncio.sleep(0.02)
            assert young.worker in await in_thread(lambda: worker_leases.live(s.wal.folder))
        finally:
            await its.stop()
            young.close()


async def test_a_folder_that_cannot_be_written_does_not_hold_up_a_rebuild(stage, redis_connection, monkeypatch):
    real = os.open

    def read_only(path, flags, *more, **fields):
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(s.wal.folder)):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more, **fields)

    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 3)
        dead = s.wal.folder / s.wal.path.name.replace(s.wal.worker, "host-1-dead")
        dead.write_bytes(s.wal.path.read_bytes().splitlines(keepends=True)[0])
        (s.wal.folder / remains.LOCK_NAME).unlink()
        monkeypatch.setattr(os, "open", read_only)
        redis_connection.flushall()
        await opened(redis_connection)
        await worker.watch()
        assert await opened(redis_connection) == list(range(64))
        monkeypatch.undo()
        await s.admission.void(hold)


async def test_a_worker_whose_lease_ran_out_tells_what_redis_lost_after_the_opening(stage, redis_connection):
    """PostgreSQL was away for longer than a worker lease: the shards were opened without this worker."""
    async with stage() as s, living(s, s.pool) as worker:
        running = await s.reserve()
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        redis_connection.flushall()
        await in_thread(_end_worker_leases)
        assert await opened(redis_connection) == list(range(64))
        assert await worker.watch()
        await worker.tell()
        await worker.tell()
        assert [entry["late"] for entry in s.entries()] == ["1"]  # once: it is on its way
        (due,) = s.admission._due()
        s.admission._renew(due)
        await asyncio.sleep(0.05)
        assert running.lapsed
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        for _ in range(2):
            await in_thread(lambda: drain(journal))
        await worker.tell()
        assert worker._untold == {}
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert await in_thread(UsageEvent.objects.count) == 1
        assert s.account()["bal"] == 10**12 - 38_000


async def test_a_correction_that_redis_lost_is_told_again_by_its_living_worker(stage, redis_connection):
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        redis_connection.zadd(script.name(s.caller.shard, script.LEASES), {hold.call_id: 1})
        assert leases.sweep(redis_connection) == 1
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        for _ in range(2):
            await in_thread(lambda: drain(journal))
        await s.settle(hold)  # its worker wakes up: late
        await s.admission.drain(5)
        redis_connection.flushall()
        await rebuilt(s, worker)
        await worker.watch()
        await worker.tell()
        await in_thread(journal._start_over)
        for _ in range(2):
            await in_thread(lambda: drain(journal))
        rows = await in_thread(lambda: set(UsageEvent.objects.values_list("kind", "cost_nanos")))
        assert rows == {("call", 0), ("correction", 38_000)}
        await worker.tell()
        assert worker._untold == {}
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account()["bal"] == 10**12 - 38_000


async def test_a_shard_that_opens_while_others_are_told_is_told_next(stage, redis_connection, monkeypatch):
    async with stage() as s, living(s, s.pool) as worker:
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        await worker.watch()
        read, asked = worker._own_calls, []

        def meanwhile(shards):
            asked.append(set(shards))
            worker._opened.add(7)
            if len(asked) == 2:
                raise OSError("the folder cannot be read")
            return read(shards)

        monkeypatch.setattr(worker, "_own_calls", meanwhile)
        await worker.tell()
        with pytest.raises(OSError, match="cannot be read"):
            await worker.tell()
        await worker.tell()
        assert asked == [set(range(64)), {7}, {7}]
        assert len(s.entries()) == 1  # it is on its way: not told twice


@contextmanager
def held_by_somebody(folder):
    """The replayers' lock, as a process of this host holds it that was stopped at its work."""
    with remains.alone(folder) as is_ours:
        assert is_ours
        yield


async def test_no_shard_opens_before_the_dead_workers_files_are_brought_in(stage, redis_connection, monkeypatch):
    monkeypatch.setattr(replay, "BRING_IN_SECONDS_MAX", 0.2)
    async with stage() as s:
        await opened(redis_connection)
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        s.wal.flush()
        (s.wal.folder / "host-1-dead.000001.wal").write_bytes(s.wal.path.read_bytes())
        redis_connection.flushall()
        with held_by_somebody(s.wal.folder):
            assert await opened(redis_connection) == []
            assert await opened(redis_connection) == []
            with pytest.raises(StoreUnavailable):
                await s.reserve()
        assert await opened(redis_connection) == list(range(64))
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}


async def test_a_worker_acknowledges_nothing_before_the_dead_workers_files_are_brought_in(
    stage, redis_connection, monkeypatch
):
    monkeypatch.setattr(replay, "BRING_IN_SECONDS_MAX", 0.2)
    async with stage() as s, living(s, s.pool) as worker:
        redis_connection.flushall()
        assert await opened(redis_connection) == []
        with held_by_somebody(s.wal.folder), pytest.raises(replay.ReplayBusy, match=f"process {os.getpid()} "):
            await worker.watch()
        assert await in_thread(lambda: rebuild.awaited(redis_connection)) == [s.wal.worker]
        await worker.watch()
        assert await opened(redis_connection) == list(range(64))


async def test_a_worker_of_this_host_whose_file_nobody_holds_is_not_waited_for(stage, redis_connection):
    async with stage() as s, living(s, s.pool):
        name = s.wal.path.name.replace(s.wal.worker, "host-1-dead")
        (s.wal.folder / name).write_bytes(s.wal.path.read_bytes())
        await in_thread(lambda: WorkerLease.objects.update(name="host-1-dead"))
        assert await in_thread(lambda: worker_leases.live(s.wal.folder)) == []


async def test_a_hold_that_came_back_with_an_old_file_goes_when_its_call_is_booked(stage, redis_connection):
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        holds, leases = script.name(s.caller.shard, script.HOLDS), script.name(s.caller.shard, script.LEASES)
        record, deadline = redis_connection.hget(holds, hold.call_id), redis_connection.zscore(leases, hold.call_id)
        await s.settle(hold)
        await s.admission.drain(5)
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        await in_thread(lambda: drain(journal))
        redis_connection.hset(holds, hold.call_id, record)  # Redis lost its last second
        redis_connection.zadd(leases, {hold.call_id: deadline})
        restarted(redis_connection)
        await opened(redis_connection)
        await worker.watch()
        await opened(redis_connection)
        assert script.read_holds(redis_connection, s.caller.shard) == []
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}


async def test_a_settle_that_redis_forgot_is_told_again_by_its_worker(stage, redis_connection):
    """The hold came back with an old file, and the entry is gone: the worker thinks it has settled."""
    async with stage(limit("tokens", "day", 10_000)) as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        holds, leases = script.name(s.caller.shard, script.HOLDS), script.name(s.caller.shard, script.LEASES)
        record, deadline = redis_connection.hget(holds, hold.call_id), redis_connection.zscore(leases, hold.call_id)
        await s.settle(hold)
        await s.admission.drain(5)
        redis_connection.delete(script.name(s.caller.shard, script.JOURNAL))
        redis_connection.hset(holds, hold.call_id, record)
        redis_connection.zadd(leases, {hold.call_id: deadline})
        restarted(redis_connection)
        await opened(redis_connection)
        await worker.watch()
        await opened(redis_connection)
        assert [entry["late"] for entry in s.entries()] == ["0"]
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
        assert s.counted()["tok.h"] == 0
        assert s.nothing_is_held()


async def test_a_call_that_lapsed_gets_no_hold_again(stage, redis_connection):
    async with stage() as s, living(s, s.pool) as worker:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        s.admission.progress(hold, Usage(input=1, output=1))
        redis_connection.zadd(script.name(s.caller.shard, script.LEASES), {hold.call_id: 1})
        assert leases.sweep(redis_connection) == 1
        restarted(redis_connection)
        await opened(redis_connection)
        await worker.watch()
        assert hold.lapsed
        await opened(redis_connection)
        assert script.read_holds(redis_connection, s.caller.shard) == []


async def test_what_the_journal_read_from_the_redis_before_is_not_booked(stage, redis_connection):
    """Else it would be booked after the counters were seeded, and they would never hear of it."""
    async with stage() as s, living(s, s.pool) as worker:
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        journal = Journal(redis_connection, name="tests", notify=lambda line: None)
        batch = await in_thread(lambda: read(journal))
        redis_connection.flushall()
        await opened(redis_connection)
        with pytest.raises(LeaseLost, match="rebuilt"):
            await in_thread(lambda: journal._book(batch))
        await worker.watch()
        await opened(redis_connection)
        await in_thread(journal._start_over)
        for _ in range(2):  # the group is made, then what is pending is looked for, then what is new
            await in_thread(lambda: drain(journal))
        assert await in_thread(UsageEvent.objects.count) == 1
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
