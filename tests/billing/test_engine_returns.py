"""What engines earned, cost and did, by known numbers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest

from billing import engine_returns, histograms
from billing.models import Engine
from tests import cast
from tests.billing.earning import HOUR_NANOS, book, call, costs, engine
from tests.billing.settled import customer

pytestmark = pytest.mark.django_db
DAY = date(2026, 11, 2)
SINCE = datetime(2026, 11, 2, tzinfo=UTC)
UNTIL = SINCE + timedelta(hours=24)


def test_an_engine_earns_costs_and_works(redis_connection):
    who, other = customer(), customer()
    gpu = engine("gpu", max_in_flight=10)
    costs(gpu, 2 * HOUR_NANOS, SINCE + timedelta(hours=12))
    served = {"engine_id": gpu.pk, "duration_ms": 60_000}
    book(
        redis_connection,
        call(who, DAY, 50_000_000, hour=3, output_tokens=8_640, **served),
        call(who, DAY, 30_000_000, hour=3, output_tokens=0, **served),
        call(other, DAY, 20_000_000, hour=4, output_tokens=8_640, **served),
        call(who, DAY + timedelta(days=1), 9, **served),
    )
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert (found.requests, found.input_tokens, found.output_tokens) == (3, 30, 17_280)
    assert (found.revenue_nanos, found.currency) == (100_000_000, who.brand.currency)
    assert found.cost_nanos == 12 * 2 * HOUR_NANOS
    assert found.margin_nanos == 100_000_000 - 86_400_000
    assert found.margin == Fraction(136, 1000)
    assert found.tokens_per_second == Fraction(17_280, 86_400)
    assert found.tokens_per_second_used == Fraction(17_280, 1_800)
    assert found.used == Fraction(2, 96)
    middle = (45_000 + 60_000) // 2
    assert found.load == Fraction(3 * middle, 86_400_000 * 10)


def test_brands_of_several_currencies_have_no_margin(redis_connection):
    euro, dollar = customer(cast.brand(currency="EUR")), customer(cast.brand(currency="USD"))
    gpu = engine("gpu")
    book(redis_connection, *(call(who, DAY, 7, engine_id=gpu.pk) for who in (euro, dollar)))
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert found.revenue == {"EUR": 7, "USD": 7}
    assert (found.currency, found.revenue_nanos, found.margin_nanos, found.margin) == (None, None, None, None)


def test_a_cost_in_another_currency_than_the_revenue_has_no_margin(redis_connection):
    who = customer(cast.brand(currency="EUR"))
    gpu = engine("gpu", brand=who.brand)
    costs(gpu, HOUR_NANOS, SINCE, currency="USD")
    book(redis_connection, call(who, DAY, 7, engine_id=gpu.pk))
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert (found.currency, found.cost_currency, found.margin_nanos) == ("EUR", "USD", None)
    assert found.cost_nanos == 24 * HOUR_NANOS
    costs(gpu, HOUR_NANOS, SINCE + timedelta(hours=12), currency="EUR")
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert (found.cost_currency, found.cost_nanos, found.margin_nanos) == (None, None, None)
    assert found.costs == {"USD": 12 * HOUR_NANOS, "EUR": 12 * HOUR_NANOS}


def test_a_brand_sees_its_own_engines_and_those_that_served_it(redis_connection):
    who, other = customer(), customer()
    own, served, theirs = engine("own", brand=who.brand), engine("served"), engine("theirs")
    costs(own, HOUR_NANOS, SINCE)
    book(redis_connection, call(who, DAY, 7, engine_id=served.pk), call(other, DAY, 9, engine_id=served.pk))
    book(redis_connection, call(other, DAY, 9, engine_id=theirs.pk))
    found = engine_returns.returns(since=SINCE, until=UNTIL, brand=who.brand)
    assert [(each.engine.name, each.revenue_nanos) for each in found] == [("own", 0), ("served", 16)]
    assert found[0].margin_nanos == -24 * HOUR_NANOS
    assert found[0].margin is None
    assert len(engine_returns.returns(since=SINCE, until=UNTIL)) == 3


def test_an_engine_is_measured_from_when_it_was_there():
    gpu = engine("gpu")
    Engine.objects.filter(pk=gpu.pk).update(created_at=UNTIL - timedelta(minutes=50))
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert (found.span, found.quarters_max) == (50 * 60 * 1_000_000, 4)
    Engine.objects.filter(pk=gpu.pk).update(created_at=UNTIL + timedelta(minutes=50))
    (found,) = engine_returns.returns(since=SINCE, until=UNTIL)
    assert (found.span, found.quarters_max) == (0, 0)
    assert found.tokens_per_second == found.used == found.load == 0


@pytest.mark.parametrize(
    ("histogram", "about"), [([], 0), ([2], 5), ([0, 1], 7), ([0] * 29 + [1], 750_000), ([0] * 30 + [1], 900_000)]
)
def test_a_histogram_adds_up_to_the_middles_of_its_buckets(histogram, about):
    assert len(histograms.MILLISECONDS) == 30
    assert histograms.estimated_sum(histogram, histograms.MILLISECONDS) == about
