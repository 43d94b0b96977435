"""From secret to Caller: on real stores, from memory when it can, and never refusing from memory."""

import asyncio
import contextlib
import re
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis.asyncio
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing.snapshot import BrandRecord
from keys import directory as directory_module
from keys import issuing, organizations, records, tokens
from keys.caller import KeyReason
from keys.directory import Directory, DirectoryUnavailable, KeyRefused
from keys.models import ApiKey, Organization
from tests import cast
from tests.keys.threads import in_thread

issue = in_thread(issuing.issue)
revoke = in_thread(issuing.revoke)
NOW_MS = 1_900_000_000_000


def facts(brand, **fields):
    return BrandRecord(**{**records.brand_values(brand), **fields})


@pytest.fixture
def brand(house):
    return facts(house.brand)


@pytest.fixture
def counted(directory, monkeypatch):
    """How often each store was asked."""
    counts = SimpleNamespace(redis=0, rows=0)
    ask_redis, ask_row = directory._redis.execute_command, directory._from_row

    async def execute_command(*words, **options):
        counts.redis += 1
        return await ask_redis(*words, **options)

    async def from_row(*words):
        counts.rows += 1
        return await ask_row(*words)

    monkeypatch.setattr(directory._redis, "execute_command", execute_command)
    monkeypatch.setattr(directory, "_from_row", from_row)
    return counts


async def refused(awaitable):
    with pytest.raises(KeyRefused) as caught:
        await awaitable
    return caught.value.reason


async def test_key_is_found_with_all_that_it_may(directory, brand, organization):
    issued = await issue(
        organization=organization,
        name="one",
        actor="test",
        scopes=["chat"],
        model_slugs=["aion"],
        cidrs=["10.0.0.0/8"],
        limits=[{"unit": "requests", "window": "minute", "amount": 5}],
        expires_at=(expires_at := timezone.now() + timedelta(days=1)),
    )
    caller = await directory.find(issued.secret, brand)
    assert (caller.key_id, caller.key_public_id, caller.key_hint) == (
        *(issued.key.id, issued.key.public_id, issued.key.hint),
    )
    assert (caller.key_version, caller.scopes, caller.models) == (issued.version, {"chat"}, {"aion"})
    assert caller.limits == ({"unit": "requests", "window": "minute", "amount": 5},)
    assert [str(network) for network in caller.networks] == ["10.0.0.0/8"]
    assert caller.expires_at_ms == int(expires_at.timestamp() * 1000)
    assert caller.revoked is False
    assert caller.organization.id == organization.id
    assert caller.organization.brand_id == brand.id


@pytest.mark.parametrize("lost", ["nothing", "records", "digests", "everything"])
async def test_memory_redis_and_row_give_the_same_caller(lost, directory, brand, organization, redis_async, pool):
    issued = await issue(organization=organization, name="one", actor="test")
    first = await directory.find(issued.secret, brand)
    lost_patterns = {"nothing": [], "records": ["{s*"], "digests": ["kd:*"], "everything": ["*"]}
    for pattern in lost_patterns[lost]:
        await redis_async.delete(*await redis_async.keys(pattern))
    assert await directory.find(issued.secret, brand) == first
    assert await Directory(redis_async, pool).find(issued.secret, brand) == first
    assert await directory.reload(first) == first


async def test_cached_key_asks_no_store(directory, brand, organization, counted):
    issued = await issue(organization=organization, name="one", actor="test")
    await directory.find(issued.secret, brand)
    before = (counted.redis, counted.rows)
    for _ in range(100):
        await directory.find(issued.secret, brand)
    assert (counted.redis, counted.rows) == before
    assert counted.rows == 1


async def test_second_worker_asks_redis_and_no_row(directory, brand, organization, redis_async, pool, counted):
    issued = await issue(organization=organization, name="one", actor="test")
    await Directory(redis_async, pool).find(issued.secret, brand)
    before = counted.redis
    await directory.find(issued.secret, brand)
    assert (counted.rows, counted.redis - before) == (0, 2)


HOSTILE = [
    *("", "\x00", "ak-\x00", "'; DROP TABLE keys_apikey; --", '"', "ak-" + "é" * 33, "ak-" + "A" * 33),
    *("ak-" + "a" * 1_000_000, "\ud800", "ak-" + "\U0001f600" * 33, "ak-" + "A" * 32 + "\x00", "%s" * 18),
]


@pytest.mark.parametrize("secret", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_secret_reaches_no_store(secret, directory, brand, counted):
    assert await refused(directory.find(secret, brand)) is KeyReason.INVALID_KEY
    assert (counted.redis, counted.rows) == (0, 0)


@given(st.text())
async def test_any_text_is_refused_without_a_store(text):
    offline = Directory(None, None)  # type: ignore[arg-type]  # any question to a store would fail
    brand = BrandRecord(id=1, slug="x", name="x", key_prefix="ak-", legacy_key_patterns=("old_[a-f]{9}",))
    assert await refused(offline.find(text, brand)) is KeyReason.INVALID_KEY


async def test_key_of_another_brand_is_unknown_here_and_found_there(directory, brand, organization):
    issued = await issue(organization=organization, name="one", actor="test")
    other = facts(await in_thread(cast.brand)(key_prefix="ak-"))
    assert await refused(directory.find(issued.secret, other)) is KeyReason.INVALID_KEY
    assert (await directory.find(issued.secret, brand)).organization.brand_id == brand.id
    assert await refused(directory.find(issued.secret, other)) is KeyReason.INVALID_KEY
    assert (await directory.find(issued.secret, other, brand)).organization.brand_id == brand.id


async def test_unknown_key_is_remembered_for_at_most_five_seconds(redis_async, pool, brand, organization):
    now = [100.0]
    directory = Directory(redis_async, pool, clock=lambda: now[0])
    secret = tokens.mint("ak-", b"r" * 20)
    assert await refused(directory.find(secret, brand)) is KeyReason.INVALID_KEY
    await issue(organization=organization, name="late", actor="test", secret=secret)
    assert await refused(directory.find(secret, brand)) is KeyReason.INVALID_KEY
    now[0] += 5.01
    assert (await directory.find(secret, brand)).key_id


async def test_memory_is_bounded(redis_async, pool, brand, organization):
    directory = Directory(redis_async, pool, callers_max=3)
    secrets = [(await issue(organization=organization, name=f"{n}", actor="test")).secret for n in range(5)]
    first = await directory.find(secrets[0], brand)
    for secret in secrets:
        await directory.find(secret, brand)
        assert await directory.find(secrets[0], brand) is first  # used lately, so never the one that goes
    assert len(directory._callers) == len(directory._names) == 3
    assert directory._names.keys() == {caller.key_id for caller in directory._callers.values()}
    assert directory._name_in_memory(secrets[0]) in directory._callers


async def test_a_hundred_at_once_look_up_once_and_a_cancelled_one_harms_nobody(directory, brand, organization, counted):
    issued = await issue(organization=organization, name="one", actor="test")
    tasks = [asyncio.create_task(directory.find(issued.secret, brand)) for _ in range(100)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    callers = await asyncio.gather(*tasks[1:])
    assert len({id(caller) for caller in callers}) == 1
    assert counted.rows == 1
    assert directory._running == {}


class SlowPool:
    """Stands in for PostgreSQL where only the number of questions at once matters; no row is ever there."""

    def __init__(self):
        self.inside = self.most = 0

    @contextlib.asynccontextmanager
    async def connection(self, seconds):
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.001)
        yield self
        self.inside -= 1

    async def execute(self, *_, **__):
        return self

    async def fetchone(self):
        return None


async def test_at_most_sixteen_rows_are_looked_up_at_once(redis_async, brand):
    pool: Any = SlowPool()
    directory = Directory(redis_async, pool)
    unknown = [tokens.mint("ak-", number.to_bytes(20, "big")) for number in range(80)]
    reasons = await asyncio.gather(*(refused(directory.find(secret, brand)) for secret in unknown))
    assert set(reasons) == {KeyReason.INVALID_KEY}
    assert pool.most == 16


async def test_too_many_unknown_keys_at_once_are_told_to_come_again(directory, brand, monkeypatch):
    monkeypatch.setattr(directory_module, "WAITING_MAX", 10)
    unknown = [tokens.mint("ak-", number.to_bytes(20, "big")) for number in range(20)]
    found = await asyncio.gather(*(directory.find(secret, brand) for secret in unknown), return_exceptions=True)
    assert [type(result) for result in found].count(DirectoryUnavailable) == 10


async def test_reload_after_revoke_returned_sees_it(directory, brand, organization):
    for number in range(20):
        issued = await issue(organization=organization, name=f"{number}", actor="test")
        caller = await directory.find(issued.secret, brand)
        assert (await revoke(key=issued.key, actor="test")).applied
        fresh = await directory.reload(caller)
        assert fresh.revoked
        assert fresh.key_version > caller.key_version
        assert (await directory.find(issued.secret, brand)).revoked
        assert await refused(directory.admit(fresh, NOW_MS, None)) is KeyReason.KEY_REVOKED


async def test_miss_beside_a_revoke_never_brings_the_old_record_back(directory, brand, organization, redis_async, pool):
    """The row is read before the revoke and offered after it."""
    issued = await issue(organization=organization, name="one", actor="test")
    offered = directory._offered

    async def slow(organization_id, key_id, offer):
        if offer[0]:
            await revoke(key=issued.key, actor="test")
        return await offered(organization_id, key_id, offer)

    directory._offered = slow
    assert (await directory.find(issued.secret, brand)).revoked
    assert (await Directory(redis_async, pool).find(issued.secret, brand)).revoked


async def test_refusal_is_never_given_from_memory(directory, brand, organization):
    issued = await issue(organization=organization, name="one", actor="test")
    await in_thread(organizations.suspend)(organization=organization, reason="unpaid", actor="test")
    caller = await directory.find(issued.secret, brand)
    assert await refused(directory.admit(caller, NOW_MS, None)) is KeyReason.ORGANIZATION_SUSPENDED
    await in_thread(organizations.resume)(organization=organization, actor="test")
    assert (await directory.admit(caller, NOW_MS, None)).organization.state == "active"
    assert (await directory.find(issued.secret, brand)).organization.state == "active"


async def test_expiry_needs_no_job(directory, brand, organization):
    issued = await issue(
        organization=organization, name="one", actor="test", expires_at=timezone.now() + timedelta(hours=1)
    )
    caller = await directory.find(issued.secret, brand)
    assert await directory.admit(caller, caller.expires_at_ms - 1, None) == caller
    assert await refused(directory.admit(caller, caller.expires_at_ms, None)) is KeyReason.KEY_EXPIRED


async def test_rotated_keys_both_call_until_the_overlap_ends(directory, brand, organization):
    old = await issue(organization=organization, name="one", actor="test", scopes=["chat"], model_slugs=["aion"])
    caller = await directory.find(old.secret, brand)
    new = await in_thread(issuing.rotate)(key=old.key, overlap=timedelta(hours=1), actor="test")
    was, now = await directory.reload(caller), await directory.find(new.secret, brand)
    assert (now.scopes, now.models, now.organization) == (was.scopes, was.models, was.organization)
    assert was.key_id != now.key_id
    assert now.expires_at_ms is None
    ends = was.expires_at_ms
    assert await directory.admit(was, ends - 1, None)
    assert await directory.admit(now, ends + 1, None)
    assert await refused(directory.admit(was, ends, None)) is KeyReason.KEY_EXPIRED


async def test_key_made_under_an_older_pepper_still_calls(organization, brand, redis_async, pool, settings):
    one, two = b"\x01" * 32, b"\x02" * 32
    settings.KEY_PEPPERS = {1: one}
    old = await issue(organization=organization, name="old", actor="test")
    settings.KEY_PEPPERS = {1: one, 2: two}
    new = await issue(organization=organization, name="new", actor="test")
    assert (old.key.pepper_version, new.key.pepper_version) == (1, 2)
    directory = Directory(redis_async, pool)
    assert (await directory.find(old.secret, brand)).key_id == old.key.id
    assert (await directory.find(new.secret, brand)).key_id == new.key.id
    assert (await Directory(redis_async, pool).find(old.secret, brand)).key_id == old.key.id
    without = Directory(redis_async, pool, peppers={2: two})
    assert await refused(without.find(old.secret, brand)) is KeyReason.INVALID_KEY


async def test_imported_key_calls_where_the_brand_takes_its_format(directory, brand, organization, house):
    secret = "old_0123456789abcdef"
    key = await in_thread(issuing.import_legacy)(
        organization=organization, name="old", sha256=tokens.legacy_digest(secret), hint="old_…cdef", actor="import"
    )
    assert await refused(directory.find(secret, brand)) is KeyReason.INVALID_KEY
    takes = facts(house.brand, legacy_key_patterns=("old_[0-9a-f]{16}",))
    assert (await directory.find(secret, takes)).key_id == key.id
    assert await refused(directory.find("old_0000000000000000", takes)) is KeyReason.INVALID_KEY


async def test_ids_of_a_restored_database_do_not_open_another_key(directory, brand, organization, redis_async):
    """The cache of digests outlived the database it came from: its id is another key's now."""
    mine = await issue(organization=organization, name="mine", actor="test")
    secret = tokens.mint("ak-", b"z" * 20)
    name = records.digest_name(tokens.digest(secret, directory._peppers[0]))
    await redis_async.set(name, f"{organization.id}:{mine.key.id}")
    await directory.find(mine.secret, brand)
    assert await refused(directory.find(secret, brand)) is KeyReason.INVALID_KEY
    caller = replace(await directory.find(mine.secret, brand), key_public_id="key_of_an_older_time")
    assert await refused(directory.reload(caller)) is KeyReason.INVALID_KEY


async def test_deleted_row_is_forgotten_when_redis_lost_it_too(directory, brand, organization, redis_async):
    issued = await issue(organization=organization, name="one", actor="test")
    caller = await directory.find(issued.secret, brand)
    await in_thread(ApiKey.objects.filter(id=issued.key.id).delete)()
    await redis_async.flushall()
    assert await refused(directory.reload(caller)) is KeyReason.INVALID_KEY
    assert await refused(directory.find(issued.secret, brand)) is KeyReason.INVALID_KEY
    assert directory._callers == directory._names == {}


async def test_store_that_is_away_is_unavailable_not_an_invalid_key(directory, brand, organization, pool):
    issued = await issue(organization=organization, name="one", actor="test")
    caller = await directory.find(issued.secret, brand)
    async with redis.asyncio.Redis.from_url("unix:///nonexistent/redis.sock") as gone:
        lonely = Directory(gone, pool)
        with pytest.raises(DirectoryUnavailable):
            await lonely.find(issued.secret, brand)
        with pytest.raises(DirectoryUnavailable):
            await lonely.reload(caller)
    await pool.close()
    with pytest.raises(DirectoryUnavailable):
        await directory.find(tokens.mint("ak-", b"q" * 20), brand)


async def test_row_never_published_is_offered_once(directory, brand, house, redis_async):
    """Rows that a migration or a factory wrote carry version 0."""
    plain = await in_thread(cast.organization)(house.brand)
    issued = await issue(organization=plain, name="one", actor="test")
    assert (await directory.find(issued.secret, brand)).organization.version == 0
    assert await redis_async.hget(records.organization_name(plain.id), "v") == b"0"


async def test_unreadable_record_is_mended_from_the_row(directory, brand, organization, redis_async):
    issued = await issue(organization=organization, name="one", actor="test")
    caller = await directory.find(issued.secret, brand)
    name = records.key_name(organization.id, issued.key.id)
    await redis_async.hset(name, "data", b"{}")
    assert await directory.reload(caller) == caller
    await redis_async.hset(name, mapping={"v": caller.key_version + 1, "data": b"{}"})
    with pytest.raises(DirectoryUnavailable):
        await directory.reload(caller)


async def test_sql_is_prepared_nowhere(directory, brand, organization, pool):
    """PgBouncer in transaction mode keeps no prepared statements."""
    for number in range(8):
        issued = await issue(organization=organization, name=f"{number}", actor="test")
        await directory.find(issued.secret, brand)
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
        assert await cursor.fetchone() == (0,)


async def test_caller_refuses_by_name(directory, brand, organization):
    issued = await issue(
        organization=organization,
        name="one",
        actor="test",
        scopes=["chat"],
        model_slugs=["aion"],
        cidrs=["10.0.0.0/8", "2001:db8::/32"],
    )
    caller = await directory.find(issued.secret, brand)
    check = directory.check_static
    assert check(caller, NOW_MS, "10.1.2.3", scope="chat", model="aion") is None
    assert check(caller, NOW_MS, "::ffff:10.1.2.3") is None
    assert check(caller, NOW_MS, "2001:db8::7") is None
    for address in ("11.1.2.3", "::ffff:11.0.0.1", None, "", "unix:", "10.1.2.3%0", "fe80::1%eth0"):
        assert check(caller, NOW_MS, address) is KeyReason.ADDRESS_NOT_ALLOWED
    assert check(caller, NOW_MS, "10.1.2.3", scope="usage") is KeyReason.SCOPE_NOT_ALLOWED
    assert check(caller, NOW_MS, "10.1.2.3", model="other") is KeyReason.MODEL_NOT_ALLOWED
    assert check(replace(caller, networks=()), NOW_MS, None) is None


def test_record_sql_names_every_fact_of_its_row(organization):
    """A new column of ApiKey or Organization is either published or listed here as none of the workers' business."""
    unpublished = {"name", "pepper_version", "created_by", "created_at", "rotated_from", "version"}
    unpublished |= {"service_account"}  # ends with its keys, each by itself
    unpublished |= {"manages_as", "purpose"}  # a key that manages has no scope, by which workers refuse it
    renamed = {"model_slugs": "k.model_slugs", "expires_at": "k.expires_at", "revoked_at": "k.revoked_at"}
    for field in ApiKey._meta.concrete_fields:
        if field.name not in unpublished:
            assert re.search(rf"\b{renamed.get(field.name, 'k.' + field.attname)}\b", records.key_columns()), field
    unpublished = {"name", "suspended_reason", "created_at", "version"}
    for field in Organization._meta.concrete_fields:
        if field.name not in unpublished:
            assert re.search(rf"\bo\.{field.attname}\b", records.organization_columns()), field


async def test_pool_gives_up_in_time(directory, brand, organization, pool, monkeypatch):
    monkeypatch.setattr(directory_module, "LOOKUP_SECONDS_MAX", 0.1)

    async def stuck(*_):
        await asyncio.sleep(30)

    monkeypatch.setattr(directory, "_from_row", stuck)
    with pytest.raises(DirectoryUnavailable):
        await directory.find(tokens.mint("ak-", b"s" * 20), brand)
