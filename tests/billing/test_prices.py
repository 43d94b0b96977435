"""Prices hold from a moment on, never overlap, and are never changed behind anybody's back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection
from django.utils import timezone

from billing import catalogue, engines, prices, pricing
from billing.models import RATE_PICOS_BOUND, Rate
from keys.models import AuditEvent
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
    later = price(model, effective_from=tomorrow, per_million={"input": "0.9", "output": "0.9"})
    between = price(model, per_million={"input": "0.5", "output": "0.5"})
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


def test_a_price_is_told_with_its_credits(model):
    made = price(model, request_nanos=10**7, credits_per_request=1, credits_per_1000_tokens=2)
    assert prices.described(made).endswith(
        "per million tokens; $0.01 per request; 1 credit per request; 2 credits per 1,000 tokens"
    )
    free = price(model, per_million=None, is_free=True, credits_per_request=5)
    assert prices.described(free) == "free; 5 credits per request"
    assert prices.is_set(model=model, is_free=True, credits_per_request=5)
    assert not prices.is_set(model=model, is_free=True, credits_per_request=5, credits_per_1000_tokens=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_million": {"input": "0.20"}}, "input and of output"),
        ({"per_million": {}}, "input and of output"),
        ({"per_million": {"input": "0", "output": "0"}}, "must be said: free"),
        ({"is_free": True}, "has no price"),
        ({"per_million": {"input": "0.2e-3", "output": "1"}}, "plain decimal"),
        ({"per_million": {"input": "-1", "output": "1"}}, "plain decimal"),
        ({"per_million": {"input": 0.2, "output": "1"}}, "given as text"),
        ({"per_million": {"input": "0.0000001", "output": "1"}}, "at most 6 decimals"),
        ({"per_million": {"input": "9007199255", "output": "1"}}, "more than"),
        ({"request_nanos": 0.5}, "from 0 on"),
        ({"request_nanos": True}, "from 0 on"),
        ({"request_nanos": -1}, "from 0 on"),
        ({"credits_per_request": -1}, "from 0 on"),
        ({"effective_from": datetime(2099, 1, 1)}, "time zone"),  # noqa: DTZ001 - the mistake that is refused
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


def test_same_price_from_now_on_changes_nothing(model):
    first = price(model)
    assert price(model) == first
    assert price(model, per_million={"input": "0.2", "output": "0.4"}) == first
    assert AuditEvent.objects.filter(action="price.set").count() == 1
    assert price(model, credits_per_request=1) != first


def test_what_was_and_what_is_stands_in_the_trail(model):
    price(model)
    price(model, per_million={"input": "1", "output": "2"}, request_nanos=5)
    noted = AuditEvent.objects.filter(action="price.set").latest("id")
    assert (noted.before["input_picos"], noted.after["input_picos"]) == (200_000, 1_000_000)
    assert noted.after["request_nanos"] == 5
    assert noted.subject == "m"


def test_ending_a_customers_price_gives_way_to_everybodys(model):
    organization = cast.organization(model.brand)
    everybody = price(model)
    own = price(model, organization=organization, per_million={"input": "0.10", "output": "0.10"})
    prices.end_price(rate=own, actor="test")
    assert rate_now(model, organization.id).id == everybody.id
    with pytest.raises(ValidationError, match="not in force"):
        prices.end_price(rate=own, actor="test")
    prices.end_price(rate=everybody, actor="test")
    assert rate_now(model) is None


def test_a_price_to_come_can_be_withdrawn_and_the_one_before_holds_on(model):
    day = timedelta(days=1)
    tomorrow = timezone.now() + day
    first = price(model)
    second = price(model, effective_from=tomorrow, per_million={"input": "0.3", "output": "0.3"})
    third = price(model, effective_from=tomorrow + day, per_million={"input": "0.4", "output": "0.4"})
    prices.withdraw_price(rate=second, actor="test")
    first.refresh_from_db()
    assert first.effective_until == third.effective_from
    prices.withdraw_price(rate=third, actor="test")
    first.refresh_from_db()
    assert first.effective_until is None
    with pytest.raises(ValidationError, match="has begun"):
        prices.withdraw_price(rate=first, actor="test")
    assert [record.id for record in catalogue.build(model.brand_id).models[0].rates] == [first.id]


def test_the_database_itself_keeps_periods_apart_and_prices_as_they_were(model):
    first = price(model)
    with pytest.raises(IntegrityError, match="rate_periods_apart"):
        Rate.objects.create(
            model=model, effective_from=first.effective_from + timedelta(hours=1), input_picos=1, output_picos=1
        )
    with pytest.raises(IntegrityError, match="never change"):
        Rate.objects.update(input_picos=1)
    with pytest.raises(IntegrityError, match="has been in force"):
        first.delete()
    with pytest.raises(IntegrityError, match="bounded"):
        Rate.objects.create(
            model=model, organization=cast.organization(model.brand), effective_from=timezone.now(), input_picos=-1
        )
    assert RATE_PICOS_BOUND == 2**53


def test_a_price_that_looks_like_a_slip_wants_a_reason_which_is_kept(model):
    price(model)
    slip = {"per_million": {"input": "2.00", "output": "0.40", "cache_read": "2.50"}}
    with pytest.raises(prices.Unconfirmed) as refused:
        price(model, **slip)
    assert refused.value.messages == [
        "Input goes from 0.20 to 2.00: a factor of 10 or more.",
        "Cache read goes from 0.20 to 2.50: a factor of 10 or more.",
        "Cache write goes from 0.20 to 2.00: a factor of 10 or more.",
        "Reading from the cache is dearer than input.",
    ]
    with pytest.raises(prices.Unconfirmed):
        price(model, confirmed_reason="  ", **slip)
    assert Rate.objects.count() == 1
    price(model, confirmed_reason="The engine's cache is remote", **slip)
    kept = AuditEvent.objects.filter(action="price.set").latest("id").after
    assert kept["confirmed"] == "The engine's cache is remote"
    assert kept["slips"] == refused.value.messages


def test_a_customers_first_own_price_is_compared_with_everybodys_and_a_later_one_with_what_it_follows(model):
    price(model)
    customer = cast.organization(model.brand)
    with pytest.raises(prices.Unconfirmed, match=r"from 0\.20 to 0\.02"):
        price(model, organization=customer, per_million={"input": "0.02", "output": "0.40"})
    tomorrow, day_after = (timezone.now() + timedelta(days=days) for days in (1, 2))
    price(model, effective_from=tomorrow, per_million={"input": "1", "output": "1"})
    price(model, effective_from=day_after, per_million={"input": "4", "output": "4"})


@pytest.mark.parametrize("with_own", [False, True])
def test_many_who_set_a_price_at_once_leave_one_unbroken_row_of_prices(model, with_own):
    """No overlap, no gap, no lost change: each of the prices that were set has its period."""
    organization = cast.organization(model.brand) if with_own else None
    gate = threading.Barrier(6)

    def set_one(number):
        try:
            gate.wait(10)
            return price(model, organization=organization, per_million={"input": str(number + 1), "output": "1"}).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        made = list(threads.map(set_one, range(6)))
    rates = list(Rate.objects.order_by("effective_from"))
    assert sorted(made) == sorted(rate.pk for rate in rates)
    assert [rate.effective_until for rate in rates] == [*(rate.effective_from for rate in rates[1:]), None]
    assert catalogue.build(model.brand_id).models[0].rates[-1].id == rates[-1].pk
