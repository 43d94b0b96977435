"""How money moves in the fake: intents are charged, charges refunded and disputed. Each function is one atomic step."""

from __future__ import annotations

from typing import Any

from portal.demo.stripe import taxes
from portal.demo.stripe.account import Account, Object
from portal.demo.stripe.cards import CARDS, TestCard
from portal.demo.stripe.knobs import Knobs
from portal.demo.stripe.parameters import StripeRefuses, refused

AMOUNT_MAX = 99_999_999
MINIMUM = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50}


def card_method(account: Account, card_id: str, customer: str | None = None) -> Object:
    card = CARDS[card_id]
    details = {"brand": card.brand, "last4": card.last4, "exp_month": 12, "exp_year": 2034, "funding": "credit"}
    return account.new("payment_method", type="card", card=details, customer=customer, test_card=card_id)


def attach(account: Account, method: Object, customer: str) -> None:
    if method["customer"] != customer:
        method["customer"] = customer
        account.tell("payment_method.attached", method)


def new_intent(
    account: Account, *, amount: int, currency: str, customer: str | None, metadata: Any, **fields: Any
) -> Object:
    if not 0 < amount <= AMOUNT_MAX:
        raise refused(
            "This value must be greater than or equal to 1.", param="amount", code="parameter_invalid_integer"
        )
    if amount < MINIMUM.get(currency, 1):
        raise refused(
            f"Amount must be at least {MINIMUM[currency]} {currency}.", param="amount", code="amount_too_small"
        )
    intent = account.new(
        "payment_intent",
        amount=amount,
        amount_received=0,
        currency=currency,
        customer=customer,
        metadata=metadata or {},
        status="requires_payment_method",
        payment_method=None,
        latest_charge=None,
        last_payment_error=None,
        next_action=None,
        client_secret="",
        **fields,
    )
    account.tell("payment_intent.created", intent)
    return intent


def pay(account: Account, knobs: Knobs, intent: Object, method: Object, *, present: bool, passed: bool = False) -> None:
    """Charge it. `present`: whether its holder is there; `passed`: 3-D Secure was. Raises StripeRefuses (402), after
    the intent says why; leaves it in requires_action where the holder must do something."""
    if intent["status"] == "succeeded":
        raise refused("This PaymentIntent has already succeeded.", code="payment_intent_unexpected_state")
    if intent["status"] == "canceled":
        raise refused("This PaymentIntent was canceled.", code="payment_intent_unexpected_state")
    card = CARDS[method["test_card"]]
    intent["payment_method"] = method["id"]
    asks = (card.asks or knobs.challenge) and not passed
    if asks and present:
        intent["status"] = "requires_action"
        intent["next_action"] = {"type": "use_stripe_sdk"}
        account.tell("payment_intent.requires_action", intent)
        return
    problem = _problem(card, knobs, asks=asks, present=present)
    if problem:
        _fail(account, intent, method, *problem)
    _succeed(account, intent, method)


def _problem(card: TestCard, knobs: Knobs, *, asks: bool, present: bool) -> tuple[str, str] | None:
    """(error code, decline code)."""
    if asks:
        return "authentication_required", "authentication_required"
    if card.declines or knobs.decline or (card.declines_later and not present):
        return "card_declined", card.declines or "generic_decline"
    return None


def _fail(account: Account, intent: Object, method: Object, code: str, decline_code: str) -> None:
    message = {
        "authentication_required": "Your card was declined. This transaction requires authentication.",
        "insufficient_funds": "Your card has insufficient funds.",
    }.get(decline_code, "Your card was declined.")
    charge = _charge(account, intent, method, status="failed", paid=False)
    error = {"type": "card_error", "code": code, "decline_code": decline_code, "message": message}
    intent |= {"status": "requires_payment_method", "last_payment_error": error, "latest_charge": charge["id"]}
    account.tell("charge.failed", charge)
    account.tell("payment_intent.payment_failed", intent)
    raise StripeRefuses(
        402,
        "card_error",
        message,
        code=code,
        is_saved=True,
        decline_code=decline_code,
        payment_intent=dict(intent),
        charge=charge["id"],
    )


def _succeed(account: Account, intent: Object, method: Object) -> None:
    charge = _charge(account, intent, method, status="succeeded", paid=True)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "latest_charge": charge["id"],
        "last_payment_error": None,
        "next_action": None,
    }
    if intent.get("setup_future_usage") and intent["customer"]:
        attach(account, method, intent["customer"])
    account.move("payment", intent, intent["amount"])
    taxes.report(account, intent)
    account.tell("charge.succeeded", charge)
    account.tell("payment_intent.succeeded", intent)


def _charge(account: Account, intent: Object, method: Object, *, status: str, paid: bool) -> Object:
    charge = account.new(
        "charge",
        amount=intent["amount"],
        amount_refunded=0,
        currency=intent["currency"],
        customer=intent["customer"],
        metadata=dict(intent["metadata"]),
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": method["card"]},
        status=status,
        paid=paid,
        captured=paid,
        disputed=False,
        refunded=False,
        balance_transaction=None,
    )
    if paid:
        charge["balance_transaction"] = _transaction(account, charge, "charge", charge["amount"])
    return charge


def _transaction(account: Account, source: Object, kind: str, amount: int) -> str:
    made = account.new(
        "balance_transaction",
        amount=amount,
        net=amount,
        fee=0,
        currency=source["currency"],
        source=source["id"],
        type=kind,
        status="available",
    )
    return str(made["id"])


def cancel_intent(account: Account, intent: Object) -> None:
    if intent["status"] in ("succeeded", "canceled"):
        raise refused(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )
    intent |= {"status": "canceled", "next_action": None}
    account.tell("payment_intent.canceled", intent)


def charge_of(account: Account, intent: Object) -> Object:
    if intent["status"] != "succeeded":
        raise refused("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
    return account.get("charge", intent["latest_charge"])


def refund(account: Account, knobs: Knobs, intent: Object, amount: int | None, **fields: Any) -> Object:
    charge = charge_of(account, intent)
    left = charge["amount"] - charge["amount_refunded"]
    wanted = left if amount is None else amount
    if left == 0:
        raise refused("The charge has already been refunded.", code="charge_already_refunded")
    if not 0 < wanted <= left:
        raise refused(f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({left}).", param="amount")
    made = account.new(
        "refund",
        amount=wanted,
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=intent["id"],
        status="pending" if knobs.refunds_wait else "succeeded",
        failure_reason=None,
        **fields,
    )
    made["balance_transaction"] = _transaction(account, made, "refund", -wanted)
    charge["amount_refunded"] += wanted
    charge["refunded"] = charge["amount_refunded"] == charge["amount"]
    account.move("refund", intent, -wanted, refund=made["id"])
    account.tell("refund.created", made)
    account.tell("charge.refunded", charge)
    return made


def end_refund(account: Account, made: Object, status: str) -> None:
    """A pending refund succeeds or fails; a failed one gives the money back to the account."""
    if made["status"] == status or made["status"] == "failed":
        return
    made["status"] = status
    if status == "failed":
        made["failure_reason"] = "expired_or_canceled_card"
        charge = account.get("charge", made["charge"])
        charge["amount_refunded"] -= made["amount"]
        charge["refunded"] = False
        intent = account.get("payment_intent", made["payment_intent"])
        _transaction(account, made, "refund_failure", made["amount"])
        account.move("refund_failed", intent, made["amount"], refund=made["id"])
        account.tell("refund.failed", made)
    account.tell("refund.updated", made)


def dispute(account: Account, intent: Object, *, inquiry: bool = False) -> Object:
    charge = charge_of(account, intent)
    charge["disputed"] = True
    made = account.new(
        "dispute",
        amount=charge["amount"] - charge["amount_refunded"],
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=intent["id"],
        reason="fraudulent",
        status="warning_needs_response" if inquiry else "needs_response",
        metadata={},
    )
    if not inquiry:
        _withdraw(account, intent, made)
    account.tell("charge.dispute.created", made)
    if not inquiry:
        account.tell("charge.dispute.funds_withdrawn", made)
    return made


def _withdraw(account: Account, intent: Object, made: Object) -> None:
    _transaction(account, made, "adjustment", -made["amount"])
    account.move("dispute", intent, -made["amount"], dispute=made["id"])


def close_dispute(account: Account, made: Object, status: str) -> None:
    """`won`, `lost` or `warning_closed`."""
    if made["status"] in ("won", "lost", "warning_closed"):
        return
    made["status"] = status
    intent = account.get("payment_intent", made["payment_intent"])
    if status == "won":
        _transaction(account, made, "adjustment", made["amount"])
        account.move("dispute_won", intent, made["amount"], dispute=made["id"])
        account.tell("charge.dispute.funds_reinstated", made)
    account.tell("charge.dispute.closed", made)
