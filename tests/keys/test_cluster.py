"""The same promises when REDIS_URL names a cluster."""

import pytest

from keys import brands, connections, issuing, publication, records
from keys.directory import Directory
from tests import cast
from tests.keys.redis_cluster import redis_cluster
from tests.keys.test_directory import facts, issue, revoke
from tests.keys.threads import in_thread


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


def test_brand_reaches_every_shard_and_rebuild_works(clustered, house):
    version = brands.pause(brand=house.brand, actor="test")
    assert version
    assert version.applied
    versions = {clustered.hget(records.policy_name(shard), str(house.brand.id)) for shard in range(64)}
    assert len(versions) == 1
    assert clustered.hget(records.brand_name(house.brand.id), "v") in versions
    organizations = [cast.organization(house.brand) for _ in range(6)]
    keys = [issuing.issue(organization=organization, name="one", actor="test").key for organization in organizations]
    clustered.flushall()
    for organization, key in zip(organizations, keys, strict=True):
        publication.apply_everything(organization.id % 64)
        assert clustered.exists(records.key_name(organization.id, key.id))


async def test_directory_finds_and_reloads_through_a_cluster(clustered, house, pool):
    client = connections.asyncio_client()
    try:
        directory, second = Directory(client, pool), Directory(client, pool)
        for _ in range(5):
            organization = await in_thread(cast.organization)(house.brand)
            issued = await issue(organization=organization, name="one", actor="test")
            caller = await directory.find(issued.secret, facts(house.brand))
            assert await second.find(issued.secret, facts(house.brand)) == caller
            assert (await revoke(key=issued.key, actor="test")).applied
            assert (await directory.reload(caller)).revoked
    finally:
        await client.aclose()
