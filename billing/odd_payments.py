"""Payments that are not what was asked for (another sum or currency, or changed on the way): nobody's until a person
has decided, with a reason, to credit what came or to give it back.

What came is asked of Stripe at that moment. Deciding again changes nothing: a credit is posted under the PaymentIntent,
as every payment is, and what went back already does not go back twice.
"""

from __future__ import annotations

from contextlib import suppress

from django.db import transaction

from billing import currencies, ledger, reversals, stripe_gateway, top_ups
from billing.payment_models import TopUp
from billing.stripe_objects import Intent
from keys import audit
from keys.audit import Actor


class NotDecided(Exception):
    """Nothing was done; the message says why."""


def is_odd(row: TopUp) -> bool:
    return row.state != TopUp.State.PAID and row.failure.startswith(top_ups.ODD)


def credit(*, top_up: TopUp, amount_nanos: int, reason: str, actor: Actor, address: str | None = None) -> TopUp:
    """So much of what came, without tax, is the customer's. Raises NotDecided and stripe_gateway.Unknown."""
    intent = _came(top_up, reason)
    if intent.currency != top_up.organization.brand.currency:
        raise NotDecided(f"It was paid in {intent.currency}, which no wallet of this brand holds: give it back.")
    most = currencies.nanos_of(intent.received, intent.currency)
    if not 0 < amount_nanos <= most:
        raise NotDecided(f"More than nothing, and at most what came: {intent.received} minor units.")
    gone = _gone(top_up, intent)
    if gone:
        raise NotDecided(f"{gone} minor units of it went back already: give back what is left.")
    try:
        with transaction.atomic():
            top_ups.credit_by_hand(top_up, intent, amount_nanos, reason=reason.strip(), actor=actor)
            if top_up.credited_nanos != amount_nanos:
                raise NotDecided("Somebody decided otherwise meanwhile.")
            _note(top_up, intent, reason, actor, address)
    except ledger.PostingConflict as error:
        raise NotDecided(f"This payment is credited to somebody already: {error}") from error
    with suppress(stripe_gateway.Unknown):  # what went back in these moments had no credit to be taken from
        reversals.look(top_up)
    return top_up


def give_back(*, top_up: TopUp, reason: str, actor: Actor, address: str | None = None) -> TopUp:
    """All that came goes back to the card. Raises NotDecided; stripe_gateway.Unknown: then the same again."""
    intent = _came(top_up, reason)
    gateway = stripe_gateway.of(top_up.account)
    left = intent.received - _gone(top_up, intent)
    if left > 0:
        # A refund that failed is what Stripe would answer to its own key again.
        key = f"{top_up.idempotency_key}:back:{len(gateway.refunds_of(intent.id))}"
        try:
            gateway.refund(intent=intent.id, units=left, metadata={"top_up": top_up.public_id}, key=key)
        except stripe_gateway.Refused as error:
            raise NotDecided(str(error)) from error
    with transaction.atomic():
        top_ups.given_back(top_up, intent.id, reason.strip())
        if top_up.decision != TopUp.Decision.RETURNED:
            raise NotDecided("Somebody gave credit for it meanwhile; the refund takes that back by itself.")
        _note(top_up, intent, reason, actor, address)
    return top_up


def look(top_up: TopUp) -> None:
    """A refund can fail days after it was made: what was given back is then with us, and to be decided again. Raises
    what the gateway raises."""
    if top_up.decision != TopUp.Decision.RETURNED or top_up.payment_intent is None:
        return
    intent = stripe_gateway.of(top_up.account).intent(top_up.payment_intent)
    if intent.status == "succeeded" and _gone(top_up, intent) < intent.received:
        top_ups.came_back(top_up, f"intent {intent.id}: it went back and did not arrive")


def _gone(top_up: TopUp, intent: Intent) -> int:
    """Minor units that are the payer's again: by refunds, at Stripe's own pages too, and by the bank."""
    gateway = stripe_gateway.of(top_up.account)
    backs = [*gateway.refunds_of(intent.id), *gateway.disputes_of(intent.id)]
    return sum(back.units for back in backs if back.is_back)


def _came(top_up: TopUp, reason: str) -> Intent:
    if not is_odd(top_up):
        raise NotDecided("There is nothing to decide about this payment.")
    if not reason.strip():
        raise NotDecided("Say why.")
    gateway = stripe_gateway.of(top_up.account)
    try:
        named = top_up.payment_intent or gateway.session(top_up.session_id or "").payment_intent
        intent = gateway.intent(named)
    except stripe_gateway.Refused as error:
        raise NotDecided(str(error)) from error
    if intent.status != "succeeded" or intent.metadata.get("top_up") != top_up.public_id:
        raise NotDecided(f"Stripe says that {intent.id} is {intent.status}, for {intent.metadata.get('top_up')}.")
    return intent


def _note(top_up: TopUp, intent: Intent, reason: str, actor: Actor, address: str | None) -> None:
    audit.note(
        *("payment.decided", top_up.public_id),
        actor=actor,
        organization=top_up.organization,
        after={
            "decision": top_up.decision,
            "reason": reason.strip(),
            "came": f"{intent.received} {intent.currency}",
            "credited_nanos": top_up.credited_nanos,
        },
        address=address,
    )
