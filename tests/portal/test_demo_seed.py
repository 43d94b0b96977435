"""The demo that a first start makes, and every later start finds again."""

from __future__ import annotations

import pytest

from billing import ledger, rebuild
from billing.models import Model, TierAssignment
from keys import issuing
from keys.connections import redis_client
from keys.models import ApiKey, Organization
from portal.demo.seed import seed
from tests.llamacpp import llamacpp

PLACES = {"base_url": "http://localhost:8000", "engine_url": "http://127.0.0.1:9/v1"}
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def open_shards(db):
    rebuild.ensure_epochs(redis_client())


def test_demo_json_has_what_other_programs_rely_on():
    brand = seed(**PLACES)["brands"]["dialogix"]
    assert brand["base_url"] == "http://localhost:8000/dialogix/v1"
    assert brand["host"] == "dialogix.localhost"
    assert brand["api_key"].startswith("ak-")
    assert set(brand["keys"]) == {"second", "other", "revoked", "exhausted", "restricted", "free", "pro"}
    assert set(brand["models"]) == {"loading", "broken", "misconfigured", "reasoning"}
    key = issuing.existing(brand["api_key"])
    assert key is not None
    assert ledger.balance_nanos(key.organization) == 10**15
    revoked = issuing.existing(brand["keys"]["revoked"])
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert not Model.objects.get(slug="aion-v3-misconfigured").routes.exists()


def test_a_second_start_finds_everything_and_doubles_nothing():
    first = seed(**PLACES)
    counted = [(kind, kind.objects.count()) for kind in (ApiKey, Organization, Model, TierAssignment)]
    assert seed(**PLACES) == first
    assert counted == [(kind, kind.objects.count()) for kind in (ApiKey, Organization, Model, TierAssignment)]
    demo = Organization.objects.get(slug="demo")
    assert ledger.balance_nanos(demo) == 10**15


def test_a_demo_key_that_somebody_revoked_gets_a_successor():
    first = seed(**PLACES)["brands"]["dialogix"]["api_key"]
    key = issuing.existing(first)
    assert key is not None
    issuing.revoke(key=key, actor="test")
    second = seed(**PLACES)["brands"]["dialogix"]["api_key"]
    assert second != first
    assert seed(**PLACES)["brands"]["dialogix"]["api_key"] == second


def test_a_real_engine_is_asked_what_it_can_do(settings, tmp_path):
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


def test_a_real_engine_stands_behind_the_ordinary_models(settings):
    settings.DEMO_INFERENCE_URL, settings.DEMO_INFERENCE_MODEL = "http://127.0.0.1:8/v1", "qwen"
    seed(**PLACES)
    route = Model.objects.get(slug="aion-v3").routes.select_related("engine").get()
    assert (route.engine.base_url, route.name_there) == ("http://127.0.0.1:8/v1", "qwen")
    assert Model.objects.get(slug="aion-v3-loading").routes.get().engine.name == "demo"
    settings.DEMO_INFERENCE_URL = ""
    seed(**PLACES)
    assert Model.objects.get(slug="aion-v3").routes.get().engine.name == "demo"
