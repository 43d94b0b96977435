"""The test cards: what each does when it is charged. Ids and numbers are those of Stripe's own test cards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TestCard:
    number: str
    brand: str
    declines: str = ""
    """The decline code whenever it is charged."""
    asks: bool = False
    """For 3-D Secure, when its holder is there; without its holder it is declined for that."""
    declines_later: bool = False
    """Pays while its holder is there, is declined without."""

    @property
    def last4(self) -> str:
        return self.number[-4:]


CARDS = {
    "pm_card_visa": TestCard("4242424242424242", "visa"),
    "pm_card_mastercard": TestCard("5555555555554444", "mastercard"),
    "pm_card_chargeDeclined": TestCard("4000000000000002", "visa", declines="generic_decline"),
    "pm_card_chargeDeclinedInsufficientFunds": TestCard("4000000000009995", "visa", declines="insufficient_funds"),
    "pm_card_authenticationRequired": TestCard("4000002760003184", "visa", asks=True),
    "pm_card_chargeCustomerFail": TestCard("4000000000000341", "visa", declines_later=True),
}
