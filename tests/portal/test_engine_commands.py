"""Your own engine in three commands: manage.py brand new, engine add, price set."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from billing import catalogue, engine_costs, ledger, pricing
from billing.models import Engine, Model, ModelEngine
from keys.models import Brand, Organization
from tests import cast
from tests.inference import demo_engine

pytestmark = pytest.mark.django_db(transaction=True)


def run(*words: str) -> str:
    said = io.StringIO()
    call_command(*words, stdout=said, stderr=said)
    return said.getvalue()


@pytest.fixture(scope="module")
def inference():
    with demo_engine() as running:
        yield running


def test_three_commands_from_nothing_to_a_priced_model(inference):
    said = run("brand", "new", "acme")
    assert "/acme/v1" in said
    brand = Brand.objects.get(slug="acme")
    house = Organization.objects.get(brand=brand, slug="acme")
    assert ledger.balance_nanos(house) == 10 * 10**9
    said = run("engine", "add", inference.root, "--brand", "acme", "--input-price", "0.20", "--output-price", "0.40")
    assert "Engine vllm (vllm)" in said
    assert "has a tokenizer" in said
    assert "Model demo-chat drafted: context 32,768; chat, completions, tools. Live, input 0.20, output 0.40" in said
    assert "demo-broken: left out, it answered 500" in said
    snapshot = catalogue.build(brand.id)
    record = next(model for model in snapshot.models if model.slug == "demo-chat")
    assert pricing.complete(record.rates[0])
    assert (record.tokens_per_message, record.tokens_per_call) == (16, 64)
    assert snapshot.engines[0].capabilities.running_usage == "continuous_usage_stats"
    working = {"demo-chat", "demo-large", "demo-vast", "demo-reasoning", "demo-embed", "demo-image"}
    assert {model.slug for model in snapshot.models} == working
    assert run("issue_key", "--brand", "acme", "--organization", "acme").startswith("acme-")


def test_model_without_a_price_says_the_next_step(inference):
    brand = cast.brand(slug="other")
    words = ("engine", "add", inference.base_url, "--brand", "other", "--model", "demo-chat", "--name", "gpu")
    said = run(*words)
    assert "manage.py price set demo-chat --brand other" in said
    assert Model.objects.get().rates.count() == 0
    assert "input 0.10, output 0.30" in run(
        "price", "set", "demo-chat", "--brand", "other", "--input", "0.1", "--output", "0.3"
    )
    assert "demo-chat: input 0.10, output 0.30 USD" in run("price", "list", "--brand", "other")
    dearer = ("price", "set", "demo-chat", "--brand", "other", "--input", "1.0", "--output", "0.3")
    with pytest.raises(CommandError, match=r"Input goes from 0\.10 to 1\.00.* --confirm REASON"):
        run(*dearer)
    besides = ("--request-price", "0.001", "--image-price", "0.04", "--credits-per-request", "2")
    said = run(*dearer, "--confirm", "The market", *besides, "--credits-per-1000-tokens", "3")
    assert "$0.001 per request; $0.04 per image; 2 credits per request; 3 credits per 1,000 tokens" in said
    again = run(*words)
    assert "was there" in again
    assert (Engine.objects.count(), ModelEngine.objects.count()) == (1, 1)
    assert Engine.objects.get().brand == brand


def test_engine_without_a_brand_is_everybodys(inference, settings):
    cast.brand(slug="house")
    settings.DEFAULT_BRAND = "house"
    assert "Live, free." in run("engine", "add", inference.base_url, "--model", "demo-embed", "--free")
    assert Engine.objects.get().brand is None
    assert Model.objects.get().brand.slug == "house"
    name = Engine.objects.get().name
    assert "draining" in run("engine", "drain", name)
    assert f"{name:20} vllm         draining" in run("engine", "list")
    assert "live" in run("engine", "resume", name)


def test_brands_are_paused_and_resumed():
    run("brand", "new", "acme", "--credit", "0")
    assert ledger.balance_nanos(Organization.objects.get()) == 0
    assert "paused" in run("brand", "pause", "acme")
    assert "acme                 paused   Acme" in run("brand", "list")
    assert "active" in run("brand", "resume", "acme")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("brand", "new", "api"), "taken by the house"),
        (("brand", "new", "Not A Slug"), "slug"),
        (("brand", "new", "x", "--credit", "ten"), "--credit"),
        (("brand", "pause", "nobody"), "no brand 'nobody'"),
        (("engine", "add", "http://127.0.0.1:9/v1", "--brand", "nobody"), "no brand 'nobody'"),
        (("engine", "add", "http://127.0.0.1:9/v1", "--brand", "acme"), "cannot be reached"),
        (("engine", "drain", "nobody"), "no engine 'nobody'; there are: none yet"),
        (("price", "set", "nobody", "--brand", "acme", "--free"), "no model 'nobody'; it has: none yet"),
        (("price", "list", "--brand", "nobody"), "no brand"),
    ],
)
def test_mistakes_are_answered_with_what_is_right(words, message):
    cast.brand(slug="acme")
    with pytest.raises(CommandError, match=message):
        run(*words)


def test_brand_is_not_made_twice():
    run("brand", "new", "acme")
    with pytest.raises(CommandError, match="already"):
        run("brand", "new", "acme")


def test_what_an_engine_costs_is_said_from_now_or_from_when_it_was(inference):
    cast.brand(slug="acme")
    run("engine", "add", inference.base_url, "--brand", "acme", "--model", "demo-chat", "--name", "gpu", "--free")
    assert "costs 2.49 USD per hour since" in run("engine", "cost", "gpu", "2.49")
    run("engine", "cost", "gpu", "1.00", "--since", "2026-01-01T00:00:00+01:00")
    gpu = Engine.objects.get()
    first, second = engine_costs.histories()[gpu.pk]
    assert first[:2] == (datetime(2025, 12, 31, 23, tzinfo=UTC), 10**9)
    assert (first.currency, second.currency) == ("USD", "USD")
    assert second.per_hour_nanos == gpu.cost_per_hour_nanos == 2_490_000_000
    for words, says in (
        (("gpu", "a lot"), "an amount is a plain decimal"),
        (("gpu", "1", "--since", "9999-01-01"), "yet to come"),
        (("none", "1"), "there are: gpu"),
    ):
        with pytest.raises(CommandError, match=says):
            run("engine", "cost", *words)
