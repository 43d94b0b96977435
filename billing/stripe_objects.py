"""Stripe's objects as this house reads them. Pure: what its API answers in, values out; amounts in minor units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Session:
    """A Checkout session. Amounts in minor units; `subtotal` without tax."""

    id: str
    mode: str
    status: str
    payment_status: str
    url: str
    reference: str
    currency: str
    subtotal: int
    total: int
    tax: int
    customer: str
    payment_intent: str
    setup_intent: str
    subscription: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A payment: amounts in minor units."""

    id: str
    status: str
    amount: int
    received: int
    currency: str
    customer: str
    payment_method: str
    metadata: Mapping[str, str]
    failure_code: str
    failure: str


@dataclass(frozen=True, slots=True)
class Tax:
    """What Stripe Tax adds to a net amount: `calculation` is its id, `units` the tax."""

    calculation: str
    units: int


@dataclass(frozen=True, slots=True)
class Back:
    """A refund or a dispute. `is_back`: the money went back to the customer, and stayed there so far."""

    id: str
    payment_intent: str
    units: int
    currency: str
    status: str
    is_back: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Card:
    payment_method: str
    brand: str
    last4: str
    expires: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """One price, billed by the month. `ends_at`: when it was told to end; None where it goes on."""

    id: str
    status: str
    customer: str
    item: str
    price: str
    period_end: datetime
    ends_at: datetime | None
    ends_with_period: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Invoice:
    """`paid` is what was received for it, of which `net` is without tax. `payment_intent` is empty where nothing had
    to be paid, or it was paid elsewhere."""

    id: str
    status: str
    subscription: str
    currency: str
    paid: int
    net: int
    payment_intent: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    kind: str
    happened_at: datetime
    livemode: bool
    payload: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        found = self.payload.get("data", {}).get("object", {})
        return found if isinstance(found, dict) else {}


def _text(found: Mapping[str, Any], name: str) -> str:
    """An id, also where it came expanded."""
    value = found.get(name)
    return str(value["id"]) if isinstance(value, Mapping) else str(value or "")


def session(found: Mapping[str, Any]) -> Session:
    return Session(
        id=found["id"],
        mode=found["mode"],
        status=str(found.get("status") or ""),
        payment_status=str(found.get("payment_status") or ""),
        url=str(found.get("url") or ""),
        reference=str(found.get("client_reference_id") or ""),
        currency=str(found.get("currency") or "").upper(),
        subtotal=int(found.get("amount_subtotal") or 0),
        total=int(found.get("amount_total") or 0),
        tax=int((found.get("total_details") or {}).get("amount_tax") or 0),
        customer=_text(found, "customer"),
        payment_intent=_text(found, "payment_intent"),
        setup_intent=_text(found, "setup_intent"),
        subscription=_text(found, "subscription"),
    )


def intent(found: Mapping[str, Any]) -> Intent:
    failure = found.get("last_payment_error") or {}
    return Intent(
        id=found["id"],
        status=found["status"],
        amount=int(found["amount"]),
        received=int(found.get("amount_received") or 0),
        currency=str(found["currency"]).upper(),
        customer=_text(found, "customer"),
        payment_method=_text(found, "payment_method"),
        metadata=dict(found.get("metadata") or {}),
        failure_code=str(failure.get("code") or ""),
        failure=str(failure.get("message") or ""),
    )


def refund(found: Mapping[str, Any]) -> Back:
    return _back(found, is_back=found["status"] not in ("failed", "canceled"))


def dispute(found: Mapping[str, Any]) -> Back:
    """An inquiry (warning_…) takes no money; a dispute does until it is won."""
    return _back(found, is_back=found["status"] != "won" and not found["status"].startswith("warning_"))


def _back(found: Mapping[str, Any], *, is_back: bool) -> Back:
    return Back(
        id=found["id"],
        payment_intent=_text(found, "payment_intent"),
        units=int(found["amount"]),
        currency=str(found["currency"]).upper(),
        status=found["status"],
        is_back=is_back,
        metadata=dict(found.get("metadata") or {}),
    )


def event(found: Mapping[str, Any]) -> Event:
    return Event(
        id=str(found["id"]),
        kind=str(found["type"]),
        happened_at=datetime.fromtimestamp(int(found["created"]), UTC),
        livemode=bool(found["livemode"]),
        payload=dict(found),
    )


def subscription(found: Mapping[str, Any]) -> Subscription:
    item = found["items"]["data"][0]
    period_end = _moment(item["current_period_end"])
    at = found.get("cancel_at")
    with_period = bool(found.get("cancel_at_period_end"))
    return Subscription(
        id=found["id"],
        status=found["status"],
        customer=_text(found, "customer"),
        item=item["id"],
        price=item["price"]["id"],
        period_end=period_end,
        ends_at=_moment(at) if at else period_end if with_period else None,
        ends_with_period=with_period,
        metadata=dict(found.get("metadata") or {}),
    )


def invoice(found: Mapping[str, Any]) -> Invoice:
    parent = (found.get("parent") or {}).get("subscription_details") or {}
    paid, total = int(found.get("amount_paid") or 0), int(found.get("total") or 0)
    net = found.get("total_excluding_tax")
    return Invoice(
        id=found["id"],
        status=str(found.get("status") or ""),
        subscription=_text(parent, "subscription"),
        currency=str(found["currency"]).upper(),
        paid=paid,
        # Where a balance at Stripe paid a part, tax is in what was received as it is in the whole.
        net=paid if net is None or total <= 0 else paid * int(net) // total,
        payment_intent=_paid_by(found),
        reason=str(found.get("billing_reason") or ""),
        created_at=_moment(found["created"]),
    )


def _paid_by(found: Mapping[str, Any]) -> str:
    for row in (found.get("payments") or {}).get("data") or ():
        if row.get("status") == "paid":
            return _text(row.get("payment") or {}, "payment_intent")
    return ""


def _moment(seconds: Any) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)
