"""Engines, models and their routes: who may use what, and that every change reaches the brands it touches."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import msgspec
import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from billing import catalogue, engines, ladder
from billing.models import Engine, Model, Tier
from billing.snapshot import Capabilities, Snapshot
from keys import brands, issuing, records, sealing
from keys.models import AuditEvent, Publication
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)

URL = "http://gpu-1:8000/v1"


def engine(**fields):
    usual = {"name": "gpu-1", "kind": "vllm", "base_url": URL, "actor": "test"}
    return engines.register(**(usual | fields))


def draft(brand, on, slug="m", **fields):
    return engines.draft_model(
        brand=brand, slug=slug, engine=on, name_there="there/m", context_length=8192, actor="test", **fields
    )


def test_engine_is_kept_with_its_key_sealed_and_reaches_the_snapshot():
    brand = cast.brand()
    known = Capabilities(reports_cached=True, running_usage="continuous_usage_stats", extra_fields=("top_k",))
    row = engine(api_key="secret", capabilities=known, headers={"X-Pool": "blue"})
    model, is_new = draft(brand, row, features=["chat"])
    assert is_new
    snapshot = catalogue.build(brand.id)
    (record,) = snapshot.engines
    assert sealing.open_text(record.api_key) == "secret"
    assert b"secret" not in bytes(row.api_key_sealed or b"")
    assert (record.capabilities, record.headers, record.base_url) == (known, {"X-Pool": "blue"}, URL)
    assert [(route.engine_id, route.name_there) for route in snapshot.models[0].routes] == [(row.id, "there/m")]
    assert model.default_max_tokens == 4096
    assert snapshot.version == Model.objects.get().brand.version


def test_engine_change_is_published_to_every_brand_it_serves():
    brands = [cast.brand(), cast.brand()]
    row = engine()
    for brand in brands:
        draft(brand, row)
    before = [catalogue.build(brand.id).version for brand in brands]
    engines.change(engine=row, state=Engine.State.DRAINING, actor="test")
    after = [catalogue.build(brand.id) for brand in brands]
    assert all(now.version > then for now, then in zip(after, before, strict=True))
    assert {now.engines[0].state for now in after} == {"draining"}
    engines.change(engine=row, state=Engine.State.DRAINING, actor="test")
    assert catalogue.build(brands[0].id).version == after[0].version


def test_engine_key_can_be_changed_and_removed():
    row = engine(api_key="one")
    engines.change(engine=row, api_key="two", actor="test")
    assert sealing.open_text(bytes(row.api_key_sealed).decode()) == "two"
    engines.change(engine=row, api_key="", actor="test")
    assert row.api_key_sealed is None
    assert "two" not in str(list(AuditEvent.objects.values()))


def test_second_engine_joins_a_model_that_exists():
    brand = cast.brand()
    first, second = engine(), engine(name="gpu-2", base_url="http://gpu-2:8000/v1")
    draft(brand, first)
    model, is_new = draft(brand, second)
    assert not is_new
    assert {route.engine for route in model.routes.all()} == {first, second}
    engines.remove_route(route=model.routes.get(engine=first), actor="test")
    assert [record.id for record in catalogue.build(brand.id).engines] == [second.id]


def test_engine_of_one_brand_serves_no_other():
    mine, other = cast.brand(), cast.brand()
    row = engine(brand=mine)
    with pytest.raises(ValidationError, match="another brand"):
        draft(other, row)
    assert not Model.objects.exists()


def test_names_mean_one_model():
    brand = cast.brand()
    row = engine()
    draft(brand, row, slug="a", aliases=["b"])
    with pytest.raises(ValidationError, match="a's already"):
        draft(brand, row, slug="b")
    model, _ = draft(brand, row, slug="c")
    with pytest.raises(ValidationError, match="a's already"):
        engines.change_model(model=model, aliases=["a"], actor="test")


def test_maintenance_holds_in_the_snapshot():
    brand = cast.brand()
    model, _ = draft(brand, engine())
    engines.change_model(model=model, state=Model.State.MAINTENANCE, maintenance_message="back at 9", actor="test")
    record = catalogue.build(brand.id).models[0]
    assert (record.state, record.maintenance_message) == ("maintenance", "back at 9")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"base_url": "ftp://x/v1"}, "base_url"),
        ({"base_url": "http://user:secret@x/v1"}, "base_url"),
        ({"base_url": "http://x/v1?a=b"}, "base_url"),
        ({"kind": "magic"}, "kind"),
        ({"headers": {"X-A": "b\r\nX-Evil: c"}}, "headers"),
        ({"headers": {"Authorization": "x"}}, "headers"),
        ({"headers": {"X A": "b"}}, "headers"),
        ({"headers": {"X-A": 1}}, "headers"),
        ({"name": "No Slug"}, "name"),
        ({"max_in_flight": 0}, "__all__"),
        ({"base_url": "http://:secret@x/v1"}, "base_url"),
        ({"base_url": "http://x:port/v1"}, "base_url"),
        ({"base_url": "http://x/v 1"}, "base_url"),
        ({"base_url": "http://[::1/v1"}, "base_url"),
    ],
)
def test_wrong_engine_is_refused_by_the_name_of_the_field(fields, field):
    with pytest.raises(ValidationError) as refused:
        engine(**fields)
    assert field in refused.value.message_dict
    assert not Engine.objects.exists()


def test_capabilities_that_the_catalogue_cannot_read_are_refused():
    row = engine()
    with pytest.raises(ValidationError, match="capabilities"):
        engines.change(engine=row, capabilities={"tokenize": 7}, actor="test")


def test_free_names():
    assert engines.free_name("http://GPU-1.example.com:8000/v1", "vllm") == "gpu-1-example-com"
    assert engines.free_name("http://127.0.0.1:8000/v1", "vllm") == "vllm"
    engine(name="vllm")
    engine(name="vllm-2")
    assert engines.free_name("http://10.0.0.1/v1", "vllm") == "vllm-3"


def test_an_engine_that_serves_another_brand_stays_everybodys():
    mine, other = cast.brand(), cast.brand()
    row = engine()
    draft(other, row)
    with pytest.raises(ValidationError, match="remove that route first"):
        engines.change(engine=row, brand=mine, actor="test")
    engines.change(engine=row, brand=other, actor="test")
    assert AuditEvent.objects.get(action="engine.changed").after == {"brand": other.slug}


def test_headers_may_be_secrets_so_the_trail_has_their_names_only():
    row = engine(headers={"X-Team": "hush-1"})
    engines.change(engine=row, headers={"X-Team": "hush-2"}, actor="test")
    assert AuditEvent.objects.get(action="engine.changed").after == {"headers": ["X-Team"]}
    assert "hush" not in str(list(AuditEvent.objects.values()))


def test_versions_tell_whether_redis_has_a_change(redis_connection):
    first, second = cast.brand(), cast.brand()
    row = engine()
    assert engines.change(engine=row, weight=2, actor="test") == ()
    models = [draft(brand, row)[0] for brand in (first, second)]
    versions = engines.change(engine=row, weight=3, actor="test")
    assert len(versions) == 2
    assert all(version.applied for version in versions)
    version = engines.change_model(model=models[0], name="New", actor="test")
    assert version is not None
    assert version.applied
    assert engines.change_model(model=models[0], name="New", actor="test") is None
    standing = redis_connection.hget(records.brand_name(first.id), "data")
    assert msgspec.json.decode(standing, type=Snapshot).models[0].name == "New"


def test_what_is_not_to_be_changed_is_not():
    model, _ = draft(cast.brand(), engine())
    with pytest.raises(TypeError, match="brand"):
        engines.change_model(model=model, brand=cast.brand(), actor="test")
    with pytest.raises(TypeError, match="api_key_sealed"):
        engines.change(engine=Engine.objects.get(), api_key_sealed=b"x", actor="test")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"modalities": {"image_url": "1600"}}, "modalities"),
        ({"modalities": {"image_url": 0}}, "modalities"),
        ({"modalities": ["image_url"]}, "modalities"),
        ({"default_max_tokens": 0}, "default_max_tokens"),
        ({"default_max_tokens": 9000}, "__all__"),
        ({"context_length": 0}, "__all__"),
        ({"first_byte_ms": 0}, "first_byte_ms"),
        ({"slug": "a b"}, "slug"),
        ({"slug": ""}, "slug"),
        ({"aliases": ["a\nb"]}, "aliases"),
        ({"state": "asleep"}, "state"),
    ],
)
def test_wrong_model_is_refused_by_the_name_of_the_field(fields, field):
    """A snapshot that workers cannot read would hold up the whole brand."""
    model, _ = draft(cast.brand(), engine())
    with pytest.raises(ValidationError) as refused:
        engines.change_model(model=model, actor="test", **fields)
    assert field in refused.value.message_dict
    with pytest.raises(ValidationError):
        engines.create_model(
            brand=cast.brand(), actor="test", **({"slug": "n", "context_length": 8192, **fields} | fields)
        )


def test_model_of_a_form_has_no_engine_yet():
    brand = cast.brand()
    model = engines.create_model(brand=brand, slug="m", context_length=2048, released_on=date(2026, 1, 2), actor="test")
    assert (model.name, model.max_completion_tokens, model.default_max_tokens) == ("m", 2048, 2048)
    record = catalogue.build(brand.id).models[0]
    assert (record.created, record.routes) == (1_767_312_000, ())
    engines.change_model(model=model, released_on=date(2026, 1, 3), actor="test")
    assert AuditEvent.objects.get(action="model.changed").after == {"released_on": "2026-01-03"}
    row = engine()
    route = engines.set_route(model=model, engine=row, name_there="there", actor="test")
    assert engines.set_route(model=model, engine=row, name_there="elsewhere", actor="test") == route
    assert catalogue.build(brand.id).models[0].routes[0].name_there == "elsewhere"
    with pytest.raises(ValidationError, match="name_there"):
        engines.set_route(model=model, engine=row, name_there="", actor="test")


def test_a_slug_is_not_changed_under_those_who_name_it():
    brand = cast.brand()
    model, _ = draft(brand, engine(), slug="old")

    def rename(to, **more):
        engines.change_model(model=model, slug=to, actor="test", **more)

    tier = ladder.save_tier(Tier(brand=brand, rank=1, slug="pro", name="Pro", model_slugs=["old"]), actor="test")
    with pytest.raises(ValidationError, match="Tier pro names old"):
        rename("new")
    tier.model_slugs = None
    ladder.save_tier(tier, actor="test")
    key = issuing.issue(organization=cast.organization(brand), name="k", model_slugs=["old"], actor="test").key
    with pytest.raises(ValidationError, match="1 keys are for old only"):
        rename("new")
    issuing.revoke(key=key, actor="test")
    brands.change(brand=brand, default_model="old", actor="test")
    with pytest.raises(ValidationError, match="default model"):
        rename("new")
    rename("new", aliases=["old"])
    assert catalogue.build(brand.id).models_by_name["old"].slug == "new"


def test_engines_and_routes_changed_at_once_neither_wait_in_a_circle_nor_miss_a_brand(redis_connection):
    """The last state of the engine stands in the snapshot of every brand it serves, whoever came first."""
    rows = [engine(), engine(name="gpu-2", base_url="http://gpu-2:8000/v1")]
    models = [draft(cast.brand(), rows[0])[0] for _ in range(3)]
    gate = threading.Barrier(5)

    def change(number: int) -> None:
        for weight in range(1, 6):
            engines.change(engine=rows[number], weight=weight, actor="test")

    def serve(number: int) -> None:
        for row, name in itertools.product(rows, "ab"):
            engines.set_route(model=models[number], engine=row, name_there=name, actor="test")

    def run(work: object, number: int) -> None:
        try:
            gate.wait(10)
            work(number)  # type: ignore[operator]
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as threads:
        jobs = [threads.submit(run, change, 0), threads.submit(run, change, 1)]
        jobs += [threads.submit(run, serve, number) for number in range(3)]
        for job in jobs:
            job.result(60)
    for model in models:
        data = redis_connection.hget(records.brand_name(model.brand_id), "data")
        assert [record.weight for record in msgspec.json.decode(data, type=Snapshot).engines] == [5, 5]
    assert not Publication.objects.filter(applied_at=None).exists()
