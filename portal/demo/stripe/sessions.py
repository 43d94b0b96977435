"""Checkout sessions of the fake: made by the API, paid on its page. Modes: payment and setup."""

from __future__ import annotations

from typing import Any

from portal.demo.stripe import payments
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import flag, integer, refused, text

LIFETIME_SECONDS = 24 * 3600


def create(account: Account, knobs: Knobs, params: Object, page_url: str) -> Object:
    mode = text(params, "mode")
    if mode not in ("payment", "setup"):
        raise refused("Invalid mode: must be one of payment or setup", param="mode")
    customer = params.get("customer")
    if customer is not None:
        account.get("customer", customer)
    currency, subtotal, lines = _lines(params) if mode == "payment" else (params.get("currency", "usd"), 0, [])
    taxed = flag(params.get("automatic_tax") or {}, "enabled")
    tax = subtotal * knobs.tax_percent // 100 if taxed else 0
    made = account.new(
        "checkout.session",
        mode=mode,
        status="open",
        payment_status="unpaid" if mode == "payment" else "no_payment_required",
        amount_subtotal=subtotal if mode == "payment" else None,
        amount_total=subtotal + tax if mode == "payment" else None,
        total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": tax},
        automatic_tax={"enabled": taxed, "status": "complete" if taxed else None},
        currency=currency,
        customer=customer,
        client_reference_id=params.get("client_reference_id"),
        metadata=params.get("metadata") or {},
        success_url=text(params, "success_url"),
        cancel_url=params.get("cancel_url"),
        expires_at=integer(params, "expires_at", default=int(account.clock()) + LIFETIME_SECONDS),
        payment_intent=None,
        setup_intent=None,
        lines=lines,
        intent_fields=_intent_fields(params),
    )
    made["url"] = f"{page_url}/c/pay/{made['id']}"
    return made


def _lines(params: Object) -> tuple[str, int, list[Object]]:
    given = params.get("line_items")
    if not isinstance(given, list) or not given:
        raise refused("You must provide line_items.", param="line_items", code="parameter_missing")
    lines: list[Object] = []
    for item in given:
        price = item.get("price_data") or {}
        product = price.get("product_data") or {}
        lines.append(
            {
                "name": text(product, "name"),
                "currency": text(price, "currency"),
                "amount": integer(price, "unit_amount") * integer(item, "quantity", default=1),
            }
        )
    amount = sum(line["amount"] for line in lines)
    least = payments.MINIMUM.get(lines[0]["currency"], 1)
    if amount < least:
        raise refused(f"The total must be at least {least}.", param="line_items", code="amount_too_small")
    return lines[0]["currency"], amount, lines


def _intent_fields(params: Object) -> Object:
    given = params.get("payment_intent_data") or params.get("setup_intent_data") or {}
    names = ("metadata", "setup_future_usage", "description")
    return {name: given[name] for name in names if name in given}


def open_session(account: Account, session_id: str) -> Object:
    found = account.get("checkout.session", session_id)
    if found["status"] == "open" and found["expires_at"] <= account.clock():
        expire(account, found)
    return found


def expire(account: Account, session: Object) -> None:
    if session["status"] != "open":
        raise refused(f"This Session is {session['status']}: only open ones can be expired.", param="session")
    session["status"] = "expired"
    session["url"] = None
    account.tell("checkout.session.expired", session)


def pay(account: Account, knobs: Knobs, session: Object, card: str, *, passed: bool = False) -> Object | None:
    """What its page's buttons do. Gives the intent when 3-D Secure is asked for; raises StripeRefuses when declined."""
    if session["status"] != "open":
        raise refused("This page has expired or was paid already.")
    method = payments.card_method(account, card)
    if session["mode"] == "setup":
        if (CARDS[card].asks or knobs.challenge) and not passed:
            return session
        _set_up(account, session, method)
    else:
        intent = _intent(account, session)
        payments.pay(account, knobs, intent, method, present=True, passed=passed)
        if intent["status"] == "requires_action":
            return intent
        session["payment_status"] = "paid"
    session |= {"status": "complete", "url": None}
    account.tell("checkout.session.completed", session)
    return None


def _customer(account: Account, session: Object) -> str:
    if session["customer"] is None:
        session["customer"] = account.new("customer", email=None, metadata={}, name=None)["id"]
    return str(session["customer"])


def _intent(account: Account, session: Object) -> Object:
    """One for the session's whole life, made at the first try to pay, as Stripe does."""
    if session["payment_intent"] is not None:
        return account.get("payment_intent", session["payment_intent"])
    fields: dict[str, Any] = {"metadata": {}} | session["intent_fields"]
    customer = _customer(account, session) if fields.get("setup_future_usage") else session["customer"]
    made = payments.new_intent(
        account, amount=session["amount_total"], currency=session["currency"], customer=customer, **fields
    )
    session["payment_intent"] = made["id"]
    return made


def _set_up(account: Account, session: Object, method: Object) -> None:
    customer = _customer(account, session)
    made = account.new(
        "setup_intent",
        customer=customer,
        payment_method=method["id"],
        status="succeeded",
        usage="off_session",
        metadata=session["intent_fields"].get("metadata", {}),
    )
    session["setup_intent"] = made["id"]
    payments.attach(account, method, customer)
    account.tell("setup_intent.succeeded", made)
