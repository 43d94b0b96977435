"""The only writer of Reversal: money of a top-up that went back, as new entries; nothing that was posted is changed.

`look` asks Stripe for all refunds and disputes of a payment and makes the books say the same, so it does not matter
which of its events came, in which order, or how often. A balance may go below nothing by that: calls are refused then.
"""

from __future__ import annotations

import logging

from django.db import transaction

from billing import currencies, ledger, notices, stripe_gateway
from billing.models import Posting
from billing.payment_models import Reversal, TopUp
from billing.stripe_objects import Back
from keys.audit import Actor
from keys.models import User

log = logging.getLogger(__name__)
POSTING_KINDS = {Reversal.Kind.REFUND: Posting.Kind.REFUND, Reversal.Kind.DISPUTE: Posting.Kind.DISPUTE}
MEMOS = {Reversal.Kind.REFUND: "Refund", Reversal.Kind.DISPUTE: "Payment disputed with the bank"}
RETURN_MEMOS = {Reversal.Kind.REFUND: "Refund did not go through", Reversal.Kind.DISPUTE: "Dispute won"}


class NotRefundable(Exception):
    """Stripe was not asked, or did nothing. The message says why."""


def refund(*, top_up: TopUp, actor: Actor, reason: str, credit_nanos: int | None = None) -> Reversal:
    """Give a payment back, whole or in part: as much credit, with the tax that was paid on it. Raises NotRefundable;
    stripe_gateway.Unknown: the row stays, and `resume` asks again with its key."""
    with transaction.atomic():
        locked = TopUp.objects.select_for_update().get(pk=top_up.pk)
        if locked.state != TopUp.State.PAID or locked.paid_units is None or locked.credited_nanos is None:
            raise NotRefundable("This top-up was not paid.")
        asked = locked.reversals.filter(refused="", returned=None)
        left = locked.paid_units - sum(asked.values_list("units", flat=True))
        units = left if credit_nanos is None else _gross_units(locked, credit_nanos)
        if not 0 < units <= left:
            raise NotRefundable("That is more than is left of this payment." if left else "All of it was given back.")
        row = Reversal.objects.create(
            top_up=locked,
            kind=Reversal.Kind.REFUND,
            units=units,
            reason=reason[:200],
            actor=actor if isinstance(actor, User) else None,
        )
    return resume(row)


def resume(row: Reversal) -> Reversal:
    """Ask Stripe for a refund that was decided; asking again with the row's key gives back nothing more."""
    top_up = row.top_up
    assert top_up.payment_intent is not None
    try:
        made = stripe_gateway.of(top_up.account).refund(
            intent=top_up.payment_intent,
            units=row.units,
            metadata={"reversal": str(row.pk), "top_up": top_up.public_id},
            key=row.idempotency_key,
        )
    except (stripe_gateway.Refused, stripe_gateway.Declined) as error:
        Reversal.objects.filter(pk=row.pk, stripe_id=None).update(refused=str(error)[:200])
        raise NotRefundable(str(error)) from error
    _apply(top_up, Reversal.Kind.REFUND, made)
    row.refresh_from_db()
    return row


def find_or_resume(row: Reversal) -> Reversal:
    """For a refund of which nothing was heard: Stripe forgets keys after a day, so it is looked for first."""
    look(row.top_up)
    row.refresh_from_db()
    return row if row.stripe_id else resume(row)


def unanswered(limit: int) -> list[Reversal]:
    """Refunds that were asked for, and of which Stripe said nothing."""
    rows = Reversal.objects.filter(stripe_id=None, refused="").select_related("top_up__account__brand")
    return list(rows.select_related("top_up__organization__brand").order_by("pk")[:limit])


def look(top_up: TopUp) -> None:
    """Make the books say what Stripe says of this payment. Raises what the gateway raises."""
    if top_up.payment_intent is None or top_up.state != TopUp.State.PAID:
        return
    gateway = stripe_gateway.of(top_up.account)
    for kind, found in (
        (Reversal.Kind.REFUND, gateway.refunds_of(top_up.payment_intent)),
        (Reversal.Kind.DISPUTE, gateway.disputes_of(top_up.payment_intent)),
    ):
        for back in reversed(found):
            _apply(top_up, kind, back)


def _apply(top_up: TopUp, kind: str, back: Back) -> None:
    """Both halves are guarded by their postings' references, and by the top-up's lock."""
    with transaction.atomic():
        locked = TopUp.objects.select_for_update().get(pk=top_up.pk)
        row = _row(locked, kind, back)
        if row is None:
            return
        if row.posting is None and back.is_back:
            _take(locked, row)
        elif row.posting is not None and row.returned is None and not back.is_back:
            _give_again(locked, row)


def _row(top_up: TopUp, kind: str, back: Back) -> Reversal | None:
    """The row of what Stripe names; the one that asked for it, where that was us. None: it never took anything."""
    found = Reversal.objects.filter(stripe_id=back.id).first()
    if found is not None:
        return found
    ours = back.metadata.get("reversal", "")
    asked = Reversal.objects.filter(top_up=top_up, stripe_id=None, pk=int(ours)).first() if ours.isdecimal() else None
    if asked is not None:
        asked.stripe_id, asked.refused = back.id, ""
        asked.save(update_fields=["stripe_id", "refused"])
        return asked
    if not back.is_back:
        return None
    return Reversal.objects.create(top_up=top_up, kind=kind, stripe_id=back.id, units=back.units)


def _take(top_up: TopUp, row: Reversal) -> None:
    assert top_up.credited_nanos is not None
    assert top_up.paid_units is not None
    stands = top_up.reversals.exclude(posting=None).filter(returned=None)
    taken = list(stands.values_list("units", "nanos"))
    units = min(top_up.paid_units, sum(units for units, _ in taken) + row.units)
    # In proportion of the whole, so that parts of any size, once all is given back, have taken exactly what was given.
    row.nanos = max(0, top_up.credited_nanos * units // top_up.paid_units - sum(nanos for _, nanos in taken))
    if row.nanos:
        row.posting = ledger.adjust(
            organization=top_up.organization,
            amount_nanos=-row.nanos,
            kind=POSTING_KINDS[Reversal.Kind(row.kind)],
            reason=row.reason or MEMOS[Reversal.Kind(row.kind)],
            reference=f"stripe:{row.stripe_id}",
            actor=row.actor or "stripe",
        ).posting
        _tell(top_up, row)
    row.save(update_fields=["nanos", "posting"])


def _give_again(top_up: TopUp, row: Reversal) -> None:
    row.returned = ledger.adjust(
        organization=top_up.organization,
        amount_nanos=row.nanos,
        kind=POSTING_KINDS[Reversal.Kind(row.kind)],
        reason=RETURN_MEMOS[Reversal.Kind(row.kind)],
        reference=f"stripe:{row.stripe_id}:returned",
        actor="stripe",
    ).posting
    row.save(update_fields=["returned"])


def _tell(top_up: TopUp, row: Reversal) -> None:
    notices.tell(
        organization=top_up.organization,
        kind="payment_reversed",
        once=f"payment_reversed:{row.stripe_id}",
        payload={"amount_nanos": row.nanos, "currency": top_up.currency, "how": MEMOS[Reversal.Kind(row.kind)]},
    )


def _gross_units(top_up: TopUp, credit_nanos: int) -> int:
    """That much credit with its tax, rounded up to what can be paid."""
    assert top_up.credited_nanos is not None
    assert top_up.paid_units is not None
    step = currencies.step_nanos(top_up.currency) // currencies.nanos_per_minor_unit(top_up.currency)
    units = -(-credit_nanos * top_up.paid_units // top_up.credited_nanos)
    return min(top_up.paid_units, -(-units // step) * step)
