"""Subscriptions of the fake: one monthly price each, begun by Checkout, billed by invoices as its time moves on.

An invoice that cannot be paid is tried again after TRIES days; then the subscription ends (or stays, unpaid: a knob).
Between two prices the rest of the month is settled at once: a dearer one is charged, a cheaper one leaves a balance
that the next invoices use up.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

from portal.demo.stripe import payments
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import StripeRefuses, refused

DAY = 24 * 3600
TRIES = (3 * DAY, 5 * DAY, 7 * DAY)
"""After the first, second, third failure to pay an invoice."""
LIVING = ("active", "past_due", "unpaid")


def new_price(account: Account, *, amount: int, currency: str, name: str, metadata: Object) -> Object:
    product = account.new("product", name=name, active=True, metadata={})
    return account.new(
        "price",
        product=product["id"],
        nickname=name,
        unit_amount=amount,
        currency=currency,
        type="recurring",
        recurring={"interval": "month", "interval_count": 1},
        metadata=metadata,
        active=True,
    )


def living(account: Account, customer: str) -> list[Object]:
    return [row for row in account.all("subscription") if row["customer"] == customer and row["status"] in LIVING]


def begin(account: Account, knobs: Knobs, session: Object, intent: Object, method: Object) -> Object:
    """What a paid Checkout starts; its first invoice is the payment that was just made."""
    price = account.get("price", session["lines"][0]["price"])
    at = int(account.clock())
    made = account.new(
        "subscription",
        customer=session["customer"],
        currency=session["currency"],
        status="active",
        cancel_at_period_end=False,
        cancel_at=None,
        canceled_at=None,
        ended_at=None,
        start_date=at,
        default_payment_method=method["id"],
        latest_invoice=None,
        metadata=session["subscription_fields"].get("metadata") or {},
        automatic_tax=session["automatic_tax"],
        failures=0,
    )
    item = account.new("subscription_item", subscription=made["id"], quantity=1, price=dict(price))
    item |= {"current_period_start": at, "current_period_end": _month_after(at)}
    made["items"] = {"object": "list", "data": [item], "has_more": False, "url": "/v1/subscription_items"}
    session |= {"subscription": made["id"]}
    account.tell("customer.subscription.created", made)
    invoice = _invoice(account, knobs, made, session["amount_subtotal"], "subscription_create")
    session["invoice"] = invoice["id"]
    _paid(account, made, invoice, intent)
    return made


def _invoice(account: Account, knobs: Knobs, subscription: Object, subtotal: int, why: str) -> Object:
    """Finalized at once. What the customer's balance has is used first."""
    customer = account.get("customer", subscription["customer"])
    tax = subtotal * knobs.tax_percent // 100 if subscription["automatic_tax"]["enabled"] and subtotal > 0 else 0
    total = subtotal + tax
    balance = customer.setdefault("balance", 0)
    due = max(0, total + balance)
    customer["balance"] = total + balance - due
    made = account.new(
        "invoice",
        customer=subscription["customer"],
        currency=subscription["currency"],
        billing_reason=why,
        status="open",
        subtotal=subtotal,
        total=total,
        total_excluding_tax=subtotal,
        amount_due=due,
        amount_paid=0,
        amount_remaining=due,
        starting_balance=balance,
        attempt_count=0,
        next_payment_attempt=None,
        parent={"type": "subscription_details", "subscription_details": {"subscription": subscription["id"]}},
        payments={"object": "list", "data": [], "has_more": False, "url": ""},
        status_transitions={"paid_at": None, "finalized_at": int(account.clock())},
        hosted_invoice_url=None,
    )
    subscription["latest_invoice"] = made["id"]
    account.tell("invoice.finalized", made)
    return made


def _paid(account: Account, subscription: Object, invoice: Object, intent: Object | None) -> None:
    """`intent` None: nothing was left to pay."""
    if intent is not None:
        payment = {"type": "payment_intent", "payment_intent": intent["id"]}
        row = {"id": f"inpay_{invoice['id'][3:]}", "object": "invoice_payment", "status": "paid", "payment": payment}
        invoice["payments"]["data"] = [row | {"amount_paid": intent["amount"], "invoice": invoice["id"]}]
    invoice |= {"status": "paid", "amount_paid": invoice["amount_due"], "amount_remaining": 0}
    invoice["next_payment_attempt"] = None
    invoice["status_transitions"]["paid_at"] = int(account.clock())
    account.tell("invoice.paid", invoice)
    subscription["failures"] = 0
    if subscription["status"] in ("past_due", "unpaid"):
        subscription["status"] = "active"
        account.tell("customer.subscription.updated", subscription)


def _collect(account: Account, knobs: Knobs, subscription: Object, invoice: Object) -> bool:
    """Without its holder there; whether it is paid."""
    if invoice["amount_due"] == 0:
        _paid(account, subscription, invoice, None)
        return True
    method = account.get("payment_method", subscription["default_payment_method"])
    intent = payments.new_intent(
        account,
        amount=invoice["amount_due"],
        currency=invoice["currency"],
        customer=invoice["customer"],
        metadata={},
        description="Subscription",
    )
    invoice["attempt_count"] += 1
    try:
        payments.pay(account, knobs, intent, method, present=False)
    except StripeRefuses:
        payments.cancel_intent(account, intent)
        return False
    _paid(account, subscription, invoice, intent)
    return True


# As time goes by


def advance(account: Account, knobs: Knobs, days: float) -> None:
    """The account's time moves on; what falls due on the way happens at its own moment, in order."""
    until = account.clock() + days * DAY
    while True:
        due = [(at, row["id"]) for row in account.all("subscription") if (at := _due_at(account, row)) is not None]
        at, subscription_id = min(due, default=(until + 1, ""))
        if at > until:
            break
        account.ahead += max(0.0, at - account.clock())
        _step(account, knobs, account.get("subscription", subscription_id))
    account.ahead += max(0.0, until - account.clock())


def _due_at(account: Account, row: Object) -> float | None:
    if row["status"] not in LIVING:
        return None
    ends = float(row["items"]["data"][0]["current_period_end"])
    if row["status"] == "active" or row["cancel_at_period_end"]:
        return ends
    again = account.get("invoice", row["latest_invoice"])["next_payment_attempt"]
    return None if again is None else float(again)


def _step(account: Account, knobs: Knobs, row: Object) -> None:
    (item,) = row["items"]["data"]
    if row["cancel_at_period_end"] and item["current_period_end"] <= account.clock():
        end(account, row, "cancellation_requested")
    elif row["status"] == "active":
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] = _month_after(item["current_period_start"], row["start_date"])
        account.tell("customer.subscription.updated", row)
        invoice = _invoice(account, knobs, row, item["price"]["unit_amount"], "subscription_cycle")
        _try(account, knobs, row, invoice)
    else:
        _try(account, knobs, row, account.get("invoice", row["latest_invoice"]))


def _try(account: Account, knobs: Knobs, row: Object, invoice: Object) -> None:
    if _collect(account, knobs, row, invoice):
        return
    failures = row["failures"] = row["failures"] + 1
    again = failures <= len(TRIES)
    invoice["next_payment_attempt"] = int(account.clock()) + TRIES[failures - 1] if again else None
    account.tell("invoice.payment_failed", invoice)
    if again:
        if row["status"] != "past_due":
            row["status"] = "past_due"
            account.tell("customer.subscription.updated", row)
    elif knobs.unpaid_ends:
        end(account, row, "payment_failed")
    else:
        row["status"] = "unpaid"
        account.tell("customer.subscription.updated", row)


def end(account: Account, row: Object, why: str) -> None:
    if row["status"] == "canceled":
        raise refused(f"No such subscription: '{row['id']}'", code="resource_missing", status=404)
    at = int(account.clock())
    row |= {"status": "canceled", "ended_at": at, "canceled_at": row["canceled_at"] or at}
    row["cancellation_details"] = {"reason": why, "comment": None, "feedback": None}
    account.tell("customer.subscription.deleted", row)


def _month_after(at: int, anchor: int | None = None) -> int:
    """The same day and time of the next month, or its last day; the day is that of `anchor`."""
    moment = datetime.fromtimestamp(at, UTC)
    day = moment.day if anchor is None else datetime.fromtimestamp(anchor, UTC).day
    year, month = moment.year + moment.month // 12, moment.month % 12 + 1
    last = calendar.monthrange(year, month)[1]
    return int(moment.replace(year=year, month=month, day=min(day, last)).timestamp())


# What its holder wishes


def end_with_period(account: Account, row: Object, *, ends: bool) -> None:
    _must_live(row)
    (item,) = row["items"]["data"]
    row["cancel_at_period_end"] = ends
    row["cancel_at"] = item["current_period_end"] if ends else None
    row["canceled_at"] = int(account.clock()) if ends else None
    account.tell("customer.subscription.updated", row)


def change(account: Account, knobs: Knobs, row: Object, price: Object) -> None:
    """To another price at once (proration_behavior always_invoice, payment_behavior error_if_incomplete): where the
    difference cannot be paid nothing changes, and the answer is 402."""
    _must_live(row)
    (item,) = row["items"]["data"]
    if price["currency"] != row["currency"]:
        raise refused("All prices of a subscription have one currency.", param="items")
    if price["id"] == item["price"]["id"]:
        return
    whole = item["current_period_end"] - item["current_period_start"]
    left = max(0, item["current_period_end"] - int(account.clock()))
    difference = (price["unit_amount"] - item["price"]["unit_amount"]) * left // whole
    least = payments.MINIMUM.get(row["currency"], 1)
    before, latest = account.get("customer", row["customer"]).get("balance", 0), row["latest_invoice"]
    if 0 < difference < least:  # too little to charge: it waits in the balance, as at Stripe
        account.get("customer", row["customer"])["balance"] = before + difference
    else:
        invoice = _invoice(account, knobs, row, difference, "subscription_update")
        if not _collect(account, knobs, row, invoice):
            invoice["status"] = "void"
            account.get("customer", row["customer"])["balance"] = before
            row["latest_invoice"] = latest
            raise StripeRefuses(402, "card_error", "Your card was declined.", code="card_declined", is_saved=True)
    item["price"] = dict(price)
    account.tell("customer.subscription.updated", row)


def at_the_portal(account: Account, knobs: Knobs, customer: str, sent: Object) -> None:
    """Buttons of the customer's page."""
    row = account.get("subscription", sent.get("subscription"))
    if row["customer"] != customer:
        raise refused("No such subscription.", status=404)
    if sent.get("act") in ("cancel", "resume"):
        end_with_period(account, row, ends=sent["act"] == "cancel")
    elif sent.get("card") in CARDS:
        method = payments.card_method(account, sent["card"])
        payments.attach(account, method, customer)
        row["default_payment_method"] = method["id"]
        account.tell("customer.subscription.updated", row)
        if row["status"] in ("past_due", "unpaid"):
            _try(account, knobs, row, account.get("invoice", row["latest_invoice"]))


def _must_live(row: Object) -> None:
    if row["status"] not in LIVING:
        raise refused("A canceled subscription can only update its metadata.", param="status")
