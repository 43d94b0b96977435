"""The API's addresses: which function answers which, for one account. No I/O; what it raises is the answer too."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from portal.demo.stripe import payments, sessions, subscriptions, taxes
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import StripeRefuses, flag, integer, refused, text


@dataclass(frozen=True, slots=True)
class Asked:
    account: Account
    knobs: Knobs
    params: Object
    page_url: str
    """Where this fake shows its pages, without a slash at the end."""
    path: str
    ids: tuple[str, ...] = ()

    def get(self, kind: str) -> Object:
        return self.account.get(kind, self.ids[0])

    def listed(self, found: list[Object]) -> Object:
        return self.account.page(found, self.params, self.path)


Handler = Callable[[Asked], Object]


def answer(method: str, asked: Asked) -> Object:
    for route_method, pattern, handler in ROUTES:
        found = pattern.fullmatch(asked.path)
        if found and route_method == method:
            asked = Asked(
                asked.account, asked.knobs, asked.params, asked.page_url, asked.path, tuple(map(str, found.groups()))
            )
            return _shown(handler(asked))
    raise refused(f"Unrecognized request URL ({method}: {asked.path}).", code="url_invalid", status=404)


def _shown(made: Object) -> Object:
    hidden = ("intent_fields", "subscription_fields", "first_intent", "test_card", "failures")
    return {name: value for name, value in made.items() if name not in hidden}


# Customers and their cards


def _new_customer(asked: Asked) -> Object:
    fields: dict[str, Any] = {name: asked.params.get(name) for name in ("email", "name", "description")}
    made = asked.account.new(
        "customer",
        metadata=asked.params.get("metadata") or {},
        invoice_settings={"default_payment_method": None},
        **fields,
    )
    asked.account.tell("customer.created", made)
    return made


def _methods(asked: Asked) -> Object:
    customer = asked.ids[0] if asked.ids else text(asked.params, "customer")
    asked.account.get("customer", customer)
    found = [_shown(row) for row in asked.account.all("payment_method") if row["customer"] == customer]
    return asked.listed(found)


def _attach(asked: Asked) -> Object:
    """Test cards may be attached by their names, as at Stripe: each attaching makes a new one."""
    customer = asked.account.get("customer", text(asked.params, "customer"))["id"]
    name = asked.ids[0]
    method = payments.card_method(asked.account, name) if name in CARDS else asked.get("payment_method")
    payments.attach(asked.account, method, customer)
    return method


def _detach(asked: Asked) -> Object:
    method = asked.get("payment_method")
    if method["customer"] is None:
        raise refused("The payment method you provided is not attached to a customer.")
    method["customer"] = None
    asked.account.tell("payment_method.detached", method)
    return method


# Payments


def _new_intent(asked: Asked) -> Object:
    params, account = asked.params, asked.account
    customer = params.get("customer")
    intent_fields = {name: params[name] for name in ("description", "setup_future_usage") if name in params}
    if customer is not None:
        account.get("customer", customer)
    method = account.get("payment_method", params["payment_method"]) if "payment_method" in params else None
    if method is not None and method["customer"] != customer:
        raise refused("The provided PaymentMethod does not belong to that customer.", param="payment_method")
    intent = payments.new_intent(
        account,
        amount=integer(params, "amount"),
        currency=text(params, "currency").lower(),
        customer=customer,
        metadata=params.get("metadata"),
        **intent_fields,
    )
    calculation = ((params.get("hooks") or {}).get("inputs") or {}).get("tax", {}).get("calculation")
    if calculation:
        taxes.expect(account, intent, account.get("tax.calculation", calculation))
    if flag(params, "confirm"):
        if method is None:
            raise refused("You cannot confirm without a payment method.", param="payment_method")
        payments.pay(account, asked.knobs, intent, method, present=not flag(params, "off_session"))
    return intent


def _cancel_intent(asked: Asked) -> Object:
    intent = asked.get("payment_intent")
    payments.cancel_intent(asked.account, intent)
    return intent


def _intents(asked: Asked) -> Object:
    customer = asked.params.get("customer")
    rows = asked.account.all("payment_intent")
    return asked.listed([row for row in rows if customer is None or row["customer"] == customer])


def _refund(asked: Asked) -> Object:
    params = asked.params
    intent = asked.account.get("payment_intent", text(params, "payment_intent"))
    amount = integer(params, "amount") if "amount" in params else None
    metadata = params.get("metadata") or {}
    return payments.refund(asked.account, asked.knobs, intent, amount, metadata=metadata, reason=params.get("reason"))


def _of_intent(kind: str) -> Handler:
    def handler(asked: Asked) -> Object:
        intent = asked.params.get("payment_intent")
        rows = asked.account.all(kind)
        return asked.listed([row for row in rows if intent is None or row.get("payment_intent") == intent])

    return handler


def _calculation(asked: Asked) -> Object:
    customer = asked.account.get("customer", text(asked.params, "customer"))
    return taxes.calculate(asked.account, asked.knobs, customer, asked.params)


# Subscriptions


def _new_price(asked: Asked) -> Object:
    params = asked.params
    recurring = params.get("recurring") or {}
    if recurring.get("interval") != "month":
        raise refused("This stand-in bills by the month only.", param="recurring[interval]")
    return subscriptions.new_price(
        asked.account,
        amount=integer(params, "unit_amount"),
        currency=text(params, "currency").lower(),
        name=text(params.get("product_data") or {}, "name"),
        metadata=params.get("metadata") or {},
    )


def _change_subscription(asked: Asked) -> Object:
    found = asked.get("subscription")
    items = asked.params.get("items")
    if items:
        price = asked.account.get("price", text(items[0], "price"))
        if items[0].get("id") != found["items"]["data"][0]["id"]:
            raise refused("This item is none of the subscription's.", param="items")
        subscriptions.change(asked.account, asked.knobs, found, price)
    if "cancel_at_period_end" in asked.params:
        subscriptions.end_with_period(asked.account, found, ends=flag(asked.params, "cancel_at_period_end"))
    return found


def _cancel_subscription(asked: Asked) -> Object:
    found = asked.get("subscription")
    subscriptions.end(asked.account, found, "cancellation_requested")
    return found


def _subscriptions(asked: Asked) -> Object:
    """Without the ended ones, unless `status` asks for them."""
    status = asked.params.get("status")
    rows = [
        row
        for row in asked.account.all("subscription")
        if row["customer"] == asked.params.get("customer", row["customer"])
    ]
    wanted = [
        row for row in rows if status == "all" or (row["status"] == status if status else row["status"] != "canceled")
    ]
    return asked.listed([_shown(row) for row in wanted])


def _invoices(asked: Asked) -> Object:
    wanted = asked.params.get("subscription")
    rows = asked.account.all("invoice")
    return asked.listed(
        [row for row in rows if wanted is None or row["parent"]["subscription_details"]["subscription"] == wanted]
    )


# Pages of Stripe's own


def _new_session(asked: Asked) -> Object:
    return sessions.create(asked.account, asked.knobs, asked.params, asked.page_url)


def _session(asked: Asked) -> Object:
    return sessions.open_session(asked.account, asked.ids[0])


def _expire_session(asked: Asked) -> Object:
    found = sessions.open_session(asked.account, asked.ids[0])
    sessions.expire(asked.account, found)
    return found


def _sessions(asked: Asked) -> Object:
    intent = asked.params.get("payment_intent")
    rows = [sessions.open_session(asked.account, row["id"]) for row in asked.account.all("checkout.session")]
    return asked.listed([_shown(row) for row in rows if intent is None or row["payment_intent"] == intent])


def _new_portal(asked: Asked) -> Object:
    customer = asked.account.get("customer", text(asked.params, "customer"))
    made = asked.account.new(
        "billing_portal.session", customer=customer["id"], return_url=asked.params.get("return_url") or ""
    )
    made["url"] = f"{asked.page_url}/p/session/{made['id']}"
    return made


def _events(asked: Asked) -> Object:
    kinds = asked.params.get("types") or ([asked.params["type"]] if "type" in asked.params else None)
    rows = asked.account.all("event")
    return asked.listed([row for row in rows if kinds is None or row["type"] in kinds])


def _account(asked: Asked) -> Object:
    return {"id": f"acct_{asked.account.name[-12:]}", "object": "account", "charges_enabled": True}


def _one(kind: str) -> Handler:
    return lambda asked: asked.get(kind)


def _list(kind: str) -> Handler:
    return lambda asked: asked.listed(asked.account.all(kind))


_ID = r"([A-Za-z0-9_]{1,100})"
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = [
    (method, re.compile("/v1/" + path.replace("ID", _ID)), handler)
    for method, path, handler in (
        ("GET", "account", _account),
        ("POST", "customers", _new_customer),
        ("GET", "customers/ID", _one("customer")),
        ("GET", "customers/ID/payment_methods", _methods),
        ("GET", "payment_methods", _methods),
        ("GET", "payment_methods/ID", _one("payment_method")),
        ("POST", "payment_methods/ID/attach", _attach),
        ("POST", "payment_methods/ID/detach", _detach),
        ("GET", "setup_intents/ID", _one("setup_intent")),
        ("POST", "payment_intents", _new_intent),
        ("GET", "payment_intents", _intents),
        ("GET", "payment_intents/ID", _one("payment_intent")),
        ("POST", "payment_intents/ID/cancel", _cancel_intent),
        ("GET", "charges", _of_intent("charge")),
        ("GET", "charges/ID", _one("charge")),
        ("POST", "refunds", _refund),
        ("GET", "refunds", _of_intent("refund")),
        ("GET", "refunds/ID", _one("refund")),
        ("GET", "disputes", _of_intent("dispute")),
        ("GET", "disputes/ID", _one("dispute")),
        ("GET", "balance_transactions", _list("balance_transaction")),
        ("POST", "tax/calculations", _calculation),
        ("POST", "checkout/sessions", _new_session),
        ("GET", "checkout/sessions", _sessions),
        ("GET", "checkout/sessions/ID", _session),
        ("POST", "checkout/sessions/ID/expire", _expire_session),
        ("POST", "billing_portal/sessions", _new_portal),
        ("POST", "prices", _new_price),
        ("GET", "prices/ID", _one("price")),
        ("GET", "subscriptions", _subscriptions),
        ("GET", "subscriptions/ID", _one("subscription")),
        ("POST", "subscriptions/ID", _change_subscription),
        ("DELETE", "subscriptions/ID", _cancel_subscription),
        ("GET", "invoices", _invoices),
        ("GET", "invoices/ID", _one("invoice")),
        ("GET", "events", _events),
        ("GET", "events/ID", _one("event")),
    )
]

__all__ = ["Asked", "StripeRefuses", "answer"]
