"""Stripe, in this house's words: the only file that knows its SDK. No rows are written here.

Every call that could move money carries an idempotency key that the caller has stored before. What it raises says what
may have happened: Refused and Declined, nothing; Unknown, anything, so ask again with the same key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe

from billing.payment_models import StripeAccount
from keys.sealing import open_text

TIMEOUT_SECONDS = (4, 10)
RETRIES = 2
SIGNATURE_SECONDS_MAX = 300
PAGE = 100
stripe.enable_telemetry = False


class Unknown(Exception):
    """No answer, or one that does not say whether the work was done."""


class Refused(Exception):
    """Stripe did nothing, and would not the next time. The message is for operators."""


class Declined(Exception):
    """The card was not charged. `code` is Stripe's ("card_declined", "authentication_required", …)."""

    def __init__(self, message: str, *, code: str, intent: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.intent = intent


class SignatureRefused(Exception):
    """A webhook that Stripe did not sign for this account, or that is too old."""


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


class Gateway:
    """One account. Make it where it is used; it keeps nothing but a connection."""

    def __init__(self, secret_key: str, *, api_base: str = "") -> None:
        self._client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base} if api_base else None,
            max_network_retries=RETRIES,
            http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        )

    @property
    def _v1(self) -> Any:
        return self._client.v1

    def account_id(self) -> str:
        with _translated():
            return str(self._v1.accounts.retrieve_current().id)

    # Customers and cards

    def create_customer(self, *, name: str, metadata: Mapping[str, str], key: str) -> str:
        with _translated():
            made = self._v1.customers.create({"name": name, "metadata": dict(metadata)}, {"idempotency_key": key})
        return str(made.id)

    def card(self, payment_method: str) -> Card:
        with _translated():
            found = self._v1.payment_methods.retrieve(payment_method).to_dict()
        card = found.get("card") or {}
        expires = f"{card.get('exp_month', 0):02d}/{card.get('exp_year', 0)}" if card else ""
        return Card(found["id"], str(card.get("brand", found.get("type", ""))), str(card.get("last4", "")), expires)

    def detach(self, payment_method: str) -> None:
        """It may be gone already."""
        with _translated():
            try:
                self._v1.payment_methods.detach(payment_method)
            except stripe.InvalidRequestError:
                return

    def setup_card(self, setup_intent: str) -> str:
        """The payment method that a setup ended with, or empty."""
        with _translated():
            return str(self._v1.setup_intents.retrieve(setup_intent).to_dict().get("payment_method") or "")

    def portal_url(self, customer: str, *, return_url: str) -> str:
        with _translated():
            made = self._v1.billing_portal.sessions.create({"customer": customer, "return_url": return_url})
        return str(made.url)

    # Checkout

    def create_session(self, params: Mapping[str, Any], *, key: str) -> Session:
        with _translated():
            return _session(self._v1.checkout.sessions.create(dict(params), {"idempotency_key": key}).to_dict())

    def session(self, session_id: str) -> Session:
        with _translated():
            return _session(self._v1.checkout.sessions.retrieve(session_id).to_dict())

    def expire_session(self, session_id: str) -> None:
        """Nobody can pay it after this; Refused where it is paid or over already."""
        with _translated():
            self._v1.checkout.sessions.expire(session_id)

    # Payments

    def charge(self, params: Mapping[str, Any], *, key: str) -> Intent:
        """A payment without its holder there. Raises Declined."""
        with _translated():
            made = self._v1.payment_intents.create(
                {**params, "off_session": True, "confirm": True}, {"idempotency_key": key}
            )
        return _intent(made.to_dict())

    def intent(self, intent_id: str) -> Intent:
        with _translated():
            return _intent(self._v1.payment_intents.retrieve(intent_id).to_dict())

    def intents_of(self, customer: str, *, since: datetime) -> Iterator[Intent]:
        asked = {"customer": customer, "limit": PAGE, "created": {"gte": int(since.timestamp())}}
        yield from map(_intent, self._listed(self._v1.payment_intents, asked))

    def intents(self, *, since: datetime, until: datetime) -> Iterator[Intent]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(_intent, self._listed(self._v1.payment_intents, asked))

    def cancel_intent(self, intent_id: str) -> None:
        """Nobody can pay it after this; Refused where it is paid or over already."""
        with _translated():
            self._v1.payment_intents.cancel(intent_id)

    # What goes back

    def refund(self, *, intent: str, units: int, metadata: Mapping[str, str], key: str) -> Back:
        asked = {"payment_intent": intent, "amount": units, "metadata": dict(metadata)}
        with _translated():
            return _refund(self._v1.refunds.create(asked, {"idempotency_key": key}).to_dict())

    def refunds_of(self, intent: str) -> list[Back]:
        return [_refund(row) for row in self._listed(self._v1.refunds, {"payment_intent": intent, "limit": PAGE})]

    def disputes_of(self, intent: str) -> list[Back]:
        return [_dispute(row) for row in self._listed(self._v1.disputes, {"payment_intent": intent, "limit": PAGE})]

    def refunds(self, *, since: datetime, until: datetime) -> Iterator[Back]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(_refund, self._listed(self._v1.refunds, asked))

    def disputes(self, *, since: datetime, until: datetime) -> Iterator[Back]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(_dispute, self._listed(self._v1.disputes, asked))

    # Events

    def events(self, kinds: tuple[str, ...], *, since: datetime) -> Iterator[Event]:
        """Newest first; Stripe keeps thirty days of them."""
        asked = {"limit": PAGE, "types": list(kinds), "created": {"gte": int(since.timestamp())}}
        yield from map(_event, self._listed(self._v1.events, asked))

    def _listed(self, service: Any, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        with _translated():
            for row in service.list(dict(asked)).auto_paging_iter():
                yield row.to_dict()


def of(account: StripeAccount) -> Gateway:
    return Gateway(open_text(account.secret_key_sealed), api_base=account.api_base)


def verified(body: bytes, signature: str, secrets: tuple[str, ...], *, now: float | None = None) -> Event:
    """The event that a webhook brings, signed with one of the secrets. Whatever is wrong with it is SignatureRefused:
    the SDK's verifier raises half a dozen kinds of exceptions for bad bytes, and takes times from the future."""
    at = time.time() if now is None else now
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret, SIGNATURE_SECONDS_MAX)
            signed_at, _ = stripe.WebhookSignature._get_timestamp_and_signatures(signature, "v1")
            if signed_at > at + SIGNATURE_SECONDS_MAX:
                raise SignatureRefused("signed in the future")
            return _event(json.loads(body))
        except (stripe.StripeError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # perhaps signed with the other secret, while one takes over from the other
    raise SignatureRefused("no secret of this account made that signature lately")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except stripe.CardError as error:
        intent = (error.json_body or {}).get("error", {}).get("payment_intent") or {}  # type: ignore[attr-defined]
        raise Declined(_words(error), code=str(error.code or "card_declined"), intent=intent.get("id", "")) from error
    except (stripe.RateLimitError, stripe.APIConnectionError, stripe.APIError, stripe.IdempotencyError) as error:
        raise Unknown(_words(error)) from error
    except stripe.StripeError as error:
        if error.http_status == 409 or error.http_status is None:
            raise Unknown(_words(error)) from error
        raise Refused(_words(error)) from error


def _words(error: stripe.StripeError) -> str:
    """What it says, without anything of ours in it: keys are never part of the SDK's messages but when one is wrong."""
    if isinstance(error, stripe.AuthenticationError):
        return "Stripe does not know this secret key."
    return str(error.user_message or type(error).__name__)[:200]


def _between(since: datetime, until: datetime) -> dict[str, int]:
    return {"gte": int(since.timestamp()), "lte": int(until.timestamp())}


def _text(found: Mapping[str, Any], name: str) -> str:
    """An id, also where it came expanded."""
    value = found.get(name)
    return str(value["id"]) if isinstance(value, Mapping) else str(value or "")


def _session(found: Mapping[str, Any]) -> Session:
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
    )


def _intent(found: Mapping[str, Any]) -> Intent:
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


def _refund(found: Mapping[str, Any]) -> Back:
    return _back(found, is_back=found["status"] not in ("failed", "canceled"))


def _dispute(found: Mapping[str, Any]) -> Back:
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


def _event(found: Mapping[str, Any]) -> Event:
    return Event(
        id=str(found["id"]),
        kind=str(found["type"]),
        happened_at=datetime.fromtimestamp(int(found["created"]), UTC),
        livemode=bool(found["livemode"]),
        payload=dict(found),
    )
