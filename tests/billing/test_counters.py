"""The coalescer, and what becomes of a call when Redis fails in the middle of it."""

import asyncio
import contextlib
import time

import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from billing import admission, counters, script, transports
from billing.admission import Refused, StoreUnavailable
from billing.call_ids import mint
from billing.counters import Counters
from portal.stores.redis_server import RedisServer
from tests.billing.stage import EPOCH, Stage, call_id, limit, open_epoch, publish


@pytest.fixture
def stage(redis_connection, wal_dir, settings):
    def made(*limits, url=settings.REDIS_URL, sync=redis_connection, **fields):
        return Stage(sync, wal_dir, url, *limits, **fields)

    return made


def script_calls(client):
    return client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]


async def test_what_one_turn_brings_leaves_in_one_script_call(stage, redis_connection):
    async with stage() as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        redis_connection.config_resetstat()
        holds = await asyncio.gather(*(s.reserve() for _ in range(40)))
        assert script_calls(redis_connection) == 1
        await asyncio.gather(*(s.settle(hold) for hold in holds))
        await s.admission.drain(5)
        assert script_calls(redis_connection) == 2
        assert len(s.entries()) == 40


async def test_windows_of_minutes_days_and_months_end_by_themselves(stage):
    async with stage(limit("requests", "minute", 10), limit("tokens", "day", 10_000)) as s:
        for _ in range(2):
            await s.settle(await s.reserve())
        await s.admission.drain(5)
        prefix = script.name(s.caller.shard, f"w:{s.caller.organization.id}:")
        left = {
            name[len(prefix) :][:1]: s.sync.ttl(name) for name in s.sync.scan_iter(prefix.replace("{", "[{]") + "*")
        }
        assert left.keys() == {b"i", b"d", b"m"}
        assert 60 < left[b"i"] <= 180
        assert 2 * 86_400 < left[b"d"] <= 4 * 86_400 < left[b"m"] <= 72 * 86_400


async def test_an_entry_that_fails_harms_only_itself(stage):
    async with stage() as s:
        await s.admission.void(await s.reserve())
        wrong = [
            s.counters.submit(
                ("reserve", s.caller.shard, EPOCH, "poison", ["not", "a", "static"], 1, 1, [], 1, 2**52, "")
            ),
            s.counters.submit(("no such step", s.caller.shard)),
            s.counters.submit(("settle", s.caller.shard, 0, "poison", 1, 2, 3)),
        ]
        with pytest.raises(TypeError):
            s.counters.submit(("void", s.caller.shard, 0, object()))
        assert (await s.reserve()).granted == 1000
        for future in wrong:
            with pytest.raises(StoreUnavailable):
                await future
        assert len(script.read_holds(s.sync, s.caller.shard)) == 1


async def test_a_script_that_redis_forgot_is_loaded_again(stage, redis_connection):
    async with stage() as s:
        redis_connection.script_flush()
        assert (await s.reserve()).granted == 1000


@contextlib.contextmanager
def failing(monkeypatch, *, after: bool, times: int = 1):
    """The next exchanges break: before the script runs, or after it (the reply is lost)."""
    ask, left = transports.exchange, [times]

    async def broken(connection, command):
        if not left[0]:
            return await ask(connection, command)
        left[0] -= 1
        if after:
            await ask(connection, command)
        raise RedisConnectionError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(transports, "exchange", broken)
        yield


async def test_a_reserve_whose_reply_was_lost_is_given_back(stage, monkeypatch):
    async with stage(limit("concurrent", "minute", 1)) as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        with failing(monkeypatch, after=True), pytest.raises(StoreUnavailable):
            await s.reserve()
        assert await s.counters.drain(5) == 0
        assert s.nothing_is_held()
        assert s.entries() == []
        assert (await s.reserve()).granted == 1000


async def test_a_reserve_that_arrives_after_it_was_given_up_is_given_back_too(stage, monkeypatch):
    monkeypatch.setattr(admission, "NOT_AFTER_MS", 400)
    async with stage() as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        sent: list[script.Entry] = []
        put = s.counters._queues[0].put

        def noted(item):
            sent.append(item.entry)
            put(item)

        monkeypatch.setattr(s.counters._queues[0], "put", noted)
        with failing(monkeypatch, after=False), pytest.raises(StoreUnavailable):
            await s.reserve()
        (late,) = [entry for entry in sent if entry[0] == "reserve"]
        await asyncio.sleep(0.1)  # the first void has found nothing
        assert script.run(s.sync, [late])[0][0] == "OK"
        assert await s.counters.drain(5) == 0
        assert s.nothing_is_held()
        await asyncio.sleep(0.4)
        assert script.run(s.sync, [late])[0][::2] == ["STALE", "clock"]  # from now on it does nothing
        assert s.nothing_is_held()


async def test_a_caller_that_goes_away_while_it_waits_leaves_nothing_held(stage, monkeypatch):
    async with stage() as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        ask = transports.exchange

        async def slow(connection, command):
            reply = await ask(connection, command)
            await asyncio.sleep(0.1)
            return reply

        monkeypatch.setattr(transports, "exchange", slow)
        task = asyncio.create_task(s.reserve())
        await asyncio.sleep(0.05)
        assert len(script.read_holds(s.sync, s.caller.shard)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert await s.counters.drain(5) == 0
        assert s.nothing_is_held()


async def test_a_settlement_whose_reply_was_lost_is_repeated_and_charged_once(stage, monkeypatch):
    async with stage() as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        with failing(monkeypatch, after=True):
            await s.settle(hold)
            assert await s.counters.drain(5) == 0
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
        assert [entry["late"] for entry in s.entries()] == ["0", "1"]
        assert s.entries()[0]["e"] == s.entries()[1]["e"]


async def test_a_settlement_is_repeated_until_redis_takes_it(stage, monkeypatch):
    async with stage() as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        with failing(monkeypatch, after=False, times=4):
            charge = await s.settle(hold)
            assert charge.cost_nanos == 38_000
            assert await s.counters.drain(0.01) == 1
            assert await s.counters.drain(5) == 0
        assert s.account()["bal"] == 10**12 - 38_000
        assert len(s.entries()) == 1


@pytest.fixture
def own_redis(tmp_path):
    """A Redis that a test may stop and lose."""
    server = RedisServer(data=tmp_path / "redis", socket=tmp_path / "redis.sock", log=tmp_path / "redis.log")
    server.start()
    client = redis.Redis(unix_socket_path=str(server.socket))
    yield server, client, f"unix://{server.socket}"
    client.close()
    server.stop()


async def test_while_redis_is_away_calls_are_refused_at_once_and_owe_nothing(stage, own_redis, monkeypatch):
    monkeypatch.setattr(admission, "NOT_AFTER_MS", 300)
    server, client, url = own_redis
    async with stage(url=url, sync=client) as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        server.stop()
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await s.reserve()
        assert time.monotonic() - started < 2
        charge = await s.settle(hold)  # the WAL has it
        assert charge.cost_nanos == 38_000
        server.start()
        # Back with all its data but another run id: closed until an epoch is opened.
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        assert await s.counters.drain(0.1) > 0
        open_epoch(client, EPOCH + 1)
        assert await s.counters.drain(5) == 0
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
        assert (await s.reserve()).granted == 1000


async def test_a_connection_that_redis_closed_fails_no_call(stage):
    """As after a restart: each of a worker's connections is found closed when it is next wanted."""
    async with stage() as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert s.sync.client_kill_filter(_type="normal", skipme=True) >= 1
        await asyncio.sleep(0.05)
        assert (await s.reserve()).granted == 1000


async def test_a_redis_that_stalls_is_given_up_in_time(stage, own_redis, monkeypatch):
    _, client, url = own_redis
    monkeypatch.setattr(transports, "ANSWER_SECONDS_MAX", 0.2)
    async with stage(url=url, sync=client) as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        stalled = asyncio.create_task(asyncio.to_thread(client.execute_command, "DEBUG", "SLEEP", "0.6"))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        assert time.monotonic() - started < 0.5
        await stalled
        assert await s.counters.drain(20) == 0
        assert s.nothing_is_held()  # the script had run when Redis woke up


async def test_a_full_redis_takes_no_new_calls_and_ends_the_running(stage, own_redis):
    _, client, url = own_redis
    async with stage(limit("tokens", "day", 10**9), url=url, sync=client) as s:
        hold = await s.reserve()
        before = client.hgetall(script.name(s.caller.shard, f"a:{s.caller.organization.id}"))
        client.config_set("maxmemory", "1mb")
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(StoreUnavailable, match="OOM"):
            await s.reserve()
        assert client.hgetall(script.name(s.caller.shard, f"a:{s.caller.organization.id}")) == before
        assert len(script.read_holds(client, s.caller.shard)) == 1
        await s.settle(hold)
        assert await s.counters.drain(5) == 0
        assert s.nothing_is_held()
        assert s.account()["bal"] == 10**12 - 38_000
        client.config_set("maxmemory", "0")


async def test_too_many_waiting_calls_are_refused(stage, monkeypatch):
    async with stage() as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        monkeypatch.setattr(counters, "WAITING_MAX", 10)
        answers = await asyncio.gather(*(s.reserve() for _ in range(30)), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
        assert len(refused) == 20


async def test_many_organizations_share_a_call_and_keep_apart(stage, redis_connection):
    async with stage(balance=10**6) as s:
        callers = [s.caller.__class__(**_fields(s.caller, number)) for number in range(1, 130)]
        for who in callers:
            publish(redis_connection, who, s.snapshot)
        holds = await asyncio.gather(*(s.reserve(caller=who) for who in callers))
        accounts = {who.organization.id: script.name(who.shard, f"a:{who.organization.id}") for who in callers}
        assert all(redis_connection.hget(name, "held") == b"420000" for name in accounts.values())
        await asyncio.gather(*(s.settle(hold) for hold in holds))
        await s.admission.drain(5)
        assert all(redis_connection.hget(name, "bal") == b"962000" for name in accounts.values())


def _fields(who, number):
    values = {name: getattr(who, name) for name in who.__slots__}
    organization = who.organization
    values["organization"] = organization.__class__(
        **{**{name: getattr(organization, name) for name in organization.__slots__}, "id": number}
    )
    return values


async def test_a_worker_that_closes_gives_up_quietly(redis_connection, settings):
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    asked = Counters(client)
    future = asked.submit(("void", 1, 0, mint(1, bytes(10))))
    await asked.close()
    with pytest.raises(StoreUnavailable):
        await future
    await client.aclose()


async def test_refusals_write_nothing(stage, redis_connection):
    async with stage(limit("tokens", "day", 10)) as s:
        with pytest.raises(Refused):
            await s.reserve()  # the account is seeded now
        before = {name: redis_connection.dump(name) for name in redis_connection.scan_iter()}
        for fields in ({}, {"prompt": 11, "wanted": 0}, {"call_id": call_id()}):
            with pytest.raises(Refused):
                await s.reserve(**fields)
        assert {name: redis_connection.dump(name) for name in redis_connection.scan_iter()} == before
