"""Stripe, in this house's words: the only file that knows its SDK. No rows are written here.

Every call that could move money carries an idempotency key that the caller has stored before. What it raises says what
may have happened: Refused and Declined, nothing; Unknown, anything, so ask again with the same key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import stripe

from billing import stripe_objects
from billing.payment_models import StripeAccount
from billing.stripe_objects import Back, Card, Event, Intent, Invoice, Session, Subscription, Tax
from keys.sealing import open_text

TIMEOUT_SECONDS = (4, 10)
RETRIES = 2
SIGNATURE_SECONDS_MAX = 300
PAGE = 100
stripe.enable_telemetry = False


class Unknown(Exception):
    """No answer, or one that does not say whether the work was done."""


class Failed(Unknown):
    """An error of Stripe's own. Its key gives the same answer for a day, so asking again takes another key: only where
    what may have been made is nobody's harm."""


class KeptFailure(Failed):
    """A failure of Stripe's that it has kept under the idempotency key: whoever asks with that key hears it for a
    day."""


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
            return stripe_objects.session(
                self._v1.checkout.sessions.create(dict(params), {"idempotency_key": key}).to_dict()
            )

    def session(self, session_id: str) -> Session:
        with _translated():
            return stripe_objects.session(self._v1.checkout.sessions.retrieve(session_id).to_dict())

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
        return stripe_objects.intent(made.to_dict())

    def tax(self, *, customer: str, currency: str, net_units: int, reference: str, key: str) -> Tax:
        """On top of `net_units`, where the customer is by the address that Stripe has of it; Refused where it has
        none. (SDK 16: POST /v1/tax/calculations, `tax_amount_exclusive`.)"""
        line = {"amount": net_units, "tax_behavior": "exclusive", "reference": reference}
        asked = {"currency": currency.lower(), "customer": customer, "line_items": [line]}
        with _translated():
            found = self._v1.tax.calculations.create(asked, {"idempotency_key": key}).to_dict()
        units = int(found["tax_amount_exclusive"])
        if int(found["amount_total"]) != net_units + units or found.get("tax_amount_inclusive"):
            raise Refused(f"{found['amount_total']} is not {net_units} and {units} of tax")
        return Tax(str(found["id"]), units)

    def intent(self, intent_id: str) -> Intent:
        with _translated():
            return stripe_objects.intent(self._v1.payment_intents.retrieve(intent_id).to_dict())

    def intents_of(self, customer: str, *, since: datetime) -> Iterator[Intent]:
        asked = {"customer": customer, "limit": PAGE, "created": {"gte": int(since.timestamp())}}
        yield from map(stripe_objects.intent, self._listed(self._v1.payment_intents, asked))

    def intents(self, *, since: datetime, until: datetime) -> Iterator[Intent]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(stripe_objects.intent, self._listed(self._v1.payment_intents, asked))

    def cancel_intent(self, intent_id: str) -> None:
        """Nobody can pay it after this; Refused where it is paid or over already."""
        with _translated():
            self._v1.payment_intents.cancel(intent_id)

    # Subscriptions

    def create_price(self, params: Mapping[str, Any], *, key: str) -> str:
        with _translated():
            return str(self._v1.prices.create(dict(params), {"idempotency_key": key}).id)

    def subscription(self, subscription_id: str) -> Subscription:
        with _translated():
            return stripe_objects.subscription(self._v1.subscriptions.retrieve(subscription_id).to_dict())

    def living_subscriptions(self) -> Iterator[Subscription]:
        """All that have not ended, of all customers."""
        yield from map(stripe_objects.subscription, self._listed(self._v1.subscriptions, {"limit": PAGE}))

    def change_subscription(self, subscription_id: str, params: Mapping[str, Any]) -> Subscription:
        """Says how it should be from now on, so asking again does no more. Raises Declined: then nothing changed."""
        with _translated():
            return stripe_objects.subscription(self._v1.subscriptions.update(subscription_id, dict(params)).to_dict())

    def invoices_of(self, subscription_id: str) -> list[Invoice]:
        """Newest first."""
        asked = {"subscription": subscription_id, "limit": PAGE, "expand": ["data.payments"]}
        return [stripe_objects.invoice(row) for row in self._listed(self._v1.invoices, asked)]

    def invoices(self, *, since: datetime, until: datetime) -> Iterator[Invoice]:
        asked = {"limit": PAGE, "created": _between(since, until), "expand": ["data.payments"]}
        yield from map(stripe_objects.invoice, self._listed(self._v1.invoices, asked))

    # What goes back

    def refund(self, *, intent: str, units: int, metadata: Mapping[str, str], key: str) -> Back:
        asked = {"payment_intent": intent, "amount": units, "metadata": dict(metadata)}
        with _translated():
            return stripe_objects.refund(self._v1.refunds.create(asked, {"idempotency_key": key}).to_dict())

    def refunds_of(self, intent: str) -> list[Back]:
        return [
            stripe_objects.refund(row)
            for row in self._listed(self._v1.refunds, {"payment_intent": intent, "limit": PAGE})
        ]

    def disputes_of(self, intent: str) -> list[Back]:
        return [
            stripe_objects.dispute(row)
            for row in self._listed(self._v1.disputes, {"payment_intent": intent, "limit": PAGE})
        ]

    def refunds(self, *, since: datetime, until: datetime) -> Iterator[Back]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(stripe_objects.refund, self._listed(self._v1.refunds, asked))

    def disputes(self, *, since: datetime, until: datetime) -> Iterator[Back]:
        asked = {"limit": PAGE, "created": _between(since, until)}
        yield from map(stripe_objects.dispute, self._listed(self._v1.disputes, asked))

    # Events

    def events(self, kinds: tuple[str, ...], *, since: datetime) -> Iterator[Event]:
        """Newest first; Stripe keeps thirty days of them."""
        asked = {"limit": PAGE, "types": list(kinds), "created": {"gte": int(since.timestamp())}}
        yield from map(stripe_objects.event, self._listed(self._v1.events, asked))

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
            return stripe_objects.event(json.loads(body))
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
    except stripe.APIError as error:
        kind = KeptFailure if _is_from_record(error) else Failed
        raise kind(_words(error)) from error
    except (stripe.RateLimitError, stripe.APIConnectionError, stripe.IdempotencyError) as error:
        raise Unknown(_words(error)) from error
    except stripe.StripeError as error:
        if error.http_status == 409 or error.http_status is None:
            raise Unknown(_words(error)) from error
        raise Refused(_words(error)) from error


def _is_from_record(error: stripe.StripeError) -> bool:
    names = {name.lower(): value for name, value in (error.headers or {}).items()}
    return (error.http_status or 0) >= 500 and names.get("idempotent-replayed") == "true"


def _words(error: stripe.StripeError) -> str:
    """What it says, without anything of ours in it: keys are never part of the SDK's messages but when one is wrong."""
    if isinstance(error, stripe.AuthenticationError):
        return "Stripe does not know this secret key."
    return str(error.user_message or type(error).__name__)[:200]


def _between(since: datetime, until: datetime) -> dict[str, int]:
    return {"gte": int(since.timestamp()), "lte": int(until.timestamp())}
