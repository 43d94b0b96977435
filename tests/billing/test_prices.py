"""Prices hold from a moment on, never overlap, and are never changed behind anybody's back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import catalogue, engines, prices, pricing
from billing.models import Rate
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def model():
    engine = engines.register(name="e", kind="vllm", base_url="http://e/v1", actor="test")
    found, _ = engines.draft_model(
        brand=cast.brand(), slug="m", engine=engine, name_there="m", context_length=8192, actor="test"
    )
    return found


def price(model, **fields):
    usual = {"per_million": {"input": "0.20", "output": "0.40"}}
    return prices.set_price(model=model, actor="test", **(usual | fields))


def now_ms():
    return catalogue.milliseconds(timezone.now())


def rate_now(model, organization_id=0):
    record = catalogue.build(model.brand_id).models[0]
    return pricing.rate_for(record, organization_id, now_ms())


def test_model_without_a_price_has_no_rate_and_gets_one_at_once(model):
    assert rate_now(model) is None
    price(model, per_million={"input": "0.20", "output": "0.40", "cache_read": "0.02"})
    rate = rate_now(model)
    assert (rate.input_picos, rate.output_picos, rate.cache_read_picos) == (200_000, 400_000, 20_000)
    assert rate.reasoning_picos is None


def test_new_price_ends_the_one_before_and_leaves_it_in_history(model):
    first = price(model)
    second = price(model, per_million={"input": "1", "output": "2"})
    first.refresh_from_db()
    assert first.effective_until == second.effective_from
    assert first.input_picos == 200_000
    assert rate_now(model).id == second.id


def test_price_of_later_waits_and_one_between_ends_with_it(model):
    price(model)
    tomorrow = timezone.now() + timedelta(days=1)
    later = price(model, effective_from=tomorrow, per_million={"input": "9", "output": "9"})
    between = price(model, per_million={"input": "5", "output": "5"})
    assert between.effective_until == tomorrow
    assert rate_now(model).id == between.id
    assert later.effective_until is None
    assert Rate.objects.count() == 3


def test_customers_own_price_goes_first(model):
    organization = cast.organization(model.brand)
    everybody = price(model)
    own = price(model, organization=organization, per_million={"input": "0.10", "output": "0.10"})
    assert rate_now(model, organization.id).id == own.id
    assert rate_now(model, organization.id + 1).id == everybody.id


def test_free_is_said(model):
    price(model, is_free=True, per_million=None)
    rate = rate_now(model)
    assert (rate.input_picos, rate.output_picos, rate.is_free) == (0, 0, True)
    assert pricing.complete(rate)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_million": {"input": "0.20"}}, "input and of output"),
        ({"per_million": {}}, "input and of output"),
        ({"per_million": {"input": "0", "output": "0"}}, "must be said: free"),
        ({"is_free": True}, "has no price"),
        ({"per_million": {"input": "0.2e-3", "output": "1"}}, "plain decimal"),
        ({"per_million": {"input": "-1", "output": "1"}}, "plain decimal"),
    ],
)
def test_wrong_price_is_refused(model, fields, message):
    with pytest.raises(ValidationError, match=message):
        price(model, **fields)
    assert not Rate.objects.exists()


def test_price_cannot_begin_in_the_past_or_at_anothers_moment(model):
    with pytest.raises(ValidationError, match="past"):
        price(model, effective_from=timezone.now() - timedelta(hours=1))
    tomorrow = timezone.now() + timedelta(days=1)
    price(model, effective_from=tomorrow)
    with pytest.raises(ValidationError, match="very moment"):
        price(model, effective_from=tomorrow)


def test_stranger_gets_no_price_here(model):
    with pytest.raises(ValidationError, match="Not a customer"):
        price(model, organization=cast.organization(cast.brand()))
