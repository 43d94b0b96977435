import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing
from billing.limits import Need
from billing.snapshot import ModelRecord, RateRecord
from billing.usage import Usage

prices = st.integers(0, 10**9)
optional = st.none() | prices


@st.composite
def rates(draw):
    return RateRecord(
        id=1,
        from_ms=0,
        input_picos=draw(prices),
        output_picos=draw(prices),
        cache_read_picos=draw(optional),
        cache_write_picos=draw(optional),
        reasoning_picos=draw(optional),
        request_nanos=draw(st.integers(0, 10**9)),
        image_nanos=draw(st.integers(0, 10**9)),
        credits_per_request=draw(st.integers(0, 1000)),
        credits_per_1000_tokens=draw(st.just(0) | st.integers(0, 10**6)),
        is_free=True,
    )


@st.composite
def usages_within(draw, prompt_max, granted, choices, images_max):
    read = draw(st.none() | st.integers(0, prompt_max))
    write = draw(st.none() | st.integers(0, prompt_max - (read or 0)))
    output = draw(st.integers(0, granted * choices))
    return Usage(
        input=draw(st.integers(0, prompt_max - (read or 0) - (write or 0))),
        cache_read=read,
        cache_write=write,
        output=output,
        reasoning=draw(st.none() | st.integers(0, output)),
        images=draw(st.integers(0, images_max)),
    )


@given(st.data(), rates(), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 8), st.integers(0, 4))
def test_a_charge_never_passes_its_hold(data, rate, prompt_max, granted, choices, images_max):
    usage = data.draw(usages_within(prompt_max, granted, choices, images_max))
    fixed, per = pricing.hold_picos(rate, prompt_max, choices=choices, images_max=images_max)
    assert 0 <= pricing.charge(rate, usage) <= pricing.nanos_up(fixed + granted * per)


@given(st.data(), rates(), st.integers(0, 10**6), st.integers(0, 10**5), st.integers(1, 8))
def test_credits_never_pass_what_was_held(data, rate, prompt_max, granted, choices):
    usage = data.draw(usages_within(prompt_max, granted, choices, 0))
    held = Need(*pricing.hold_credits(rate, prompt_max, choices=choices))
    assert 0 <= pricing.credits(rate, usage) <= held.at(granted)
    most = Usage(input=prompt_max, output=granted * choices)
    assert pricing.credits(rate, most) == held.at(granted)  # no more is held than a call can take


@given(rates(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_credits_are_rounded_up_once_per_call(rate, prompt, output):
    exact = 1000 * rate.credits_per_request + (prompt + output) * rate.credits_per_1000_tokens
    assert 0 <= 1000 * pricing.credits(rate, Usage(input=prompt, output=output)) - exact < 1000


def test_credits_count_all_tokens_of_a_call():
    usage = Usage(input=600, cache_read=300, cache_write=50, output=51, reasoning=20)
    assert pricing.credits(rate(credits_per_1000_tokens=1), usage) == 2
    assert pricing.credits(rate(credits_per_1000_tokens=5, credits_per_request=2), usage) == 2 + 6
    assert pricing.credits(rate(credits_per_request=3), usage) == 3


@given(rates(), st.integers(0, 10**5), st.integers(0, 10**5), st.integers(0, 100))
def test_more_usage_never_costs_less(rate, prompt, output, more):
    less = pricing.charge(rate, Usage(input=prompt, output=output))
    assert less <= pricing.charge(rate, Usage(input=prompt + more, output=output))
    assert less <= pricing.charge(rate, Usage(input=prompt, output=output + more))


@given(rates(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_call_is_rounded_up_once(rate, prompt, output):
    exact = prompt * (rate.input_picos or 0) + output * (rate.output_picos or 0) + 1000 * rate.request_nanos
    charged = 1000 * pricing.charge(rate, Usage(input=prompt, output=output))
    assert 0 <= charged - exact < 1000


def rate(**fields):
    return RateRecord(**({"id": 1, "from_ms": 0, "input_picos": 200_000, "output_picos": 400_000} | fields))


def test_missing_cache_and_reasoning_rates_fall_back():
    usage = Usage(input=10, cache_read=20, cache_write=30, output=40, reasoning=15)
    assert pricing.charge(rate(), usage) == (60 * 200_000 + 40 * 400_000) // 1000
    apart = rate(cache_read_picos=50_000, cache_write_picos=250_000, reasoning_picos=500_000)
    assert pricing.charge(apart, usage) == (10 * 200 + 20 * 50 + 30 * 250 + 25 * 400 + 15 * 500)


def test_a_price_of_zero_for_one_bucket_is_not_missing():
    usage = Usage(input=10, cache_read=20, output=1)
    assert pricing.charge(rate(cache_read_picos=0), usage) == 10 * 200 + 400


@pytest.mark.parametrize("missing", [{"input_picos": None}, {"output_picos": None}])
def test_a_missing_price_refuses(missing):
    assert not pricing.complete(rate(**missing))
    with pytest.raises(pricing.PriceMissing):
        pricing.charge(rate(**missing), Usage(input=1))
    with pytest.raises(pricing.PriceMissing):
        pricing.hold_picos(rate(**missing), 1)
    assert not pricing.complete(rate(**missing, is_free=True))


def test_free_must_be_said():
    assert not pricing.complete(None)
    assert not pricing.complete(rate(input_picos=0, output_picos=0))
    assert pricing.complete(rate(input_picos=0, output_picos=0, is_free=True))
    assert pricing.complete(rate(input_picos=0, output_picos=0, request_nanos=1))
    assert pricing.complete(rate(input_picos=0, output_picos=1))


def test_a_worst_case_that_scripts_cannot_count_is_refused():
    assert pricing.worst_case_picos(2**53 - 1 - 16, 1, 16) == 2**53 - 1
    with pytest.raises(pricing.HoldTooLarge):
        pricing.worst_case_picos(2**53 - 1, 1, 1)


def model(*found):
    return ModelRecord(id=7, slug="m", context_length=8192, max_completion_tokens=4096, rates=found)


def in_force(sold, organization_id, now):
    found = pricing.rate_for(sold, organization_id, now)
    assert found is not None
    return found


def test_the_rate_in_force_is_found_by_time():
    sold = model(rate(id=1, from_ms=0, until_ms=100), rate(id=2, from_ms=100))
    assert [in_force(sold, 5, now).id for now in (0, 99, 100, 10**12)] == [1, 1, 2, 2]
    assert pricing.rate_for(model(rate(from_ms=100)), 5, 99) is None


def test_an_organizations_own_rate_goes_first_and_bounds_everybodys():
    sold = model(rate(id=1, from_ms=0), rate(id=2, organization_id=5, from_ms=100, until_ms=200))
    before, during, after = (in_force(sold, 5, now) for now in (50, 150, 250))
    assert (before.id, before.from_ms, before.until_ms) == (1, 0, 100)
    assert (during.id, during.from_ms, during.until_ms) == (2, 100, 200)
    assert (after.id, after.from_ms, after.until_ms) == (1, 200, None)
    assert in_force(sold, 6, 150).id == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.booleans()), max_size=6), st.integers(0, 80))
def test_the_narrowed_period_is_where_the_same_rate_answers(periods, now):
    found, ends = [], {None: 0, 5: 0}
    for number, (gap, length, own) in enumerate(periods, start=1):
        organization = 5 if own else None
        start = ends[organization] + gap
        ends[organization] = start + length
        found.append(rate(id=number, organization_id=organization, from_ms=start, until_ms=start + length))
    sold = model(*found)
    answer = pricing.rate_for(sold, 5, now)
    if answer is None:
        return
    assert answer.until_ms is not None
    assert answer.from_ms <= now < answer.until_ms
    for other in range(answer.from_ms, answer.until_ms):
        assert in_force(sold, 5, other).id == answer.id
