"""Whose turn it is in a conversation: on one Redis, and on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from proxy import conversation_leases
from proxy.conversation_leases import Leases
from proxy.refusals import Declined, Reason
from tests.keys.redis_cluster import redis_cluster

NAME = "{s7}:talk:7:abc"


@pytest.fixture
async def leases(redis_connection: redis.Redis, settings: Any) -> AsyncIterator[Leases]:
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    made = Leases(client)
    yield made
    await made.stop()
    await client.aclose()


async def pause(freed: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(freed.wait(), seconds)
    except TimeoutError:
        return


async def test_everybody_has_it_alone_in_the_order_of_arrival(leases: Leases, redis_connection: redis.Redis) -> None:
    had: list[int] = []
    users = 0

    async def use(number: int) -> None:
        nonlocal users
        await leases.enter(NAME, f"user {number}", pause)
        users += 1
        assert users == 1
        had.append(number)
        await asyncio.sleep(0.005)
        users -= 1
        await leases.leave(NAME, f"user {number}")

    await leases.enter(NAME, "before them", pause)
    tasks = []
    for number in range(20):
        tasks.append(asyncio.ensure_future(use(number)))
        for _ in range(1000):
            if redis_connection.hlen(NAME) == number + 2:
                break
            await asyncio.sleep(0.001)
    await leases.leave(NAME, "before them")
    await asyncio.gather(*tasks)
    assert had == list(range(20))


async def test_two_workers_take_turns(leases: Leases, settings: Any) -> None:
    other = Leases(redis.asyncio.Redis.from_url(settings.REDIS_URL))
    await leases.enter(NAME, "one", pause)
    waiting = asyncio.ensure_future(other.enter(NAME, "two", pause))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await leases.leave(NAME, "one")
    await asyncio.wait_for(waiting, 1)
    await other.leave(NAME, "two")
    await other._redis.aclose()


async def test_a_lease_lasts_while_it_is_renewed_and_no_longer(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_leases, "USING_MS", 200)
    monkeypatch.setattr(conversation_leases, "RENEW_SECONDS", 0.05)
    leases.start()
    await leases.enter(NAME, "long", pause)
    waiting = asyncio.ensure_future(leases.enter(NAME, "next", pause))
    await asyncio.sleep(0.6)
    assert not waiting.done(), "it is renewed"
    await leases.stop()  # as if its worker had died
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(waiting, 2)
    assert asyncio.get_running_loop().time() - began < 1


async def test_a_waiter_that_died_is_passed_over(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_leases, "WAITING_MS", 200)
    await leases.enter(NAME, "one", pause)
    assert await leases._ask(NAME, "dead", 64) == 1
    third = asyncio.ensure_future(leases.enter(NAME, "three", pause))
    await asyncio.sleep(0.05)
    await leases.leave(NAME, "one")
    await asyncio.wait_for(third, 1)


async def test_it_is_lost_when_redis_forgets(leases: Leases, redis_connection: redis.Redis) -> None:
    await leases.enter(NAME, "one", pause)
    redis_connection.delete(NAME)
    await leases._renew(NAME, "one")
    assert not redis_connection.exists(NAME), "a renewal takes nothing anew"
    await leases.enter(NAME, "two", pause)


async def test_there_is_an_end_to_those_who_may_wait(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_leases, "USERS_MAX", 2)
    await leases.enter(NAME, "one", pause)
    second = asyncio.ensure_future(leases.enter(NAME, "two", pause))
    await asyncio.sleep(0.05)
    with pytest.raises(Declined) as refused:
        await leases.enter(NAME, "three", pause)
    assert refused.value.problem.reason is Reason.SESSION_BUSY
    await leases.leave(NAME, "one")
    await asyncio.wait_for(second, 1)


async def test_whoever_gives_up_leaves_its_place(leases: Leases, redis_connection: redis.Redis) -> None:
    class GivenUp(Exception):
        pass

    async def give_up(*_: Any) -> None:
        raise GivenUp

    await leases.enter(NAME, "one", pause)
    with pytest.raises(GivenUp):
        await leases.enter(NAME, "two", give_up)
    cancelled = asyncio.ensure_future(leases.enter(NAME, "three", pause))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await leases.stop()
    assert redis_connection.hkeys(NAME) == [b"one"]
    await leases.leave(NAME, "one")
    assert not redis_connection.exists(NAME)


async def test_the_same_on_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as url:
        client = redis.asyncio.RedisCluster.from_url(url)
        leases = Leases(client)
        for shard in range(0, 64, 9):
            name = f"{{s{shard}}}:talk:{shard}:abc"
            await leases.enter(name, "one", pause)
            second = asyncio.ensure_future(leases.enter(name, "two", pause))
            await asyncio.sleep(0.02)
            assert not second.done()
            await leases.leave(name, "one")
            await asyncio.wait_for(second, 1)
            await leases.leave(name, "two")
        await client.aclose()
