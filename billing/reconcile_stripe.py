"""Does Stripe say the same of our payments as the books? Both ways, for the last weeks: what Stripe has and we do not,
and what we have and Stripe does not. What is younger than a few minutes may still be on its way, and is left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import QuerySet

from billing import reconcile_subscriptions, stripe_gateway
from billing.models import PostingLine
from billing.payment_models import Reversal, StripeAccount, TopUp
from billing.reconcile_books import Difference
from billing.stripe_objects import Back, Intent

COMPARED = timedelta(days=35)
UNDER_WAY = timedelta(minutes=5)
log = logging.getLogger(__name__)


def differences(now: datetime) -> Iterator[Difference]:
    since, until = now - COMPARED, now - UNDER_WAY
    for account in StripeAccount.objects.select_related("brand").order_by("pk"):
        gateway = stripe_gateway.of(account)
        try:
            intents = {intent.id: intent for intent in gateway.intents(since=since, until=until)}
            backs = {
                back.id: back
                for listed in (gateway.refunds(since=since, until=until), gateway.disputes(since=since, until=until))
                for back in listed
            }
            plans = list(reconcile_subscriptions.differences(account, gateway, list(backs.values()), since, until))
        except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
            if account.is_stand_in:  # of a demo that does not run now
                log.warning("the stand-in for Stripe of %s is away", account.brand)
            else:
                yield Difference("stripe", str(account), "an answer", str(error))
            continue
        yield from plans
        yield from _payments(account, intents, backs, since, until)
        yield from _reversals(account, intents, backs, since, until)


def _payments(
    account: StripeAccount, intents: dict[str, Intent], backs: dict[str, Back], since: datetime, until: datetime
) -> Iterator[Difference]:
    returned: Counter[str] = Counter()
    for back in backs.values():
        returned[back.payment_intent] += back.units if back.is_back else 0
    rows = {row.payment_intent: row for row in _paid(account).filter(payment_intent__in=list(intents))}
    for intent in intents.values():
        if intent.status != "succeeded" or "top_up" not in intent.metadata:
            continue  # not ours, or no money
        row = rows.get(intent.id)
        if row is None and returned[intent.id] >= intent.received:
            continue  # never credited, and given back
        found = (row.paid_units, row.currency) if row is not None else "nothing credited"
        if found != (intent.received, intent.currency):
            yield Difference("stripe payment", intent.id, f"{intent.received} {intent.currency}", found)
    for row in _paid(account).filter(ended_at__range=(since, until)).select_related("posting"):
        if row.payment_intent not in intents and row.created_at > since:
            yield Difference("stripe payment", f"{row.public_id} {row.payment_intent}", "at Stripe", "not there")
        assert row.posting_id is not None
        moved = _wallet(row.posting_id, row.organization_id)
        if moved != row.credited_nanos:
            yield Difference("stripe credit", row.public_id, row.credited_nanos, moved)


def _reversals(
    account: StripeAccount, intents: dict[str, Intent], backs: dict[str, Back], since: datetime, until: datetime
) -> Iterator[Difference]:
    rows = {row.stripe_id: row for row in _taken(account).filter(stripe_id__in=list(backs))}
    ours = set(_paid(account).values_list("payment_intent", flat=True))
    for back in backs.values():
        if back.payment_intent not in ours:
            continue
        row = rows.get(back.id)
        found = row.units if row is not None and row.returned_id is None else 0
        if found != (back.units if back.is_back else 0):
            yield Difference("stripe refund or dispute", back.id, back.units if back.is_back else 0, found)
    recent = _taken(account).filter(created_at__range=(since, until), returned=None)
    for row in recent.exclude(stripe_id__in=list(backs)):
        yield Difference("stripe refund or dispute", str(row.stripe_id), "at Stripe", "not there")
    for top_up in _paid(account).filter(reversals__created_at__range=(since, until)).distinct():
        yield from _whole_again(top_up)


def _whole_again(top_up: TopUp) -> Iterator[Difference]:
    """A payment that went back whole has left nothing in the wallet."""
    assert top_up.paid_units is not None
    standing = list(_taken(top_up.account).filter(top_up=top_up, returned=None).values_list("units", "nanos"))
    if sum(units for units, _ in standing) >= top_up.paid_units:
        taken = sum(nanos for _, nanos in standing)
        if taken != top_up.credited_nanos:
            yield Difference("stripe reversal", top_up.public_id, top_up.credited_nanos, taken)


def _paid(account: StripeAccount) -> QuerySet[TopUp]:
    return TopUp.objects.filter(account=account, state=TopUp.State.PAID)


def _taken(account: StripeAccount) -> QuerySet[Reversal]:
    return Reversal.objects.filter(top_up__account=account).exclude(posting=None)


def _wallet(posting_id: int, organization_id: int) -> int:
    """What the posting did to the customer's wallet, as its lines say."""
    lines = PostingLine.objects.filter(posting_id=posting_id, account__organization_id=organization_id)
    return sum(lines.values_list("amount_nanos", flat=True))
