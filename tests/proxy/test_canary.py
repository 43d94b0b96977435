"""The canary, end to end: the real proxy, the demo engine, real stores. It lives here for the shop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import count
from typing import Any

import orjson
import pytest
from django.core.management import call_command
from django.test import Client

from billing import engines, prices, reports
from billing.catalogue import BRANDS_AGE_SECONDS_MAX
from billing.models import Engine, Model
from keys import brands, issuing
from keys.models import ApiKey, Brand, Organization
from portal.canary import accounts, checks, questions
from portal.models import CanaryCheck, ModelEvidence
from tests.proxy.shop import ACTOR, Gateway, Shop

pytestmark = pytest.mark.django_db(transaction=True)
START = datetime.now(UTC).replace(second=0, microsecond=0)
_rounds = count(1)
OUTCOMES = {
    "aion-v3": ("passed", 200, ""),
    "aion-reasoning": ("passed", 200, ""),
    "aion-embed": ("passed", 200, ""),
    "aion-loading": ("failed", 503, "engine_not_ready"),
    "aion-broken": ("failed", 502, "engine_error"),
}


@pytest.fixture(autouse=True)
def _door(settings: Any, gateway: Gateway) -> None:
    settings.CANARY_URL = gateway.root


@pytest.fixture
def soon() -> datetime:
    """A time of a slot that no other test has used, after the shop's prices were set."""
    return datetime.now(UTC).replace(second=0, microsecond=0) + next(_rounds) * checks.EVERY


def outcomes(now: datetime, every: timedelta = checks.EVERY) -> dict[str, tuple[str, int | None, str]]:
    found = CanaryCheck.objects.filter(slot_at=checks._slot(now, every)).select_related("model")
    return {each.model.slug: (each.outcome, each.http_status, each.code) for each in found}


def test_every_model_is_asked_as_a_customer_would_ask_it(soon: datetime) -> None:
    assert checks.run(now=soon) == 5
    assert outcomes(soon) == OUTCOMES
    passed = CanaryCheck.objects.get(model__slug="aion-v3", slot_at=checks._slot(soon, checks.EVERY))
    assert passed.first_token_ms is not None
    assert passed.duration_ms is not None
    assert 0 <= passed.first_token_ms <= passed.duration_ms


def test_a_slot_is_asked_once_however_often_the_job_runs(soon: datetime) -> None:
    assert (checks.run(now=soon), checks.run(now=soon), checks.run(now=soon + checks.EVERY)) == (5, 0, 5)
    next(_rounds)


def test_it_is_metered_and_pays_nothing(soon: datetime, shop: Shop) -> None:
    checks.run(now=soon)
    check = CanaryCheck.objects.get(model__slug="aion-v3", slot_at=checks._slot(soon, checks.EVERY))
    event = shop.event(check.call_id)
    organization = Organization.objects.get(pk=event.organization_id)
    assert (organization.slug, organization.memberships.count()) == (accounts.SLUG, 0)
    assert (event.cost_nanos, event.list_cost_nanos, event.output_tokens) == (0, 0, 1)
    assert shop.holds() == 0


def test_nobody_sees_its_use_but_who_asks_for_it(soon: datetime, shop: Shop) -> None:
    checks.run(now=soon)
    check = CanaryCheck.objects.get(model__slug="aion-embed", slot_at=checks._slot(soon, checks.EVERY))
    shop.event(check.call_id)

    def lines(*arguments: str) -> list[Any]:
        said = StringIO()
        call_command("usage", *arguments, stdout=said)
        return [orjson.loads(line) for line in said.getvalue().splitlines()]

    assert check.call_id not in {line["call_id"] for line in lines()}
    assert check.call_id in {line["call_id"] for line in lines("--organization", accounts.SLUG)}
    everybody = reports.models_by_quarter(shop.brand.pk, since=START - timedelta(days=1))
    customers = reports.models_by_quarter(shop.brand.pk, since=START - timedelta(days=1), without=accounts.ids())
    assert sum(row.requests for row in everybody) > sum(row.requests for row in customers)


def test_an_answer_that_is_wrong_is_told_from_none(soon: datetime, gateway: Gateway) -> None:
    control = gateway.shop.inference.engine.control
    control.update({"rules": [{"model": "demo-chat", "do": "tokens=5"}, {"model": "demo-reasoning", "do": "die=3"}]})
    checks.run(now=soon)
    found = outcomes(soon)
    assert found["aion-v3"] == ("wrong", 200, "")
    assert found["aion-reasoning"] == ("failed", 200, "engine_error")


def test_what_was_answered_and_what_engines_are_is_kept(soon: datetime, gateway: Gateway) -> None:
    checks.run(now=soon)
    found = ModelEvidence.objects.get(model__slug="aion-v3")
    assert (found.prompt, found.answer, found.answered_at) == (questions.PROMPT, "42", soon)
    assert found.engines == [{"kind": "vllm", "version": "0.0.0+demo", "model": "demo-chat"}]
    brands.change(brand=gateway.shop.brand, actor=ACTOR, docs_pages=["model-verification", "model-quality"])
    page = Client().get("/dialogix/docs/model-verification/").content.decode()
    assert "vllm 0.0.0+demo" in page
    assert "<span>42</span>" in page
    quality = Client().get("/dialogix/docs/model-quality/").content.decode()
    assert "failed (engine_not_ready)" in quality
    assert quality.count('class="bars"') == 5


def test_after_thirty_days_checks_go(soon: datetime, shop: Shop) -> None:
    model = shop.models["aion-v3"]
    old, young = (CanaryCheck.objects.create(model=model, slot_at=soon - timedelta(days=days)) for days in (31, 29))
    checks.run(now=soon)
    kept = CanaryCheck.objects.filter(pk__in=[old.pk, young.pk])
    assert [each.pk for each in kept] == [young.pk]


@pytest.fixture
def elsewhere(shop: Shop) -> Iterator[Callable[..., Model]]:
    """Models of a brand of the test's own."""
    brand = shop.new_brand(f"brand-{next(_rounds)}", "br-", hosts=[f"host-{next(_rounds)}.example"])

    def made(slug: str, **fields: Any) -> Model:
        return shop.new_model(slug, "demo-chat", brand=brand, **fields)

    time.sleep(BRANDS_AGE_SECONDS_MAX + 0.1)  # so long a worker may not know a new brand's host
    yield made
    brands.pause(brand=brand, actor=ACTOR)


def test_only_what_is_on_sale_is_asked(soon: datetime, shop: Shop, elsewhere: Callable[..., Model]) -> None:
    elsewhere("on-sale")
    engines.change_model(model=elsewhere("resting"), actor=ACTOR, state=Model.State.MAINTENANCE)
    elsewhere("no-price", per_million=None)
    engines.remove_route(route=elsewhere("no-engine").routes.get(), actor=ACTOR)
    drained = shop.new_engine(f"drained-{next(_rounds)}", shop.inference.base_url)
    engines.change(engine=drained, actor=ACTOR, state=Engine.State.DOWN)
    elsewhere("engine-down", engine=drained)
    checks.run(now=soon)
    asked = set(outcomes(soon)) - set(OUTCOMES)
    assert asked == {"on-sale"}
    assert outcomes(soon)["on-sale"] == ("passed", 200, "")  # through the brand's own host


def test_what_its_own_plan_does_not_have_is_no_failure(
    soon: datetime, shop: Shop, elsewhere: Callable[..., Model]
) -> None:
    model = elsewhere("above-every-tier")
    elsewhere("of-the-plan")
    shop.new_tier("only", brand=model.brand, rank=9, model_slugs=["of-the-plan"])
    checks.run(now=soon)
    assert set(outcomes(soon)) - set(OUTCOMES) == {"of-the-plan"}


def test_where_nothing_is_sold_nobody_is_made(soon: datetime, shop: Shop) -> None:
    brand = shop.new_brand(f"empty-{next(_rounds)}", "em-")
    checks.run(now=soon)
    assert not Organization.objects.filter(brand=brand).exists()


def test_a_revoked_key_gets_a_successor(soon: datetime, shop: Shop) -> None:
    checks.run(now=soon)
    mine = ApiKey.objects.filter(organization__slug=accounts.SLUG, organization__brand=shop.brand, revoked_at=None)
    issuing.revoke(key=mine.get(), actor=ACTOR)
    checks.run(now=soon + checks.EVERY)
    next(_rounds)
    assert outcomes(soon + checks.EVERY)["aion-v3"][0] == "passed"
    assert mine.count() == 1


def test_a_gateway_that_is_away_is_a_failure(soon: datetime, settings: Any) -> None:
    settings.CANARY_URL = "http://127.0.0.1:1"
    checks.run(now=soon)
    assert outcomes(soon)["aion-v3"] == ("failed", None, "ConnectionRefusedError")


def test_it_can_be_switched_off(soon: datetime, settings: Any) -> None:
    settings.CANARY = False
    assert checks.run(now=soon) == 0


def test_its_price_is_its_own(soon: datetime, shop: Shop) -> None:
    checks.run(now=soon)
    model = shop.models["aion-v3"]
    assert not prices.in_force(model.rates.filter(organization=None)).get().is_free
    assert prices.in_force(model.rates.filter(organization__slug=accounts.SLUG)).get().is_free
    assert Brand.objects.get(pk=shop.brand.pk).organizations.filter(slug=accounts.SLUG).count() == 1
