"""Engines, models and their routes: who may use what, and that every change reaches the brands it touches."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from billing import catalogue, engines
from billing.models import Engine, Model
from billing.snapshot import Capabilities
from keys import sealing
from keys.models import AuditEvent
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
