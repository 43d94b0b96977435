"""Currencies: how many decimals each has, and what a payment provider can take of it. Pure; integers only.

Source of the provider's rules: docs.stripe.com/currencies (zero-decimal, three-decimal and special cases, minimum and
maximum charge amounts), read in November 2026. A provider's amounts are whole numbers of *minor units* (cents; yen).
"""

from __future__ import annotations

NANOS_PLACES = 9

ZERO_DECIMAL = frozenset(
    {
        *("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA"),
        *("PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"),
    }
)
THREE_DECIMAL = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
WHOLE_IN_CENTS = frozenset({"ISK", "UGX"})
"""Without decimals, yet sent with two of them, which must be zeros: 5 ISK are 500."""

MINOR_UNITS_MAX = 99_999_999
MINOR_UNITS_MAX_OF = {"IDR": 999_999_999_999, "INR": 999_999_999}

MINOR_UNITS_MIN = {
    **dict.fromkeys(("USD", "AUD", "BRL", "CAD", "CHF", "EUR", "INR", "NZD", "SGD"), 50),
    "AED": 200,
    "BGN": 100,
    "CZK": 1_500,
    "DKK": 250,
    "GBP": 30,
    "HKD": 400,
    "HUF": 17_500,
    "JPY": 50,
    "MXN": 1_000,
    "MYR": 200,
    "NOK": 300,
    "PLN": 200,
    "RON": 200,
    "SEK": 300,
    "THB": 1_000,
}
"""The least that may be charged. Currencies not listed must come to the least of the seller's own bank account after
conversion, which only the provider knows: it refuses what is too little."""


class NotChargeable(ValueError):
    """An amount that a provider cannot take as it is; the message says what it can."""


def places(currency: str) -> int:
    """Decimals that people write: 2 for most, 0 for JPY, 3 for KWD."""
    if currency in ZERO_DECIMAL or currency in WHOLE_IN_CENTS:
        return 0
    return 3 if currency in THREE_DECIMAL else 2


def nanos_per_minor_unit(currency: str) -> int:
    """10⁷ for USD (a cent), 10⁹ for JPY (a yen), 10⁶ for KWD (a fils)."""
    decimals = 2 if currency in WHOLE_IN_CENTS else places(currency)
    nanos: int = 10 ** (NANOS_PLACES - decimals)
    return nanos


def step_nanos(currency: str) -> int:
    """What every charge is a multiple of: a cent, a yen, ten fils (the last digit must be zero), a króna."""
    coarser = 100 if currency in WHOLE_IN_CENTS else 10 if currency in THREE_DECIMAL else 1
    return nanos_per_minor_unit(currency) * coarser


def minor_units(nanos: int, currency: str) -> int:
    """Nanos → the provider's whole number, exactly. NotChargeable for no multiple of `step_nanos`: round before,
    and say so to who pays."""
    if nanos % step_nanos(currency):
        raise NotChargeable(f"amounts in {currency} are multiples of {_units(step_nanos(currency))}")
    return nanos // nanos_per_minor_unit(currency)


def nanos_of(units: int, currency: str) -> int:
    """The provider's whole number → nanos, exactly."""
    return units * nanos_per_minor_unit(currency)


def minimum_nanos(currency: str) -> int:
    """The least that may be charged; one step where the provider publishes none."""
    least = MINOR_UNITS_MIN.get(currency)
    return step_nanos(currency) if least is None else nanos_of(least, currency)


def maximum_nanos(currency: str) -> int:
    return nanos_of(MINOR_UNITS_MAX_OF.get(currency, MINOR_UNITS_MAX), currency)


def charge_problem(nanos: int, currency: str) -> str | None:
    """Why this much cannot be charged, in words for who pays; None when it can."""
    if nanos < minimum_nanos(currency):
        return f"The least that can be paid is {_units(minimum_nanos(currency))} {currency}."
    if nanos > maximum_nanos(currency):
        return f"The most that can be paid at once is {_units(maximum_nanos(currency))} {currency}."
    if nanos % step_nanos(currency):
        return f"Amounts in {currency} are multiples of {_units(step_nanos(currency))}."
    return None


def _units(nanos: int) -> str:
    whole, fraction = divmod(nanos, 10**NANOS_PLACES)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{whole:,}.{digits.ljust(2, '0')}" if digits else f"{whole:,}"
