"""What a payment provider is told of an amount, and that the way back gives the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import currencies

UNIT = 10**9
CODES = sorted(
    currencies.ZERO_DECIMAL
    | currencies.THREE_DECIMAL
    | currencies.WHOLE_IN_CENTS
    | currencies.MINOR_UNITS_MIN.keys()
    | {"IDR", "TRY"}
)


@pytest.mark.parametrize(
    ("nanos", "currency", "units"),
    [
        (10 * UNIT, "USD", 1_000),
        (500 * UNIT, "JPY", 500),
        (500 * UNIT, "KRW", 500),
        (5 * UNIT, "ISK", 500),
        (5 * UNIT, "UGX", 500),
        (5_120_000_000, "KWD", 5_120),
        (30 * 10**7, "GBP", 30),
    ],
)
def test_an_amount_is_told_in_the_minor_units_of_its_currency(nanos, currency, units):
    assert currencies.minor_units(nanos, currency) == units
    assert currencies.nanos_of(units, currency) == nanos


@pytest.mark.parametrize(
    ("nanos", "currency"),
    [(UNIT // 2, "JPY"), (5_124_000_000, "KWD"), (5_500_000_000, "ISK"), (1, "USD"), (10**7 + 10**6, "EUR")],
)
def test_what_has_no_minor_unit_is_refused_and_never_rounded(nanos, currency):
    with pytest.raises(currencies.NotChargeable):
        currencies.minor_units(nanos, currency)


@given(st.sampled_from(CODES), st.integers(0, 10**8))
def test_every_chargeable_amount_comes_back_the_same(currency, steps):
    nanos = steps * currencies.step_nanos(currency)
    assert currencies.nanos_of(currencies.minor_units(nanos, currency), currency) == nanos


@pytest.mark.parametrize(
    ("currency", "least"),
    [("USD", "0.50"), ("GBP", "0.30"), ("JPY", "50"), ("HUF", "175"), ("MXN", "10"), ("CZK", "15"), ("KRW", "1")],
)
def test_too_little_is_refused_with_the_least_that_is_taken(currency, least):
    minimum = currencies.minimum_nanos(currency)
    assert currencies.charge_problem(minimum, currency) is None
    refused = currencies.charge_problem(minimum - currencies.step_nanos(currency), currency)
    assert refused == f"The least that can be paid is {least} {currency}."


def test_too_much_and_too_fine_amounts_are_refused_in_words():
    assert currencies.charge_problem(1_000_000 * UNIT, "USD") == (
        "The most that can be paid at once is 999,999.99 USD."
    )
    assert currencies.charge_problem(1_000_000 * UNIT, "IDR") is None
    assert currencies.charge_problem(100 * UNIT + 1, "JPY") == "Amounts in JPY are multiples of 1."
    assert currencies.charge_problem(2 * UNIT + 10**6, "BHD") == "Amounts in BHD are multiples of 0.01."


@given(st.sampled_from(CODES))
def test_the_least_and_the_most_can_be_charged(currency):
    for nanos in (currencies.minimum_nanos(currency), currencies.maximum_nanos(currency)):
        rounded = nanos // currencies.step_nanos(currency) * currencies.step_nanos(currency)
        assert currencies.charge_problem(rounded, currency) is None
