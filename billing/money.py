"""Money as text and back, exactly. Pure; no floats.

nanos: 10⁻⁹ of the currency unit. picos per token: 10⁻¹² (one per million tokens is 10⁶ picos per token).
"""

from __future__ import annotations

import re

from billing import currencies

NANOS_PER_UNIT = 10**9
PICOS_PER_TOKEN_PER_MILLION = 10**6
AMOUNT_MAX = 2**63 - 1
RATE_PICOS_MAX = 2**53 - 1

SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}

_DECIMAL = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,12}))?")


class AmountInvalid(ValueError):
    """A text that is not an exact amount; the message says what to write instead."""


def picos_per_token(per_million: str) -> int:
    """A price per million tokens ("0.0375") → picos per token (37_500). Exact, or AmountInvalid."""
    return _scaled(per_million, 6, RATE_PICOS_MAX, "a price per million tokens")


def nanos(amount: str) -> int:
    """An amount of currency units ("10.00") → nanos. Exact, or AmountInvalid."""
    return _scaled(amount, 9, AMOUNT_MAX, "an amount")


def _scaled(text: str, places: int, most: int, what: str) -> int:
    if not isinstance(text, str):
        raise AmountInvalid(f'{what} is given as text, e.g. "0.20"; a {type(text).__name__} may not be exact')
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        raise AmountInvalid(f'{what} is a plain decimal of digits and one point, e.g. "0.20", not {text!r}')
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > places:
        raise AmountInvalid(f"{what} has at most {places} decimals, so {text} cannot be kept exactly")
    value: int = int(whole) * 10**places + int(fraction.ljust(places, "0"))
    if value > most:
        raise AmountInvalid(f"{text} is more than {what} may be")
    return value


def price_per_token(picos: int) -> str:
    """The wire form of a rate: currency units per token, a plain decimal, never an exponent ("0.0000002")."""
    return decimal(picos, 12)


def price_per_million(picos: int) -> str:
    """For people and forms; picos_per_token reads it back ("0.20")."""
    return decimal(picos, 6, places_min=2)


def decimal(value: int, places: int, *, places_min: int = 0) -> str:
    """value·10⁻ᵖˡᵃᶜᵉˢ exactly, without needless zeros beyond `places_min` decimals."""
    whole, fraction = divmod(abs(value), 10**places)
    digits = f"{fraction:0{places}d}".rstrip("0").ljust(places_min, "0")
    return f"{'-' if value < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def amount(value_nanos: int) -> str:
    """Currency units exactly, as machines read them ("0.000048")."""
    return decimal(value_nanos, 9)


def display(value_nanos: int, currency: str) -> str:
    """For people, exact: "$12.50", "-$0.000048", "1,200 JPY"."""
    text = decimal(abs(value_nanos), 9, places_min=currencies.places(currency))
    whole, point, fraction = text.partition(".")
    return _signed(f"{int(whole):,}{point}{fraction}", currency, value_nanos < 0)


def display_short(value_nanos: int, currency: str) -> str:
    """For people, in the currency's usual decimals, rounded down: what is shown is never more than there is."""
    places = currencies.places(currency)
    return display(value_nanos // 10 ** (9 - places) * 10 ** (9 - places), currency)


def _signed(text: str, currency: str, negative: bool) -> str:
    symbol = SYMBOLS.get(currency)
    shown = f"{symbol}{text}" if symbol else f"{text} {currency}"
    return f"-{shown}" if negative else shown
