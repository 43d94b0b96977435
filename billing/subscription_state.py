"""What becomes of a paid plan: Stripe is asked, the row says the same, and the tier follows the row.

`look` may be called by anybody, at any time, any number of times: webhooks, the poller and returning browsers only say
that it may be worth it. Answers may come late; the row knows which question was the last that it heard the answer to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet

from billing import ladder, notices, stripe_gateway, subscription_invoices
from billing.models import Tier
from billing.stripe_objects import Session
from billing.stripe_objects import Subscription as Said
from billing.subscription_models import Subscription, SubscriptionPrice

State = Subscription.State
BEGINNING = (State.CREATED, State.OPEN)
RUNNING = (State.ACTIVE, State.PAST_DUE)
STATES = {
    "incomplete": State.OPEN,
    "trialing": State.ACTIVE,
    "active": State.ACTIVE,
    "past_due": State.PAST_DUE,
    "unpaid": State.PAST_DUE,
    "paused": State.PAST_DUE,
    "canceled": State.ENDED,
    "incomplete_expired": State.EXPIRED,
}
"""Stripe's status → ours."""
GRACE = timedelta(days=3)
"""How long a plan whose month could not be collected keeps its tier."""
LOOK_AFTER = timedelta(minutes=1)
LOOK_AFTER_MAX = timedelta(hours=1)
RUNNING_LOOKED_AT = timedelta(days=1)
GIVEN_UP_AFTER = timedelta(days=2)
"""Stripe's sessions live a day."""
REASON, REASON_UNPAID, REASON_OVER = "Paid plan", "The paid plan was not paid", "The paid plan ended"
ACTOR = "stripe"
log = logging.getLogger(__name__)


def look(row: Subscription, now: datetime) -> Subscription:
    """Ask Stripe, and make row, books and tier say the same. Raises what the gateway raises; the next look is planned
    before."""
    ticket = _begin_look(row, now)
    gateway = stripe_gateway.of(row.account)
    if row.stripe_id is None and row.session_id is not None:
        take_session(row, gateway.session(row.session_id), now)
    if row.stripe_id is not None:
        said = gateway.subscription(row.stripe_id)
        subscription_invoices.book(row, gateway.invoices_of(row.stripe_id))
        _apply(row, said, ticket, now)
    row.refresh_from_db()
    return row


def _begin_look(row: Subscription, now: datetime) -> int:
    """The number of this question."""
    age = now - row.created_at
    pause = min(max(age / 2, LOOK_AFTER), LOOK_AFTER_MAX)
    if row.state in RUNNING:
        ends = [at for at in (row.period_end, row.grace_until) if at is not None and at > now]
        row.next_look_at = min([now + RUNNING_LOOKED_AT, *(at + LOOK_AFTER for at in ends)])
    else:
        row.next_look_at = None if age > GIVEN_UP_AFTER else now + pause
    Subscription.objects.filter(pk=row.pk).update(next_look_at=row.next_look_at, looks=F("looks") + 1)
    return Subscription.objects.values_list("looks", flat=True).get(pk=row.pk)


def take_session(row: Subscription, session: Session, now: datetime) -> None:
    if session.subscription and session.reference == row.public_id:
        Subscription.objects.filter(pk=row.pk, stripe_id=None).update(stripe_id=session.subscription)
        row.refresh_from_db()
    elif session.status == "expired":
        give_up(row, State.EXPIRED, "", now)


def give_up(row: Subscription, state: str, why: str, now: datetime) -> None:
    """Only what never ran ends so."""
    Subscription.objects.filter(pk=row.pk, stripe_id=None, state__in=BEGINNING).update(
        state=state, failure=why[:200], ended_at=now, checkout_url="", next_look_at=None
    )
    row.refresh_from_db()


def _apply(row: Subscription, said: Said, ticket: int, now: datetime) -> None:
    with transaction.atomic():
        locked = Subscription.objects.select_for_update().get(pk=row.pk)
        if locked.applied_look >= ticket:
            return  # an answer to a later question stands here already
        locked.applied_look = ticket
        price = SubscriptionPrice.objects.filter(account=locked.account, price_id=said.price).first()
        if price is None:
            log.error("%s is billed at a price that is none of ours: %s", locked, said.price)
            locked.failure = f"Billed at {said.price}, which is none of ours"[:200]
        else:
            locked.price, locked.failure = price, ""
        locked.state = STATES[said.status]
        locked.period_end, locked.ends_at, locked.checkout_url = said.period_end, said.ends_at, ""
        _count_grace(locked, now)
        _follow(locked, now)
        if locked.state not in (*BEGINNING, *RUNNING):
            locked.ended_at, locked.next_look_at = locked.ended_at or now, None
        elif locked.grace_until is not None and locked.grace_until > now:
            locked.next_look_at = min(locked.next_look_at or locked.grace_until, locked.grace_until)
        else:
            locked.next_look_at = locked.next_look_at or now + RUNNING_LOOKED_AT
        locked.save()


def _count_grace(row: Subscription, now: datetime) -> None:
    if row.state != State.PAST_DUE:
        row.grace_until = None
    elif row.grace_until is None:
        row.grace_until = now + GRACE
        notices.tell(
            organization=row.organization,
            kind="plan_unpaid",
            once=f"plan_unpaid:{row.public_id}:{row.grace_until:%Y%m%d}",
            payload={
                "plan": row.price.name,
                "amount_nanos": row.price.amount_nanos,
                "currency": row.price.currency,
                "until": notices.stamp(row.grace_until),
            },
        )


# The tier


def _follow(row: Subscription, now: datetime) -> None:
    """Put the organization on the tier that it pays for, and back when that is over. Only when what the plan gives
    changes: where people put it meanwhile, it stays."""
    in_grace = row.grace_until is not None and now < row.grace_until
    gives = row.price.tier if row.state == State.ACTIVE or (row.state == State.PAST_DUE and in_grace) else None
    if gives == row.granted:
        return
    if gives is not None:
        _give(row, gives)
    else:
        _take_back(row)
    row.granted = gives


def _give(row: Subscription, tier: Tier) -> None:
    standing, _ = ladder.standing_of(row.organization)
    if row.granted is None:
        row.fallback = standing
    ladder.assign(
        organization=row.organization,
        tier=tier,
        reason=f"{REASON}: {row.price.name}",
        actor=ACTOR,
        facts={"plan": row.public_id},
        only_from=standing,
    )


def _take_back(row: Subscription) -> None:
    """To where it stood before; the nights judge it from there on. Where people moved it meanwhile nothing happens."""
    brand = row.organization.brand
    before = row.fallback or Tier.objects.filter(brand=brand, is_default=True).first()
    if before is None:
        log.error("%s is over, and there is no tier to go back to: %s has no default", row, brand)
        return
    ladder.assign(
        organization=row.organization,
        tier=before,
        reason=REASON_OVER if row.state == State.ENDED else REASON_UNPAID,
        actor=ACTOR,
        facts={"plan": row.public_id},
        only_from=row.granted,
    )


# Finding the row of what Stripe speaks of


def of_session(session_id: str, reference: str, account_id: int) -> Subscription | None:
    """By our own id in it: the answer that named the session to us may have been lost."""
    row = _rows(account_id).filter(Q(session_id=session_id) | Q(public_id=reference or "-")).first()
    if row is not None and row.session_id is None:
        Subscription.objects.filter(pk=row.pk, session_id=None).update(session_id=session_id)
        row.refresh_from_db()
    return row if row is not None and row.session_id == session_id else None


def of_subscription(stripe_id: str, metadata: Any, account_id: int) -> Subscription | None:
    named = str(metadata.get("plan") or "-") if isinstance(metadata, dict) else "-"
    row = _rows(account_id).filter(Q(stripe_id=stripe_id) | Q(public_id=named)).order_by(F("stripe_id").asc()).first()
    if row is not None and row.stripe_id is None:
        Subscription.objects.filter(pk=row.pk, stripe_id=None).update(stripe_id=stripe_id)
        row.refresh_from_db()
    return row if row is not None and row.stripe_id == stripe_id else None


def of_customer(customer_id: str, account_id: int) -> Iterable[Subscription]:
    """Those that Stripe may bill, of the organization that it calls so."""
    found = _rows(account_id).filter(organization__stripe_customers__customer_id=customer_id or "-")
    found = found.filter(organization__stripe_customers__account_id=account_id)
    return found.filter(Q(stripe_id__isnull=False) | Q(state__in=BEGINNING))


def due(now: datetime, limit: int) -> Iterable[Subscription]:
    rows = Subscription.objects.filter(next_look_at__lte=now).order_by("next_look_at")
    return rows.select_related("account__brand", "organization__brand", "price__tier")[:limit]


def _rows(account_id: int) -> QuerySet[Subscription]:
    rows = Subscription.objects.filter(account_id=account_id)
    return rows.select_related("account__brand", "organization__brand", "price__tier")
