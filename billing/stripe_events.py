"""The only writer of StripeEvent: what Stripe tells, recorded once as it comes, and worked on from the table.

An event is a hint. Working on it asks Stripe how the payment stands now, so events may come in any order, twice, late,
or not at all: the poller lists what was missed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from billing import (
    auto_top_ups,
    cards,
    odd_payments,
    reversals,
    stripe_accounts,
    stripe_gateway,
    subscription_invoices,
    subscription_state,
    subscriptions,
    top_ups,
)
from billing.payment_models import StripeAccount, StripeCustomer, StripeEvent, TopUp
from billing.stripe_objects import Event

KINDS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.paid",
    "invoice.payment_failed",
)
"""What a webhook endpoint at Stripe should be set to send, and what the poller lists."""

CLAIMED_FOR = timedelta(minutes=2)
TRY_AGAIN_AFTER_MAX = timedelta(hours=6)
ERROR_LENGTH = 500
LOOK_BACK = timedelta(minutes=30)
LOOK_BACK_FIRST = timedelta(days=2)
log = logging.getLogger(__name__)


def record(account: StripeAccount, event: Event, source: str) -> bool:
    """Whether it is new. Kinds that nothing is done about are kept too, and are done at once."""
    row = StripeEvent(
        account=account,
        event_id=event.id,
        kind=event.kind,
        payload=event.payload,
        source=source,
        happened_at=event.happened_at,
        due_at=min(event.happened_at, timezone.now()) if event.kind in KINDS else None,
    )
    before = StripeEvent.objects.filter(account=account, event_id=event.id).exists()
    StripeEvent.objects.bulk_create([row], ignore_conflicts=True)
    return not before


def try_again(ids: Iterable[int], now: datetime) -> int:
    """Put aside or waiting, they are due at once; how many there were. Looking again at what is done is harmless."""
    return StripeEvent.objects.filter(pk__in=list(ids), kind__in=KINDS).update(due_at=now, error="")


# Working on them


def work(now: datetime, limit: int = 50) -> int:
    """Work on what is due; how many were done. Several may work at once: each takes its own."""
    done = 0
    for _ in range(limit):
        row = _claim(now)
        if row is None:
            break
        done += _work_on(row, now)
    return done


def _claim(now: datetime) -> StripeEvent | None:
    """By moving its time on: nobody holds a lock while Stripe is asked, and a worker that dies lets go by itself."""
    with transaction.atomic():
        row = (
            StripeEvent.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(due_at__lte=now)
            .select_related("account__brand")
            .order_by("due_at", "pk")
            .first()
        )
        if row is not None:
            row.tries += 1
            row.due_at = now + CLAIMED_FOR
            row.save(update_fields=["due_at", "tries"])
    return row


def _work_on(row: StripeEvent, now: datetime) -> bool:
    try:
        _handle(row, now)
    except Exception as error:  # one bad event must not stop those behind it; it is tried again, and shown
        if not isinstance(error, stripe_gateway.Unknown):
            log.exception("event %s of %s", row.event_id, row.account)
        pause = min(timedelta(seconds=15) * 2 ** min(row.tries, 20), TRY_AGAIN_AFTER_MAX)
        StripeEvent.objects.filter(pk=row.pk).update(due_at=now + pause, error=f"{error}"[:ERROR_LENGTH])
        return False
    StripeEvent.objects.filter(pk=row.pk).update(due_at=None, error="")
    return True


def _handle(row: StripeEvent, now: datetime) -> None:
    about = row.payload["data"]["object"]
    if row.kind.startswith("checkout.session."):
        _handle_session(row.account, about, now)
    elif row.kind.startswith("payment_intent."):
        found = top_ups.of_intent(str(about["id"]), about.get("metadata"), row.account_id)
        if found is not None:
            look(found, now)
    elif row.kind.startswith(("customer.subscription.", "invoice.")):
        _handle_subscription(row.account, row.kind, about, now)
    else:
        _handle_reversal(row.account, str(about.get("payment_intent") or ""), now)


def look(row: TopUp, now: datetime) -> None:
    """How the payment stands, and what follows for automatic top-ups. Raises what the gateway raises."""
    top_ups.look(row, now)
    auto_top_ups.settle(row, now)


def _handle_session(account: StripeAccount, about: dict[str, object], now: datetime) -> None:
    if about.get("mode") == "setup":
        if about.get("status") == "complete":
            _keep_card(account, str(about["id"]))
        return
    reference = str(about.get("client_reference_id") or "")
    if about.get("mode") == "subscription":
        plan = subscription_state.of_session(str(about["id"]), reference, account.pk)
        if plan is not None:
            subscription_state.look(plan, now)
        return
    found = top_ups.of_session(str(about["id"]), reference, account.pk)
    if found is not None:
        look(found, now)


def _keep_card(account: StripeAccount, session_id: str) -> None:
    gateway = stripe_gateway.of(account)
    session = gateway.session(session_id)
    row = StripeCustomer.objects.filter(account=account, customer_id=session.customer or "-").first()
    if row is not None and session.setup_intent:
        cards.keep(row, gateway.setup_card(session.setup_intent))


def _handle_subscription(account: StripeAccount, kind: str, about: dict[str, Any], now: datetime) -> None:
    """An invoice names its subscription; one without is none of ours."""
    metadata = about.get("metadata")
    if kind.startswith("invoice."):
        details = (about.get("parent") or {}).get("subscription_details") or {}
        about, metadata = {"id": details.get("subscription") or ""}, details.get("metadata")
    found = subscription_state.of_subscription(str(about["id"]), metadata, account.pk) if about["id"] else None
    if found is not None:
        subscription_state.look(found, now)


def _handle_reversal(account: StripeAccount, intent_id: str, now: datetime) -> None:
    """It may come before its payment: then the payment is looked at first."""
    if not intent_id:
        return  # a charge without an intent is none of ours
    found = top_ups.of_intent(intent_id, None, account.pk)
    invoice = subscription_invoices.of_intent(intent_id, account.pk)
    if found is None and invoice is None:
        intent = stripe_gateway.of(account).intent(intent_id)
        found = top_ups.of_intent(intent_id, intent.metadata, account.pk)
        for plan in subscription_state.of_customer(intent.customer, account.pk) if found is None else ():
            subscription_state.look(plan, now)
        invoice = subscription_invoices.of_intent(intent_id, account.pk)
    if invoice is not None:
        subscription_invoices.look(invoice)
    if found is None:
        return
    if found.state != TopUp.State.PAID:
        look(found, now)
    reversals.look(found)
    odd_payments.look(found)


# What never arrived


def poll(now: datetime) -> int:
    """Ask every account for events that no webhook brought, and for top-ups and refunds that nothing was heard of. How
    many events were new. What one account does not answer waits for the next round."""
    new = 0
    for account in StripeAccount.objects.select_related("brand").order_by("pk"):
        try:
            new += _poll_events(account, now)
        except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
            log.warning("events of %s cannot be listed: %s", account, error)
    return new


def _poll_events(account: StripeAccount, now: datetime) -> int:
    since = (account.events_seen_until or now - LOOK_BACK_FIRST) - LOOK_BACK
    new = sum(record(account, event, StripeEvent.Source.POLLER) for event in _listed(account, since))
    stripe_accounts.seen_until(account, now)
    return new


def _listed(account: StripeAccount, since: datetime) -> Iterator[Event]:
    return stripe_gateway.of(account).events(KINDS, since=since)


def look_around(now: datetime, limit: int = 50) -> None:
    """Top-ups and paid plans whose time it is, and refunds that were asked for without an answer."""
    for top_up in top_ups.due(now, limit):
        try:
            look(top_up, now)
        except (stripe_gateway.Unknown, stripe_gateway.Refused, top_ups.NotAccepted) as error:
            log.warning("nothing is known of top-up %s: %s", top_up.public_id, error)
    for plan in subscription_state.due(now, limit):
        try:
            subscriptions.attend(plan, now)
        except (stripe_gateway.Unknown, stripe_gateway.Refused, subscriptions.NotAccepted) as error:
            log.warning("nothing is known of plan %s: %s", plan.public_id, error)
    for asked in reversals.unanswered(limit):
        try:
            reversals.find_or_resume(asked)
        except (stripe_gateway.Unknown, reversals.NotRefundable) as error:
            log.warning("nothing is known of refund %s: %s", asked.pk, error)
