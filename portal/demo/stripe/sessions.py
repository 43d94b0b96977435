"""Checkout sessions of the fake: made by the API, paid on its page. Modes: payment, setup and subscription."""

from __future__ import annotations

from typing import Any

from portal.demo.stripe import payments, subscriptions
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import flag, integer, refused, text

LIFETIME_SECONDS = 24 * 3600


def create(account: Account, knobs: Knobs, params: Object, page_url: str) -> Object:
    mode = text(params, "mode")
    if mode not in ("payment", "setup", "subscription"):
        raise refused("Invalid mode: must be one of payment, setup, or subscription", param="mode")
    customer = params.get("customer")
    if customer is not None:
        account.get("customer", customer)
    is_setup = mode == "setup"
    currency, subtotal, lines = (
        (params.get("currency", "usd"), 0, []) if is_setup else _lines(account, params, recurs=mode == "subscription")
    )
    taxed = flag(params.get("automatic_tax") or {}, "enabled")
    tax = subtotal * knobs.tax_percent // 100 if taxed else 0
    made = account.new(
        "checkout.session",
        mode=mode,
        status="open",
        payment_status="no_payment_required" if is_setup else "unpaid",
        amount_subtotal=None if is_setup else subtotal,
        amount_total=None if is_setup else subtotal + tax,
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
        subscription=None,
        invoice=None,
        lines=lines,
        subscription_fields=params.get("subscription_data") or {},
        intent_fields=_intent_fields(params),
    )
    made["url"] = f"{page_url}/c/pay/{made['id']}"
    return made


def _lines(account: Account, params: Object, *, recurs: bool) -> tuple[str, int, list[Object]]:
    given = params.get("line_items")
    if not isinstance(given, list) or not given:
        raise refused("You must provide line_items.", param="line_items", code="parameter_missing")
    lines: list[Object] = []
    for item in given:
        price = account.get("price", item["price"]) if "price" in item else item.get("price_data") or {}
        if bool(price.get("recurring")) != recurs:
            raise refused("A subscription has recurring prices, a payment has none.", param="line_items")
        lines.append(
            {
                "name": _name(account, price),
                "currency": text(price, "currency"),
                "amount": integer(price, "unit_amount") * integer(item, "quantity", default=1),
                "price": item.get("price"),
            }
        )
    amount = sum(line["amount"] for line in lines)
    least = payments.MINIMUM.get(lines[0]["currency"], 1)
    if amount < least:
        raise refused(f"The total must be at least {least}.", param="line_items", code="amount_too_small")
    return lines[0]["currency"], amount, lines


def _name(account: Account, price: Object) -> str:
    product = account.get("product", price["product"]) if "product" in price else price.get("product_data") or {}
    return text(product, "name")


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
        if session["mode"] == "subscription":
            subscriptions.begin(account, knobs, session, intent, method)
    session |= {"status": "complete", "url": None}
    account.tell("checkout.session.completed", session)
    return None


def _customer(account: Account, session: Object) -> str:
    if session["customer"] is None:
        session["customer"] = account.new("customer", email=None, metadata={}, name=None)["id"]
    return str(session["customer"])


def _intent(account: Account, session: Object) -> Object:
    """One for the session's whole life, made at the first try to pay, as Stripe does."""
    kept = "first_intent" if session["mode"] == "subscription" else "payment_intent"
    if session.get(kept) is not None:
        return account.get("payment_intent", session[kept])
    fields: dict[str, Any] = {"metadata": {}} | session["intent_fields"]
    if session["mode"] == "subscription":
        fields["setup_future_usage"] = "off_session"
    customer = _customer(account, session) if fields.get("setup_future_usage") else session["customer"]
    made = payments.new_intent(
        account, amount=session["amount_total"], currency=session["currency"], customer=customer, **fields
    )
    session[kept] = made["id"]
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
