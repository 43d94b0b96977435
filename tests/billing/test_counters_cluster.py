"""The same promises on a Redis Cluster: each shard's entries go to its own node, sync and async."""

import asyncio

import pytest
import redis.asyncio

from billing import admission, leases, script
from billing.counters import StoreUnavailable
from keys import connections
from tests.billing.stage import Stage, caller, publish
from tests.keys.redis_cluster import redis_cluster


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory):
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture
def clustered(settings, cluster_url):
    settings.REDIS_URL, settings.REDIS_CLUSTER = cluster_url, True
    client = connections.redis_client()
    client.flushall()
    yield client
    client.close()
    connections._client.cache_clear()


@pytest.fixture
def stage(clustered, wal_dir, cluster_url, monkeypatch):
    def asyncio_cluster(url):
        return redis.asyncio.RedisCluster.from_url(url)

    s = Stage(clustered, wal_dir, cluster_url, connect=asyncio_cluster)
    for node in clustered.get_primaries():
        run_id = clustered.info("server", target_nodes=node)["run_id"]
        for shard in range(64):
            name = script.name(shard, script.EPOCH)
            if clustered.get_node_from_key(name).name == node.name:
                clustered.set(name, f"1000:{run_id}")
    return s


async def test_calls_of_all_shards_are_held_and_settled(stage, clustered):
    async with stage as s:
        callers = [caller(number) for number in range(1, 40)]
        for who in callers:
            publish(clustered, who, s.snapshot)
        holds = await asyncio.gather(*(s.reserve(caller=who) for who in callers))
        await asyncio.gather(*(s.settle(hold) for hold in holds))
        assert await s.admission.drain(5) == 0
        for who in callers:
            account = clustered.hgetall(script.name(who.shard, f"a:{who.organization.id}"))
            assert (account[b"bal"], account[b"held"]) == (b"999999962000", b"0")


async def test_a_script_that_a_node_forgot_is_sent_again(stage, clustered):
    async with stage as s:
        clustered.execute_command("SCRIPT FLUSH", target_nodes=clustered.ALL_NODES)
        publish(clustered, s.caller, s.snapshot)
        assert (await s.reserve()).granted == 1000


async def test_the_sweeper_and_changes_find_their_shards(stage, clustered, monkeypatch):
    monkeypatch.setattr(admission, "LEASE_MS", 30)
    monkeypatch.setattr(leases, "GRACE_MS", 0)
    async with stage as s:
        callers = [caller(number) for number in (1, 2, 3, 40, 41)]
        for who in callers:
            publish(clustered, who, s.snapshot)
            await s.reserve(caller=who)
        await asyncio.sleep(0.1)
        assert leases.sweep(clustered) == len(callers)
        assert leases.sweep(clustered) == 0


async def test_a_shard_whose_node_was_replaced_is_closed(stage, clustered):
    async with stage as s:
        publish(clustered, s.caller, s.snapshot)
        clustered.set(script.name(s.caller.shard, script.EPOCH), "1000:therunidofthemasterbefore")
        with pytest.raises(StoreUnavailable, match="rebuilt"):
            await s.reserve()
