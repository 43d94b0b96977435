"""Stripe Tax in the fake: one rate for everybody, on top of or within each line; nothing for who has no address."""

from __future__ import annotations

from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import integer, refused, text


def calculate(account: Account, knobs: Knobs, customer: Object, params: Object) -> Object:
    if knobs.nowhere:
        raise refused(
            "The customer's location isn't recognized. Set a valid customer address in order to calculate tax.",
            code="customer_tax_location_invalid",
        )
    lines = params.get("line_items")
    if not isinstance(lines, list) or not lines:
        raise refused("You must provide line_items.", param="line_items", code="parameter_missing")
    amounts = [integer(line, "amount") for line in lines]
    rate = knobs.tax_percent
    inside = [line.get("tax_behavior") == "inclusive" for line in lines]
    taxes = [amount * rate // (100 + rate if within else 100) for amount, within in zip(amounts, inside, strict=True)]
    exclusive = sum(tax for tax, within in zip(taxes, inside, strict=True) if not within)
    return account.new(
        "tax.calculation",
        amount_total=sum(amounts) + exclusive,
        currency=text(params, "currency").lower(),
        customer=customer["id"],
        tax_amount_exclusive=exclusive,
        tax_amount_inclusive=sum(taxes) - exclusive,
        tax_breakdown=[],
        tax_date=int(account.clock()),
    )


def expect(account: Account, intent: Object, calculation: Object) -> None:
    """The payment carries that tax: what it is paid with is then reported (`report`)."""
    if (calculation["amount_total"], calculation["currency"]) != (intent["amount"], intent["currency"]):
        raise refused("The amount is not the total of the calculation.", param="hooks[inputs][tax][calculation]")
    intent["hooks"] = {"inputs": {"tax": {"calculation": calculation["id"]}}}


def report(account: Account, intent: Object) -> None:
    """At the moment of the payment, as Stripe does."""
    hooks = intent.get("hooks")
    if hooks:
        found = account.get("tax.calculation", hooks["inputs"]["tax"]["calculation"])
        account.new(
            "tax.transaction", reference=intent["id"], tax=found["tax_amount_exclusive"], customer=found["customer"]
        )
