"""The demo that a first start makes, and every later start finds again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.hashers import check_password

from billing import engines, ledger, rebuild
from billing.models import Engine, Model, ModelEngine, Rate, Tier, TierAssignment
from keys import brands, issuing, organizations
from keys.connections import redis_client
from keys.models import ApiKey, Brand, Organization, User
from portal.demo.seed import seed
from tests.conftest import empty_tables
from tests.llamacpp import llamacpp

PLACES = {"base_url": "http://localhost:8000", "engine_url": "http://127.0.0.1:9/v1"}
BASE_URLS = {
    "dialogix": "http://localhost:8000/dialogix/v1",
    "aionlabs": "http://localhost:8000/aionlabs/v1",
    "axione": "http://localhost:8000/axione/api/v1",
    "aimichat": "http://localhost:8000/aimichat/v1",
    "aione": "http://localhost:8000/aione/v1",
}
PREFIXES = {"dialogix": "ak-", "aionlabs": "al-", "axione": "sk-", "aimichat": "aimichat_", "aione": "sk-aione-"}
KEYS = {"second", "other", "revoked", "exhausted", "restricted", "free", "pro", "test"}
MODELS = {"loading", "broken", "misconfigured", "reasoning"}


@pytest.fixture(scope="module")
def first(django_db_setup: None, django_db_blocker: Any, redis_connection: redis.Redis) -> Iterator[dict[str, Any]]:
    """What the first start said. It is committed, as in life; what a test does after it is rolled back."""
    with django_db_blocker.unblock():
        redis_connection.flushall()
        rebuild.ensure_epochs(redis_client())
        try:
            yield seed(**PLACES)
        finally:
            empty_tables()


@pytest.fixture
def nothing(transactional_db: None) -> None:
    """No start was before."""
    empty_tables()
    rebuild.ensure_epochs(redis_client())


def key_of(secret: str) -> ApiKey:
    key = issuing.existing(secret)
    assert key is not None
    return key


def test_a_customer_is_found_again_under_another_slug(first, db):
    """Operators may change it; its credit is posted under the first."""
    renamed = Organization.objects.get(brand__slug="dialogix", slug="demo")
    organizations.change(organization=renamed, slug="acme", actor="test")
    before = Organization.objects.count()
    assert seed(**PLACES)["brands"]["dialogix"]["api_key"] == first["brands"]["dialogix"]["api_key"]
    assert Organization.objects.count() == before
    assert Organization.objects.get(pk=renamed.pk).slug == "acme"


def test_demo_json_has_what_other_programs_rely_on(first, db):
    facts = first
    assert {slug: brand["base_url"] for slug, brand in facts["brands"].items()} == BASE_URLS
    for slug, brand in facts["brands"].items():
        assert brand["host"] == f"{slug}.localhost"
        assert brand["api_key"].startswith(PREFIXES[slug])
        assert set(brand["keys"]) == KEYS
        assert set(brand["models"]) >= MODELS
        assert check_password(brand["password"], User.objects.get(email=brand["email"]).password)
        check_states(slug, brand)
    assert check_password(facts["admin"]["password"], User.objects.get(email=facts["admin"]["email"]).password)


def check_states(slug: str, brand: dict[str, Any]) -> None:
    """Each key belongs to its brand and is in its state; each model is sold, and in its."""
    keys = {name: key_of(secret) for name, secret in (brand["keys"] | {"api_key": brand["api_key"]}).items()}
    assert {key.organization.brand.slug for key in keys.values()} == {slug}
    assert keys["revoked"].revoked_at is not None
    assert keys["second"].organization == keys["api_key"].organization != keys["other"].organization
    assert keys["test"].mode == "test"
    assert keys["restricted"].model_slugs is not None
    assert brand["model"] not in keys["restricted"].model_slugs
    models = {model.slug: model for model in Model.objects.filter(brand__slug=slug)}
    assert {brand["model"], *brand["models"].values()} <= models.keys()
    assert not models[brand["models"]["misconfigured"]].routes.exists()
    assert models[brand["models"]["reasoning"]].is_reasoning
    assert Rate.objects.filter(model__brand__slug=slug).count() == len(models)


def test_the_demo_key_has_room_for_a_million_calls(first, db):
    for slug, brand in first["brands"].items():
        organization = key_of(brand["api_key"]).organization
        tier = Tier.objects.get(assignments__organization=organization)
        counted = tier.limits.exclude(unit="concurrent").exclude(unit="nanos")
        assert all(limit.amount >= 10**6 for limit in counted), slug
        assert tier.payer == "included" or ledger.balance_nanos(organization) == 10**15, slug


def test_a_second_start_finds_everything_and_doubles_nothing(first, db):
    tables = (ApiKey, Organization, Model, ModelEngine, TierAssignment, Rate, Tier, Brand, Engine)
    before = [list(table.objects.order_by("pk").values()) for table in tables]
    assert seed(**PLACES) == first
    assert before == [list(table.objects.order_by("pk").values()) for table in tables]
    demo = Organization.objects.get(slug="demo", brand__slug="dialogix")
    assert ledger.balance_nanos(demo) == 10**15


def test_what_people_changed_stays(first, db):
    brand = Brand.objects.get(slug="axione")
    model = Model.objects.get(slug="openai/gpt-4o")
    other = engines.register(name="mine", kind="vllm", base_url="http://127.0.0.1:7/v1", actor="test")
    brands.change(brand=brand, actor="test", name="Mine", base_paths=["/v1"])
    engines.set_route(model=model, engine=other, name_there="gpt", actor="test")
    engines.remove_route(route=model.routes.get(engine__name="demo"), actor="test")
    engines.change_model(model=model, actor="test", context_length=100_000)
    facts = seed(base_url=PLACES["base_url"], engine_url="http://127.0.0.1:10/v1")
    assert facts["brands"]["axione"]["base_url"] == "http://localhost:8000/axione/v1"
    model.refresh_from_db()
    assert (model.context_length, model.routes.get().engine) == (100_000, other)
    assert Engine.objects.get(name="demo").base_url == "http://127.0.0.1:10/v1"  # where it is now


def test_a_password_that_somebody_changed_is_the_demos_again(first, db):
    user = User.objects.get(email=first["admin"]["email"])
    user.set_password("mine")
    user.save()
    seed(**PLACES)
    user.refresh_from_db()
    assert user.check_password(first["admin"]["password"])


def test_a_demo_key_that_somebody_revoked_gets_a_successor(first, db):
    revoked = first["brands"]["dialogix"]["api_key"]
    issuing.revoke(key=key_of(revoked), actor="test")
    second = seed(**PLACES)["brands"]["dialogix"]["api_key"]
    assert second != revoked
    assert seed(**PLACES)["brands"]["dialogix"]["api_key"] == second


def test_a_real_engine_is_asked_what_it_can_do(nothing, settings, tmp_path):
    """llama.cpp's server: shorter than the demo's models, counts with timings, knows one name whatever is asked."""
    with llamacpp(tmp_path) as real:
        settings.DEMO_INFERENCE_URL, settings.DEMO_INFERENCE_MODEL = real.base_url, ""
        seed(**PLACES)
    model = Model.objects.get(slug="aion-v3")
    route = model.routes.select_related("engine").get()
    assert (route.engine.kind, route.name_there) == ("llamacpp", "tiny-random")
    assert route.engine.capabilities["running_usage"] == "timings_per_token"
    assert (model.context_length, model.max_completion_tokens, model.default_max_tokens) == (4096, 4096, 2048)
    seed(**PLACES)  # it is gone now, and stays as it was known
    assert Model.objects.get(slug="aion-v3").routes.get().engine.kind == "llamacpp"


def test_a_real_engine_stands_behind_the_ordinary_models_of_all_brands(nothing, settings):
    settings.DEMO_INFERENCE_URL, settings.DEMO_INFERENCE_MODEL = "http://127.0.0.1:8/v1", "qwen"
    facts = seed(**PLACES)
    for slug, brand in facts["brands"].items():
        served = ModelEngine.objects.filter(model__brand__slug=slug).select_related("engine", "model")
        by_model = {route.model.slug: (route.engine.base_url, route.name_there) for route in served}
        assert by_model[brand["model"]] == ("http://127.0.0.1:8/v1", "qwen")
        special = [by_model[model] for state, model in brand["models"].items() if state != "misconfigured"]
        assert {url for url, _ in special} == {PLACES["engine_url"]}
    assert ModelEngine.objects.get(model__slug="aion-embed").engine.name == "demo"
    settings.DEMO_INFERENCE_URL = ""
    seed(**PLACES)
    assert ModelEngine.objects.get(model__slug="aion-v3").name_there == "demo-chat"
    assert set(ModelEngine.objects.values_list("engine__name", flat=True)) == {"demo"}
