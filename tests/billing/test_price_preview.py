"""The last days at other prices, against every call charged again by itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import price_preview, prices, pricing
from billing.models import UsageDay
from billing.rerating import Sums, rerated
from billing.snapshot import RateRecord
from billing.usage import Usage
from tests import cast

TOKENS = st.integers(0, 50_000)
USAGES = st.builds(Usage, input=TOKENS, cache_read=TOKENS, cache_write=TOKENS, output=TOKENS, images=st.integers(0, 3))
PICOS = st.integers(0, 90_000_000)
RATES = st.builds(
    RateRecord,
    id=st.just(0),
    from_ms=st.just(0),
    input_picos=PICOS,
    output_picos=PICOS,
    cache_read_picos=st.none() | PICOS,
    cache_write_picos=st.none() | PICOS,
    reasoning_picos=st.none() | PICOS,
    request_nanos=st.integers(1, 10**9),
    image_nanos=st.integers(0, 10**9),
)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOW.date()


@st.composite
def calls(draw):
    found = draw(st.lists(USAGES, min_size=1, max_size=8))
    return [
        Usage(u.input, u.cache_read, u.cache_write, u.output, draw(st.integers(0, u.output)), u.images) for u in found
    ]


def summed(usages, rate, included=()):
    listed = [pricing.charge(rate, usage) for usage in usages]
    names = ("input", "cache_read", "cache_write", "output", "reasoning", "images")
    return Sums(
        calls=len(usages),
        usage=Usage(**{name: sum(getattr(usage, name) for usage in usages) for name in names}),
        listed_nanos=sum(listed),
        paid_nanos=sum(nanos for number, nanos in enumerate(listed) if number not in included),
    )


@given(calls(), RATES, RATES)
def test_the_sum_of_calls_charged_again_lies_in_the_range(usages, before, after):
    found = rerated(summed(usages, before), after)
    exact = sum(pricing.charge(after, usage) for usage in usages)
    assert found.nanos <= exact <= found.nanos + found.rounding_nanos_max
    assert (found.is_shared, found.was_free) == (False, False)


@given(calls(), RATES)
def test_the_same_prices_change_nothing_but_rounding(usages, rate):
    sums = summed(usages, rate)
    found = rerated(sums, rate)
    assert found.nanos <= sums.paid_nanos <= found.nanos + found.rounding_nanos_max


@given(calls(), RATES, RATES)
def test_included_calls_cost_nothing_after_either_and_a_mix_says_so(usages, before, after):
    assert rerated(summed(usages, before, included=range(len(usages))), after).nanos == 0
    mixed = rerated(summed([*usages, usages[0]], before, included=[0]), after)
    assert mixed.is_shared
    assert 0 <= mixed.nanos <= sum(pricing.charge(after, usage) for usage in [*usages, usages[0]])


def test_what_was_free_is_taken_as_paid_and_what_failed_is_not_charged_by_request():
    rate = RateRecord(id=0, from_ms=0, input_picos=1_000, output_picos=1_000, request_nanos=7)
    free = Sums(calls=2, usage=Usage(input=10), listed_nanos=0, paid_nanos=0)
    assert (rerated(free, rate).nanos, rerated(free, rate).was_free) == (24, True)
    failed = Sums(calls=0, usage=Usage(), listed_nanos=0, paid_nanos=0)
    assert rerated(failed, rate).nanos == 0


@pytest.fixture
def house(db):
    return cast.brand(timezone="Europe/Zurich")


def used(organization, model, nanos, *, day=None, tokens=1_000_000, listed=None, **more):
    UsageDay.objects.create(
        brand_id=organization.brand_id,
        organization_id=organization.pk,
        key_id=1,
        model_id=model.pk,
        end_reason="stop",
        day=day or TODAY - timedelta(days=1),
        requests=10,
        output_tokens=tokens,
        list_cost_nanos=nanos if listed is None else listed,
        cost_nanos=nanos,
        **more,
    )


def terms(output):
    return {"per_million": {"input": "1", "output": output}}


def book(*models, output="3"):
    return {model.pk: prices.proposed(model=model, **terms(output))[0] for model in models}


def test_the_ten_whose_bill_moves_most_either_way_come_first(house):
    model, other = cast.model(house), cast.model(house)
    customers = [cast.organization(house) for _ in range(12)]
    for number, customer in enumerate(customers):
        used(customer, model, 10**9 * (number + 1))  # a million tokens each, for 1, 2, 3 … 12; 3 each by the book
    used(customers[2], other, 10**9)  # a model that the book does not name
    found = price_preview.preview(house, book(model), days=7, now=NOW)
    assert (found.first, found.last) == (date(2026, 11, 14), date(2026, 11, 20))
    assert found.total.before_nanos == (sum(range(1, 13)) + 1) * 10**9
    assert found.total.after_nanos == (12 * 3 + 1) * 10**9
    assert found.total.rounding_nanos_max == 120
    assert (found.moved, found.customers, found.own) == (11, 12, 0)
    assert [effect.moved_nanos // 10**9 for _, effect in found.most] == [-9, -8, -7, -6, -5, -4, -3, 2, -2, 1]
    assert found.most[0][0] == customers[11]


def test_days_are_whole_and_of_this_brand_and_an_own_price_stays(house):
    model, elsewhere = cast.model(house), cast.brand()
    owner, usual = cast.organization(house), cast.organization(house)
    prices.set_price(model=model, organization=owner, actor="test", **terms("1"))
    now = datetime.now(UTC)
    today = now.astimezone(ZoneInfo("Europe/Zurich")).date()
    yesterday = today - timedelta(days=1)
    used(owner, model, 10**9, day=yesterday)
    used(usual, model, 10**9, day=yesterday)
    used(usual, model, 10**9, day=today)  # not over yet
    used(usual, model, 10**9, day=today - timedelta(days=8))
    used(cast.organization(elsewhere), model, 10**9, day=yesterday)
    found = price_preview.preview(house, book(model), days=7, now=now)
    assert (found.total.before_nanos, found.total.after_nanos) == (2 * 10**9, 4 * 10**9)
    assert (found.own, found.moved, found.customers) == (1, 1, 2)


def test_what_is_scheduled_is_everybodys_next_price(house):
    model, owner = cast.model(house), cast.organization(house)
    now = datetime.now(UTC)
    for days, whose, output in ((3, None, "5"), (2, None, "4"), (1, owner, "9")):
        at = now + timedelta(days=days)
        prices.set_price(model=model, organization=whose, actor="test", effective_from=at, **terms(output))
    assert {id: rate.output_picos for id, rate in price_preview.scheduled(house, now).items()} == {model.pk: 4_000_000}
    found = price_preview.preview(house, book(model), days=1, now=now)
    assert price_preview.models_without_use(house, book(model), found) == [model.slug]
