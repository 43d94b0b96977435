"""The only writer of TopUp: credit that is paid for through Stripe.

A row with its idempotency key comes first, then Stripe is asked. Nothing but what Stripe says of its own objects makes
a row paid: `look` asks, and may be called by anybody, at any time, any number of times. The credit is posted under the
PaymentIntent's id, so that it is posted once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from billing import cards, currencies, ledger, notices, stripe_accounts, stripe_gateway
from billing.models import Grant
from billing.payment_models import StripeCustomer, TopUp
from billing.stripe_objects import Intent, Session
from keys.audit import Actor
from keys.models import Organization, User

State = TopUp.State
UNPAID_PER_HOUR_MAX = 10
LOOK_AFTER = timedelta(minutes=1)
LOOK_AFTER_MAX = timedelta(hours=1)
UNANSWERED_FOR = timedelta(hours=1)
GIVEN_UP_AFTER = timedelta(days=8)
"""Stripe's sessions live a day, its slowest ways to pay a week."""
ODD = "Paid otherwise than asked for"
"""How `failure` of a payment begins that is nobody's until a person has decided (odd_payments.py)."""
log = logging.getLogger(__name__)


class NotAccepted(Exception):
    """Nothing was begun. The message says to the customer what to do instead."""


def reference_of(payment_intent: str) -> str:
    """What a payment's credit is posted under."""
    return f"stripe:{payment_intent}"


# Beginning one


def start(
    *,
    organization: Organization,
    amount_nanos: int,
    return_url: str,
    actor: Actor,
    keeps_card: bool = False,
    address: str | None = None,
) -> TopUp:
    """An open Checkout: send who pays to its `checkout_url`. `return_url` has {top_up} where its public id belongs.

    Raises NotAccepted, stripe_accounts.NotConnected; stripe_gateway.Unknown: the row stays, the poller sees to it.
    """
    account = stripe_accounts.active(organization.brand)
    currency = organization.brand.currency
    problem = currencies.charge_problem(amount_nanos, currency)
    if problem:
        raise NotAccepted(problem)
    with transaction.atomic():
        Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)  # who counts, counts alone
        since = timezone.now() - timedelta(hours=1)
        unpaid = TopUp.objects.filter(organization=organization, created_at__gte=since).exclude(state=State.PAID)
        if unpaid.count() >= UNPAID_PER_HOUR_MAX:
            raise NotAccepted("Too many payments were begun and not finished. Try again in an hour.")
        row = TopUp(
            account=account,
            organization=organization,
            kind=TopUp.Kind.CHECKOUT,
            amount_nanos=amount_nanos,
            currency=currency,
            keeps_card=keeps_card,
            actor=actor if isinstance(actor, User) else None,
            address=address,
            next_look_at=timezone.now() + LOOK_AFTER,
        )
        row.return_url = return_url.replace("{top_up}", row.public_id)
        row.save()
    return prepare(row)


def prepare(row: TopUp) -> TopUp:
    """Have Stripe open its page for a row that was just begun; asking again with the row's key opens no second one."""
    try:
        customer = cards.customer(row.account, row.organization)
        session = stripe_gateway.of(row.account).create_session(
            _session_params(row, customer.customer_id), key=row.idempotency_key
        )
    except stripe_gateway.Refused as error:
        fail(row, str(error))
        raise NotAccepted("Stripe does not take this payment. Nothing was charged.") from error
    _adopt_session(row, session)
    return row


def _session_params(row: TopUp, customer_id: str) -> dict[str, Any]:
    """The same for one row at any time: an idempotency key is for one question only."""
    units = currencies.minor_units(row.amount_nanos, row.currency)
    metadata = {"top_up": row.public_id}
    intent: dict[str, Any] = {"metadata": metadata}
    if row.keeps_card:
        intent["setup_future_usage"] = "off_session"
    price: dict[str, Any] = {
        "currency": row.currency.lower(),
        "unit_amount": units,
        "product_data": {"name": "Prepaid credit"},
    }
    params: dict[str, Any] = {
        "mode": "payment",
        "customer": customer_id,
        "client_reference_id": row.public_id,
        "metadata": metadata,
        "payment_intent_data": intent,
        "line_items": [{"price_data": price, "quantity": 1}],
        "adaptive_pricing": {"enabled": False},  # the credit is in the brand's currency, so the payment is too
        "success_url": f"{row.return_url}&returned=1",
        "cancel_url": row.return_url,
    }
    if row.account.automatic_tax:
        price["tax_behavior"] = "exclusive"
        params |= {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    return params


def _adopt_session(row: TopUp, session: Session) -> None:
    TopUp.objects.filter(pk=row.pk, session_id=None).update(session_id=session.id, checkout_url=session.url)
    TopUp.objects.filter(pk=row.pk, state=State.CREATED).update(state=State.OPEN)
    row.refresh_from_db()


def charge(row: TopUp) -> TopUp:
    """Charge the kept card for an automatic top-up; asking again with the row's key charges nothing more. A decline is
    an end (`failure` begins with Stripe's code); Unknown is none."""
    card = cards.kept(row.organization)
    if card is None or card.account_id != row.account_id:
        fail(row, "no_card: no card is kept any more")
        return row
    try:
        _reckon_tax(row, card.customer_id)
        intent = stripe_gateway.of(row.account).charge(_charge_params(row, card), key=row.idempotency_key)
    except stripe_gateway.Declined as error:
        _let_go(row, error.intent)
        fail(row, f"{error.code}: {error}")
    except stripe_gateway.Refused as error:
        fail(row, f"refused: {error}")
    else:
        apply_intent(row, intent)
    return row


def _reckon_tax(row: TopUp, customer_id: str) -> None:
    """Once per row, and kept before the charge: the question under the row's key must stay the same."""
    if not row.account.automatic_tax or row.tax_calculation:
        return
    found = stripe_gateway.of(row.account).tax(
        customer=customer_id,
        currency=row.currency,
        net_units=currencies.minor_units(row.amount_nanos, row.currency),
        reference=row.public_id,
        key=f"{row.idempotency_key}:tax",
    )
    values = {"tax_units": found.units, "tax_calculation": found.calculation}
    TopUp.objects.filter(pk=row.pk, tax_calculation="").update(**values)
    row.refresh_from_db()


def _charge_params(row: TopUp, card: StripeCustomer) -> dict[str, Any]:
    params: dict[str, Any] = {
        "amount": _gross_units(row),
        "currency": row.currency.lower(),
        "customer": card.customer_id,
        "payment_method": card.payment_method,
        "metadata": {"top_up": row.public_id},
        "description": "Prepaid credit",
    }
    if row.tax_calculation:  # Stripe then reports the tax, and takes it back with a refund
        params["hooks"] = {"inputs": {"tax": {"calculation": row.tax_calculation}}}
    return params


def _gross_units(row: TopUp) -> int:
    """What an automatic top-up charges: the credit, and its tax."""
    return currencies.minor_units(row.amount_nanos, row.currency) + (row.tax_units or 0)


def _let_go(row: TopUp, intent_id: str) -> None:
    """So that nobody can pay a declined intent afterwards."""
    if not intent_id:
        return
    TopUp.objects.filter(pk=row.pk, payment_intent=None).update(payment_intent=intent_id)
    try:
        stripe_gateway.of(row.account).cancel_intent(intent_id)
    except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
        log.warning("the declined payment %s stays open: %s", intent_id, error)


# Looking what became of one


def look(row: TopUp, now: datetime) -> TopUp:
    """Ask Stripe, and make the row say the same. Raises what the gateway raises; the next look is planned before."""
    _plan_next_look(row, now)
    if row.decision == TopUp.Decision.RETURNED:
        return row  # nothing of it is anybody's any more
    if row.state == State.PAID:
        _keep_card(row)
    elif row.kind == TopUp.Kind.AUTO:
        _look_at_intent(row, now)
    elif row.session_id is None:
        _look_for_session(row, now)
    else:
        _apply_session(row, stripe_gateway.of(row.account).session(row.session_id))
    return row


def _plan_next_look(row: TopUp, now: datetime) -> None:
    age = now - row.created_at
    pause = min(max(age / 2, LOOK_AFTER), LOOK_AFTER_MAX)
    row.next_look_at = None if age > GIVEN_UP_AFTER else now + pause
    TopUp.objects.filter(pk=row.pk).update(next_look_at=row.next_look_at)


def _look_for_session(row: TopUp, now: datetime) -> None:
    """Nobody was sent to a page that we never heard of, so nothing is lost by giving it up."""
    if now - row.created_at > UNANSWERED_FOR:
        fail(row, "Stripe did not answer")
        return
    prepare(row)


def _look_at_intent(row: TopUp, now: datetime) -> None:
    gateway = stripe_gateway.of(row.account)
    if row.payment_intent is not None:
        apply_intent(row, gateway.intent(row.payment_intent))
        return
    customer = cards.customer(row.account, row.organization)
    found = next(
        (
            intent
            for intent in gateway.intents_of(customer.customer_id, since=row.created_at - timedelta(minutes=5))
            if intent.metadata.get("top_up") == row.public_id
        ),
        None,
    )
    if found is not None:
        apply_intent(row, found)
    elif now - row.created_at > UNANSWERED_FOR:
        fail(row, "Stripe knows nothing of it")
    else:
        charge(row)


def _apply_session(row: TopUp, session: Session) -> None:
    if session.payment_status == "paid":
        units = currencies.minor_units(row.amount_nanos, row.currency)
        same = (row.public_id, row.currency, units, units)
        said = (session.reference, session.currency, session.subtotal, session.total - session.tax)
        if said != same or row.currency != row.organization.brand.currency:
            _refuse_mismatch(row, f"session {session.id}: {session.subtotal} of {session.total} {session.currency}")
            return
        _credit(row, session.payment_intent, _nanos(row, session.subtotal), gross_units=session.total)
    elif session.status == "expired":
        _end(row, State.EXPIRED, "")


def apply_intent(row: TopUp, intent: Intent) -> None:
    """What an automatic top-up's PaymentIntent says."""
    TopUp.objects.filter(pk=row.pk, payment_intent=None).update(payment_intent=intent.id)
    if intent.status == "succeeded":
        gross = _gross_units(row)
        said = (intent.metadata.get("top_up"), intent.currency, intent.received)
        if said != (row.public_id, row.currency, gross) or row.currency != row.organization.brand.currency:
            _refuse_mismatch(row, f"intent {intent.id}: {intent.received} {intent.currency}")
            return
        _credit(row, intent.id, _nanos(row, gross - (row.tax_units or 0)), gross_units=intent.received)
    elif intent.status in ("canceled", "requires_payment_method", "requires_action"):
        # Its holder is not there to do anything about it. Once it is canceled, nothing can be charged any more.
        if intent.status != "canceled":
            stripe_gateway.of(row.account).cancel_intent(intent.id)
        fail(row, f"{intent.failure_code or intent.status}: {intent.failure}")
    else:
        TopUp.objects.filter(pk=row.pk, state=State.CREATED).update(state=State.OPEN)
        row.refresh_from_db()


def _nanos(row: TopUp, units: int) -> int:
    return currencies.nanos_of(units, row.currency)


def credit_by_hand(row: TopUp, intent: Intent, amount_nanos: int, *, reason: str, actor: Actor) -> None:
    """What a person decided of a payment that was not what was asked for; nothing where it is paid by now."""
    _credit(row, intent.id, amount_nanos, gross_units=intent.received, reason=reason, actor=actor)


def given_back(row: TopUp, payment_intent: str, reason: str) -> None:
    """A payment that was never credited has gone back, by a person's decision."""
    values = {"decision": TopUp.Decision.RETURNED, "failure": f"Given back: {reason}"[:200], "checkout_url": ""}
    values["payment_intent"] = payment_intent
    rows = TopUp.objects.filter(pk=row.pk).exclude(state=State.PAID)
    rows.update(state=State.FAILED, ended_at=timezone.now(), next_look_at=None, **values)
    row.refresh_from_db()


def came_back(row: TopUp, what: str) -> None:
    """Giving it back did not work out: nobody has decided."""
    rows = TopUp.objects.filter(pk=row.pk, decision=TopUp.Decision.RETURNED).exclude(state=State.PAID)
    rows.update(decision="", failure=f"{ODD}: {what}"[:200])
    row.refresh_from_db()


def _credit(
    row: TopUp, payment_intent: str, nanos: int, *, gross_units: int, reason: str = "", actor: Actor | None = None
) -> None:
    """The only way to a row that is paid. The amount is Stripe's, the organization is ours."""
    with transaction.atomic():
        locked = TopUp.objects.select_for_update().get(pk=row.pk)
        if locked.state != State.PAID and locked.decision != TopUp.Decision.RETURNED:
            grant = ledger.grant(
                organization=row.organization,
                amount_nanos=nanos,
                kind=Grant.Kind.PAID,
                reason=reason or TopUp.Kind(row.kind).label,
                reference=reference_of(payment_intent),
                actor=actor or row.actor or "stripe",
                address=row.address,
            )
            locked.state, locked.ended_at = State.PAID, timezone.now()
            locked.payment_intent, locked.posting = payment_intent, grant.posting
            locked.paid_units, locked.credited_nanos = gross_units, grant.amount_nanos
            locked.decision = TopUp.Decision.CREDITED if reason else ""
            locked.checkout_url = locked.failure = ""
            locked.next_look_at = timezone.now() if row.keeps_card else None
            locked.save()
            _tell(locked)
    row.refresh_from_db()


def _tell(row: TopUp) -> None:
    notices.tell(
        organization=row.organization,
        kind="top_up_paid",
        once=f"top_up_paid:{row.public_id}",
        payload={"amount_nanos": row.credited_nanos, "currency": row.currency, "how": TopUp.Kind(row.kind).label},
    )


def _keep_card(row: TopUp) -> None:
    """The card that paid is kept for automatic top-ups, where its holder said so."""
    if row.keeps_card and row.payment_intent is not None:
        intent = stripe_gateway.of(row.account).intent(row.payment_intent)
        customer = cards.customer(row.account, row.organization)
        if intent.customer == customer.customer_id:
            cards.keep(customer, intent.payment_method)
    row.next_look_at = None
    TopUp.objects.filter(pk=row.pk).update(next_look_at=None)


def fail(row: TopUp, why: str) -> None:
    _end(row, State.FAILED, why)


def _end(row: TopUp, state: str, why: str) -> None:
    """Only what is under way ends: a row that is paid stays so."""
    TopUp.objects.filter(pk=row.pk, state__in=[State.CREATED, State.OPEN]).update(
        state=state, failure=why[:200], ended_at=timezone.now(), checkout_url="", next_look_at=None
    )
    row.refresh_from_db()


def _refuse_mismatch(row: TopUp, what: str) -> None:
    """Money that is not what was asked for is nobody's until a person has looked; reconcile names it."""
    log.error("top-up %s was paid otherwise than asked for: %s", row.public_id, what)
    undecided = TopUp.objects.filter(pk=row.pk, decision="").exclude(state=State.PAID)
    undecided.update(failure=f"{ODD}: {what}"[:200])
    row.refresh_from_db()


# Finding the row of what Stripe speaks of


def of_session(session_id: str, reference: str, account_id: int) -> TopUp | None:
    """By our own id in it: the answer that named the session to us may have been lost."""
    row = _rows(account_id).filter(Q(session_id=session_id) | Q(public_id=reference or "-")).first()
    if row is not None and row.session_id is None:
        TopUp.objects.filter(pk=row.pk, session_id=None).update(session_id=session_id)
        TopUp.objects.filter(pk=row.pk, state=State.CREATED).update(state=State.OPEN)
        row.refresh_from_db()
    return row if row is not None and row.session_id == session_id else None


def of_intent(intent_id: str, metadata: Any, account_id: int) -> TopUp | None:
    named = str(metadata.get("top_up") or "-") if isinstance(metadata, dict) else "-"
    return _rows(account_id).filter(Q(payment_intent=intent_id) | Q(public_id=named)).first()


def _rows(account_id: int) -> QuerySet[TopUp]:
    return TopUp.objects.filter(account_id=account_id).select_related("account__brand", "organization__brand")


def due(now: datetime, limit: int) -> Iterable[TopUp]:
    rows = TopUp.objects.filter(next_look_at__lte=now).select_related("account__brand", "organization__brand")
    return rows.order_by("next_look_at")[:limit]
