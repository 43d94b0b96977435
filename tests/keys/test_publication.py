"""Changes reach Redis before their writer returns, once, in order, and none is lost on the way."""

import json
import os
from datetime import timedelta
from itertools import pairwise
from threading import Thread
from unittest import mock

import msgspec
import psycopg
import pytest
import redis
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing.snapshot import BrandRecord
from keys import brands, issuing, organizations, publication, records
from keys.connections import redis_client
from keys.models import ApiKey, Brand, Publication
from tests import cast


@pytest.fixture
def away(monkeypatch, settings):
    """Redis as the publisher finds it while it is away; call the result to bring it back."""
    gone = redis.Redis.from_url("unix:///nonexistent/redis.sock")
    there = redis_client
    monkeypatch.setattr(publication, "redis_client", lambda: gone)
    return lambda: monkeypatch.setattr(publication, "redis_client", there)


def stored(redis_connection, name):
    version, data = redis_connection.hmget(name, "v", "data")
    return int(version), json.loads(data)


def test_key_stands_in_redis_when_issue_returns(organization, redis_connection):
    issued = issuing.issue(organization=organization, name="one", actor="test", model_slugs=["aion"], cidrs=["::1"])
    assert issued.published
    version, data = stored(redis_connection, records.key_name(organization.id, issued.key.id))
    assert version == issued.key.version == issued.version
    assert data == {
        "id": issued.key.id,
        "public_id": issued.key.public_id,
        "hint": issued.key.hint,
        "digest": bytes(issued.key.digest).hex(),
        "organization_id": organization.id,
        "scopes": issued.key.scopes,
        "models": ["aion"],
        "cidrs": ["::1/128"],
        "limits": [],
        "expires_at_ms": None,
        "revoked": False,
        "is_test": False,
    }
    assert not Publication.objects.filter(applied_at=None).exists()


def test_organization_record_carries_the_facts_of_higher_rooms(organization, redis_connection, monkeypatch):
    monkeypatch.setattr(records, "_organization_facts", {})
    records.register_organization_fact("tier_id", "SELECT 7 + o.id - o.id")
    organizations.suspend(organization=organization, reason="unpaid", actor="test")
    version, data = stored(redis_connection, records.organization_name(organization.id))
    assert (version, data["state"], data["tier_id"]) == (organization.version, "suspended", 7)
    assert data["brand_id"] == organization.brand_id


def test_brand_is_published_with_its_list_and_a_version_on_every_shard(house, redis_connection):
    version = brands.pause(brand=house.brand, actor="test")
    assert version
    assert redis_connection.hget(records.brand_name(house.brand.id), "data") == b"snapshot %d" % version
    for shard in range(64):
        assert int(redis_connection.hget(records.policy_name(shard), str(house.brand.id))) == version
    _, listed = stored(redis_connection, records.BRANDS)
    assert [(entry["slug"], entry["state"]) for entry in listed] == [(house.brand.slug, "paused")]


def test_brand_list_is_what_billing_reads(house, redis_connection):
    publication.apply(publication.BRAND, house.brand.id)
    read = msgspec.json.decode(redis_connection.hget(records.BRANDS, "data"), type=list[BrandRecord])
    assert [entry.slug for entry in read] == [house.brand.slug]
    assert set(BrandRecord.__struct_fields__) == set(records.BRAND_FIELDS)


def test_change_inside_an_open_transaction_is_applied_at_its_commit(organization, redis_connection):
    with transaction.atomic():
        issued = issuing.issue(organization=organization, name="one", actor="test")
        before = issued.published, redis_connection.exists(records.key_name(organization.id, issued.key.id))
    assert before == (False, 0)
    assert issued.published
    assert redis_connection.exists(records.key_name(organization.id, issued.key.id))


def test_change_that_is_rolled_back_is_never_published(organization, redis_connection):
    with transaction.atomic():
        issued = issuing.issue(organization=organization, name="one", actor="test")
        transaction.set_rollback(True)
    assert not issued.published
    assert not Publication.objects.exists()
    assert not redis_connection.keys("*")


def test_record_outside_a_transaction_is_a_mistake(organization):
    with pytest.raises(transaction.TransactionManagementError):
        publication.record(publication.ORGANIZATION, organization.id)


def test_change_while_redis_is_away_stays_pending_and_says_so(organization, redis_connection, away):
    issued = issuing.issue(organization=organization, name="one", actor="test")
    assert not issued.published
    assert Publication.objects.get(applied_at=None).version == issued.version
    assert publication.apply_pending() == 0
    away()
    assert publication.apply_pending() == 1
    assert stored(redis_connection, records.key_name(organization.id, issued.key.id))[0] == issued.version
    assert publication.apply_pending() == 0


def test_crash_between_commit_and_apply_is_mended_by_the_sweeper(organization, redis_connection, monkeypatch):
    issued = issuing.issue(organization=organization, name="one", actor="test")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_apply_committed", killed)
        with pytest.raises(KeyboardInterrupt):
            issuing.revoke(key=issued.key, actor="test")
    name = records.key_name(organization.id, issued.key.id)
    assert stored(redis_connection, name)[1]["revoked"] is False
    assert publication.apply_pending() == 1
    assert stored(redis_connection, name)[1]["revoked"] is True


def test_revoking_again_applies_what_the_first_time_could_not(organization, redis_connection, away):
    issued = issuing.issue(organization=organization, name="one", actor="test")
    assert not issuing.revoke(key=issued.key, actor="test").applied
    away()
    assert issuing.revoke(key=issued.key, actor="test").applied
    assert stored(redis_connection, records.key_name(organization.id, issued.key.id))[1]["revoked"] is True
    assert not Publication.objects.filter(applied_at=None).exists()


def test_one_subject_that_cannot_be_rendered_does_not_hold_up_the_others(house, redis_connection, away, monkeypatch):
    brands.pause(brand=house.brand, actor="test")
    issued = issuing.issue(organization=house.organization, name="one", actor="test")
    away()
    monkeypatch.setitem(publication._renderers, publication.BRAND, lambda brand_id: 1 / 0)
    assert publication.apply_pending() == 1
    assert redis_connection.exists(records.key_name(house.organization.id, issued.key.id))
    assert Publication.objects.get(applied_at=None).subject == publication.BRAND


def test_renderer_that_fails_leaves_the_change_done_and_pending(house, monkeypatch):
    monkeypatch.setitem(publication._renderers, publication.BRAND, lambda brand_id: 1 / 0)
    version = brands.pause(brand=house.brand, actor="test")
    assert version
    assert not version.applied
    assert Brand.objects.get(id=house.brand.id).state == Brand.State.PAUSED


def test_publication_of_a_row_that_is_gone_is_done(organization, away):
    issued = issuing.issue(organization=organization, name="one", actor="test")
    away()
    ApiKey.objects.filter(id=issued.key.id).delete()
    assert publication.apply_pending() == 1


@given(st.data())
def test_older_version_never_overwrites_a_newer_one(redis_connection, data):
    """Also past 2^53, where doubles cannot tell neighbours apart."""
    start = data.draw(st.sampled_from([1, 8, 97, 2**53 - 2, 10**15 - 2, 2**63 - 6]))
    versions = range(start, start + 5)
    order = data.draw(st.permutations([*versions, *versions]))
    redis_connection.delete("{s1}:key:1", "{s1}:policy")
    for version in order:
        redis_connection.eval(records.OFFER, 1, "{s1}:key:1", version, f"data {version}")
        redis_connection.eval(records.RAISE_VERSION, 1, "{s1}:policy", 9, version)
    newest = str(max(versions)).encode()
    assert redis_connection.hmget("{s1}:key:1", "v", "data") == [newest, b"data " + newest]
    assert redis_connection.hget("{s1}:policy", "9") == newest


@given(st.permutations(range(6)))
def test_any_order_of_late_publishers_ends_at_the_newest_row(redis_connection, order):
    """Each of several publishers read the row at its time and wrote when it got round to it."""
    rendered = [(version, f"row as of {version}") for version in range(100, 106)]
    redis_connection.flushall()
    with mock.patch.object(publication, "_check_not_ahead"):  # no database gave these versions out
        for place in order:
            publication._offer([("{s2}:key:2", *rendered[place])])
    assert redis_connection.hmget("{s2}:key:2", "v", "data") == [b"105", b"row as of 105"]


def test_offer_returns_what_stands(redis_connection):
    offer = ["7", "seven", "", ""]
    assert redis_connection.eval(records.OFFER, 2, "{s0}:a", "{s0}:b", *offer) == [b"7", b"seven", None, None]
    assert redis_connection.eval(records.OFFER, 2, "{s0}:a", "{s0}:b", "6", "six", "1", "one") == [
        *(b"7", b"seven", b"1", b"one")
    ]


def test_stale_instance_cannot_take_a_version_back(organization):
    organizations.suspend(organization=organization, reason="x", actor="test")
    stale = type(organization).objects.get(id=organization.id)
    stale.version = 0
    stale.save()
    stale.refresh_from_db()
    assert stale.version == organization.version > 0


def test_versions_of_one_subject_follow_its_commits(organization, database_url):
    """A second writer waits for the first to commit before it takes its version."""
    with psycopg.connect(database_url) as other, transaction.atomic():
        first = publication.record(publication.ORGANIZATION, organization.id)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT id FROM keys_organization WHERE id = %s FOR NO KEY UPDATE NOWAIT", [organization.id])
    with transaction.atomic():
        assert publication.record(publication.ORGANIZATION, organization.id) > first


def test_writers_and_sweepers_at_once_end_at_the_newest_row(organization, redis_connection):
    key = issuing.issue(organization=organization, name="one", actor="test").key

    def write(writer):
        try:
            for number in range(10):
                issuing.change(
                    key=key, actor="test", name=f"{writer}-{number}", scopes=["chat", "usage"][: 1 + number % 2]
                )
                publication.apply_pending(3)
        finally:
            connection.close()

    threads = [Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    publication.apply_pending()
    key.refresh_from_db()
    version, data = stored(redis_connection, records.key_name(organization.id, key.id))
    assert (version, data["scopes"]) == (key.version, key.scopes)
    assert Publication.objects.order_by("version").values_list("version", flat=True).last() == version
    assert not Publication.objects.filter(applied_at=None).exists()


@pytest.fixture
def impatient():
    """A connection that fails instead of waiting for another's lock."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '300ms'")
        yield
        cursor.execute("RESET lock_timeout")


def test_two_sweepers_share_the_work(organization, redis_connection, away, database_url, impatient):
    """What one holds the other leaves alone."""
    for number in range(4):
        issuing.issue(organization=organization, name=f"key {number}", actor="test")
    away()
    with psycopg.connect(database_url) as other:
        other.execute("SELECT version FROM keys_publication ORDER BY version LIMIT 3 FOR UPDATE SKIP LOCKED")
        assert publication.apply_pending() == 1
        assert len(redis_connection.keys("*:key:*")) == 1
    assert publication.apply_pending() == 3


def test_writer_does_not_wait_for_a_sweeper(organization, away, database_url, impatient):
    key = issuing.issue(organization=organization, name="one", actor="test").key
    away()
    with psycopg.connect(database_url) as sweeper:
        sweeper.execute("SELECT version FROM keys_publication FOR UPDATE")
        assert publication.apply(publication.KEY, key.id)
    assert publication.apply_pending() == 1


def test_brand_list_is_read_and_numbered_by_one_at_a_time(house, database_url, impatient):
    """Else a list read early could carry a version taken late, and stand over a newer one."""
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [publication._BRAND_LIST_LOCK])
        assert not publication.apply(publication.BRAND, house.brand.id)
    assert publication.apply(publication.BRAND, house.brand.id)


def test_brand_list_versions_grow_with_what_they_hold(house, redis_connection):
    seen = []
    for number in range(3):
        cast.brand(slug=f"other-{number}")
        publication.apply(publication.BRAND, house.brand.id)
        seen.append(stored(redis_connection, records.BRANDS))
    assert all(older[0] < newer[0] and len(older[1]) < len(newer[1]) for older, newer in pairwise(seen))


def test_rebuild_publishes_all_of_a_shard_and_nothing_of_others(house, redis_connection, monkeypatch):
    monkeypatch.setattr(publication, "BATCH", 3)
    mine, other = cast.organization(house.brand), cast.organization(house.brand)
    keys = [issuing.issue(organization=mine, name=f"key {n}", actor="test").key for n in range(7)]
    foreign = issuing.issue(organization=other, name="foreign", actor="test").key
    issuing.revoke(key=keys[0], actor="test")
    redis_connection.flushall()
    count = publication.apply_everything(mine.id % 64)
    assert count == 1 + 1 + 7
    assert stored(redis_connection, records.key_name(mine.id, keys[0].id))[1]["revoked"] is True
    assert all(redis_connection.exists(records.key_name(mine.id, key.id)) for key in keys)
    assert redis_connection.exists(records.organization_name(mine.id))
    assert redis_connection.hexists(records.policy_name(mine.id % 64), str(house.brand.id))
    assert not redis_connection.exists(records.key_name(other.id, foreign.id))


def test_redis_that_is_ahead_of_a_restored_database_is_said_never_believed(house, redis_connection, caplog):
    """Versions went back with the backup: a revoke would not stand in Redis, so it must not be called applied."""
    key = issuing.issue(organization=house.organization, name="one", actor="test").key
    future = 10**12
    redis_connection.hset(records.key_name(house.organization.id, key.id), "v", future)
    assert not issuing.revoke(key=key, actor="test").applied
    assert f"version {future}" in caplog.text
    assert publication.apply_pending() == 0
    with pytest.raises(publication.RedisAhead):
        publication.apply_everything(house.organization.id % 64)
    redis_connection.flushall()
    redis_connection.hset(records.policy_name(5), str(house.brand.id), future)
    assert not publication.apply(publication.BRAND, house.brand.id)
    redis_connection.flushall()
    assert publication.apply_pending() == 1


def test_rebuild_mends_a_record_that_redis_lost_after_it_was_applied(organization, redis_connection):
    """An append-only file without its last second: the publication says applied, the record is old."""
    issued = issuing.issue(organization=organization, name="one", actor="test")
    name = records.key_name(organization.id, issued.key.id)
    old = redis_connection.hgetall(name)
    issuing.revoke(key=issued.key, actor="test")
    redis_connection.hset(name, mapping=old)
    assert publication.apply_pending() == 0
    publication.apply_everything(organization.id % 64)
    assert stored(redis_connection, name)[1]["revoked"] is True


def test_reading_a_shard_uses_its_indexes(organization):
    for _ in range(300):
        other = cast.organization(organization.brand)
        ApiKey.objects.create(
            organization=other, name="key", digest=os.urandom(32), pepper_version=1, hint=f"ak-…{other.pk}"
        )
    with connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute("ANALYZE keys_organization, keys_apikey")  # of enough rows that a shard's are few
        for sql, index in (
            (publication._organizations_of_shard(), "organization_by_shard"),
            (publication._keys_of_shard(), "api_key_by_shard"),
        ):
            cursor.execute("EXPLAIN " + sql, [1, 0, 10])
            assert index in str(cursor.fetchall())
        cursor.execute("RESET enable_seqscan")


def test_applied_publications_are_forgotten_in_time_and_pending_ones_kept(organization, away):
    issuing.issue(organization=organization, name="pending", actor="test")
    away()
    issuing.issue(organization=organization, name="applied", actor="test")
    assert publication.forget_applied(timezone.now() - timedelta(hours=1)) == 0
    assert publication.forget_applied(timezone.now() + timedelta(hours=1)) == 1
    assert Publication.objects.get().applied_at is None


def test_database_that_breaks_while_applying_leaves_the_change_pending(organization, monkeypatch):
    def broken(*_):
        raise OperationalError("gone")

    monkeypatch.setattr(publication, "_row", broken)
    assert not issuing.issue(organization=organization, name="one", actor="test").published


@pytest.mark.django_db(transaction=True)
def test_many_changes_of_one_transaction_are_brought_up_once(monkeypatch):
    brand = cast.brand()
    rendered: list[int] = []
    render = publication._renderers["brand"]

    def counting(brand_id: int) -> tuple[int, bytes]:
        rendered.append(brand_id)
        return render(brand_id)

    monkeypatch.setitem(publication._renderers, "brand", counting)
    with transaction.atomic():
        versions = [publication.record("brand", brand.id) for _ in range(5)]
    assert all(version.applied for version in versions)
    assert rendered == [brand.id]
    assert not Publication.objects.filter(applied_at=None).exists()
    with transaction.atomic():
        assert not publication.record("brand", brand.id).applied
    assert len(rendered) == 2
