"""From rows to what a worker holds, through real PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis.asyncio
from asgiref.sync import sync_to_async
from django.utils import timezone

from billing import catalogue, engines, prices
from billing.catalogue import BrandUnknown, Catalogue
from billing.models import Model, Rate
from billing.snapshot import BrandRecord, Snapshot
from keys import brands, publication, records
from tests import cast
from tests.keys.threads import in_thread

pytestmark = pytest.mark.django_db(transaction=True)

change_model = in_thread(engines.change_model)
change_brand = in_thread(brands.change)
create_brand = in_thread(brands.create)


@pytest.fixture
def brand():
    return cast.brand()


@pytest.fixture
def model(brand):
    engine = engines.register(name="gpu", kind="vllm", base_url="http://gpu:8000/v1", actor="test")
    sold, _ = engines.draft_model(
        brand=brand, slug="m", engine=engine, name_there="there", context_length=8192, actor="test"
    )
    prices.set_price(model=sold, per_million={"input": "0.20", "output": "0.40"}, actor="test")
    return sold


@pytest.fixture
async def client(settings):
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    yield client
    await client.aclose()


@pytest.fixture
async def held(client):
    held = Catalogue(client, brands_age_seconds_max=0.05)
    yield held
    await held.close()


async def in_time(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def test_a_snapshot_is_the_same_after_its_way_through_redis(brand, model):
    version, data = catalogue.render(brand.id)
    decoded = msgspec.json.decode(data, type=Snapshot)
    assert decoded == catalogue.build(brand.id)
    assert decoded.version == version
    (sold,) = decoded.models
    assert decoded.engines_by_id[sold.routes[0].engine_id].name == "gpu"
    assert (sold.rates[0].input_picos, sold.rates[0].output_picos) == (200_000, 400_000)
    assert decoded.models_by_name["m"] is sold
    assert (sold.created, sold.features) == (int(model.created_at.timestamp()), ())


def test_every_column_that_a_worker_needs_is_in_its_record(brand, model):
    """A column added to a row and its record, but forgotten between them, would silently keep its default."""
    changed: dict[str, Any] = {
        "name": "Name",
        "description": "Words",
        "owned_by": "us",
        "default_max_tokens": 7,
        "max_completion_tokens": 77,
        "modalities": {"image_url": 1600},
        "tokens_per_message": 5,
        "tokens_per_call": 6,
        "modality": "text->image",
        "images_per_call_max": 4,
        "is_moderated": True,
        "is_reasoning": True,
        "state": "maintenance",
        "maintenance_message": "back soon",
        "connect_ms": 1,
        "first_byte_ms": 2,
        "idle_ms": 3,
        "total_ms": 4,
    }
    engines.change_model(model=model, actor="test", aliases=["n"], features=["chat"], extra_fields=["top_k"], **changed)
    Model.objects.update(released_on=date(2026, 1, 2))
    (record,) = catalogue.build(brand.id).models
    assert {name: getattr(record, name) for name in changed} == changed
    assert (record.aliases, record.features, record.extra_fields) == (("n",), ("chat",), ("top_k",))
    assert record.created == int(datetime(2026, 1, 2, tzinfo=UTC).timestamp())
    assert {*changed, "id", "slug", "context_length", "aliases", "features", "extra_fields", "created", "routes",
            "rates"} == set(record.__struct_fields__)  # fmt: skip


def test_brand_records_have_the_fields_that_keys_publishes():
    assert set(BrandRecord.__struct_fields__) == set(records.BRAND_FIELDS)


def test_prices_to_come_are_held_and_old_ones_are_left(brand, model):
    now = timezone.now()
    Rate.objects.create(
        model=model,
        effective_from=now - timedelta(days=9),
        effective_until=now - timedelta(days=2),
        input_picos=1,
        output_picos=1,
    )
    later = prices.set_price(
        model=model,
        per_million={"input": "1", "output": "1"},
        effective_from=now + timedelta(days=1),
        actor="test",
    )
    (record,) = catalogue.build(brand.id).models
    assert [rate.input_picos for rate in record.rates] == [200_000, 1_000_000]
    assert record.rates[0].until_ms == record.rates[1].from_ms == catalogue.milliseconds(later.effective_from)


def test_milliseconds_are_exact():
    moment = datetime(2026, 11, 21, 12, 0, 0, 999_999, tzinfo=UTC)
    assert catalogue.milliseconds(moment) == 1_795_262_400_999


async def test_a_worker_learns_of_a_change_when_it_reloads(brand, model, held):
    before = await held.snapshot(brand.id)
    assert before is await held.snapshot(brand.id)
    await change_model(model=model, state=Model.State.MAINTENANCE, actor="test")
    assert await held.snapshot(brand.id) is before
    after = await held.reload(brand.id)
    assert (after.models[0].state, after.version > before.version) == ("maintenance", True)
    assert await held.snapshot(brand.id) is after


async def test_an_emptied_redis_is_filled_from_the_rows(brand, model, held, redis_connection):
    redis_connection.flushall()
    assert (await held.snapshot(brand.id)).models[0].slug == "m"
    redis_connection.flushall()
    assert [found.slug for found in await held.refresh_brands()] == [brand.slug]
    assert redis_connection.exists(records.brand_name(brand.id))


async def test_a_brand_that_does_not_exist_is_said_to_be_unknown(held):
    with pytest.raises(BrandUnknown):
        await held.snapshot(999)
    assert await held.refresh_brands() == ()


async def test_callers_that_ask_during_a_load_share_the_next_one(brand, model, held, monkeypatch):
    await held.snapshot(brand.id)
    loads, load, gate = [], held._load, asyncio.Event()

    async def slow(brand_id):
        found = await load(brand_id)
        loads.append(found.version)
        await gate.wait()
        return found

    monkeypatch.setattr(held, "_load", slow)
    first = asyncio.create_task(held.reload(brand.id))
    await in_time(lambda: loads)
    await change_model(model=model, state=Model.State.MAINTENANCE, actor="test")
    late = [asyncio.create_task(held.reload(brand.id)) for _ in range(5)]
    await asyncio.sleep(0)
    gate.set()
    assert (await first).models[0].state == "live"
    assert {found.models[0].state for found in await asyncio.gather(*late)} == {"maintenance"}
    assert len(loads) == 2


async def test_a_load_that_fails_fails_only_its_own_caller(brand, model, held, monkeypatch):
    await held.snapshot(brand.id)
    load, failures = held._load, iter([redis.ConnectionError("away")])

    async def failing_once(brand_id):
        await asyncio.sleep(0.01)
        for failure in failures:
            raise failure
        return await load(brand_id)

    monkeypatch.setattr(held, "_load", failing_once)
    answers = await asyncio.gather(*(held.reload(brand.id) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [redis.ConnectionError, Snapshot, Snapshot]


async def test_the_list_of_brands_follows_within_moments(brand, held):
    await held.start()
    await sync_to_async(publication.apply)(publication.BRAND, brand.id)
    await in_time(held.brands)
    known = held.brands()
    await asyncio.sleep(0.15)
    assert held.brands() is known, "the same tuple until something changes"
    await change_brand(brand=brand, hosts=["new.example"], actor="test")
    await in_time(lambda: held.brands()[0].hosts == ("new.example",))
    await create_brand(slug="second", name="Second", key_prefix="s-", schemes=["bearer"], actor="test")
    await in_time(lambda: len(held.brands()) == 2)


async def test_looks_for_an_unknown_host_are_a_fifth_of_a_second_apart_and_shared(brand, client, monkeypatch):
    held = Catalogue(client)
    asked = []

    async def load_brands():
        asked.append(asyncio.get_running_loop().time())

    monkeypatch.setattr(held, "_load_brands", load_brands)
    await held.refresh_brands()
    await asyncio.gather(*(held.refresh_brands() for _ in range(50)))
    assert len(asked) == 2
    assert asked[1] - asked[0] >= catalogue.ASKED_SECONDS_MIN - 0.01


async def test_who_looks_sees_a_brand_that_was_made_before_however_recent_the_last_look(brand, held):
    await held.refresh_brands()
    await create_brand(slug="second", name="Second", key_prefix="s-", schemes=["bearer"], actor="test")
    assert {found.slug for found in await held.refresh_brands()} == {brand.slug, "second"}


async def test_a_look_that_fails_is_heard_by_all_who_wait_and_the_next_one_works(brand, held, client, monkeypatch):
    async def hmget(*_):
        raise redis.ConnectionError("away")

    with monkeypatch.context() as broken:
        broken.setattr(client, "hmget", hmget)
        heard = await asyncio.gather(*(held.refresh_brands() for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in heard] == [redis.ConnectionError] * 3
    assert [found.slug for found in await held.refresh_brands()] == [brand.slug]


async def test_a_redis_that_is_away_leaves_the_brands_as_they_were(brand, held, client, monkeypatch, caplog):
    await sync_to_async(publication.apply)(publication.BRAND, brand.id)
    await held.start()
    known = held.brands()
    assert known

    async def hmget(*_):
        raise redis.ConnectionError("away")

    with monkeypatch.context() as broken:
        broken.setattr(client, "hmget", hmget)
        await in_time(lambda: "stays as it was" in caplog.text)
    assert held.brands() is known
    await change_brand(brand=brand, name="Renamed", actor="test")
    await in_time(lambda: held.brands()[0].name == "Renamed")
