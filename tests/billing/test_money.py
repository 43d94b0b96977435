from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import money

picos = st.integers(0, money.RATE_PICOS_MAX)
nanos = st.integers(-(2**63), money.AMOUNT_MAX)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.20", 200_000), ("0.0375", 37_500), ("0", 0), ("15", 15_000_000), ("0.000001", 1), ("2.500000000", 2_500_000)],
)
def test_a_price_per_million_is_read_exactly(text, expected):
    assert money.picos_per_token(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-1", "1e-6", "0.0000001", "1,5", "1,000", "NaN", "inf", ".5", "5.", "+1", "9" * 16, "٣", "1_0", "0x1"]
)
def test_a_price_that_cannot_be_kept_exactly_is_refused(text):
    with pytest.raises(money.AmountInvalid):
        money.picos_per_token(text)


@pytest.mark.parametrize("value", [0.2, 1, True, None, Decimal("0.2")])
def test_only_text_is_a_price(value):
    with pytest.raises(money.AmountInvalid, match="as text"):
        money.picos_per_token(value)


def test_amounts_beyond_a_bigint_are_refused():
    assert money.nanos("9223372036.854775807") == 2**63 - 1
    with pytest.raises(money.AmountInvalid, match="more than"):
        money.nanos("9223372036.854775808")


@given(picos)
def test_wire_prices_are_plain_decimals_of_the_same_value(value):
    text = money.price_per_token(value)
    assert Decimal(text) == Decimal(value).scaleb(-12)
    assert not set(text) - set("0123456789.")
    assert not text.endswith(".")


@given(picos)
def test_a_price_shown_per_million_reads_back_the_same(value):
    assert money.picos_per_token(money.price_per_million(value)) == value


@given(st.integers(0, money.AMOUNT_MAX))
def test_an_amount_reads_back_the_same(value):
    assert money.nanos(money.amount(value)) == value


@given(nanos)
def test_a_short_display_never_shows_more_than_there_is(value):
    shown = money.display_short(value, "EUR").replace("€", "").replace(",", "")
    assert 0 <= Decimal(value).scaleb(-9) - Decimal(shown) < Decimal("0.01")


@pytest.mark.parametrize(
    ("value", "currency", "exact", "short"),
    [
        (12_500_000_000, "USD", "$12.50", "$12.50"),
        (48_000, "USD", "$0.000048", "$0.00"),
        (-48_000, "USD", "-$0.000048", "-$0.01"),
        (1_234_567_891_000_000, "EUR", "€1,234,567.891", "€1,234,567.89"),
        (1_200_000_000_000, "JPY", "1,200 JPY", "1,200 JPY"),
        (1_200_500_000_000, "KRW", "1,200.5 KRW", "1,200 KRW"),
        (-48_000, "JPY", "-0.000048 JPY", "-1 JPY"),
        (5_120_000_000, "KWD", "5.120 KWD", "5.120 KWD"),
        (0, "CHF", "0.00 CHF", "0.00 CHF"),
    ],
)
def test_people_read_money_in_their_currency(value, currency, exact, short):
    assert money.display(value, currency) == exact
    assert money.display_short(value, currency) == short
    assert money.price_per_token(200_000) == "0.0000002"
