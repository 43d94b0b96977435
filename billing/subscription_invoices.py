"""The only writer of SubscriptionInvoice and InvoiceReversal: what paid plans bring in, and what of it went back.

Income of a plan is no customer's credit: it goes from cash to revenue, net of tax, and no wallet moves. Each invoice is
posted once, under its own id; refunds and disputes are new entries under theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.db import transaction

from billing import currencies, ledger, stripe_gateway
from billing.ledger import AccountKind, Entry, Line
from billing.models import Posting
from billing.stripe_objects import Back, Invoice
from billing.subscription_models import InvoiceReversal, Subscription, SubscriptionInvoice

log = logging.getLogger(__name__)
Kind = InvoiceReversal.Kind
POSTING_KINDS = {Kind.REFUND: Posting.Kind.REFUND, Kind.DISPUTE: Posting.Kind.DISPUTE}


def book(subscription: Subscription, invoices: Iterable[Invoice]) -> None:
    """Those of them that were paid with money; any number of times."""
    for invoice in invoices:
        if invoice.status == "paid" and invoice.paid > 0 and invoice.net > 0:
            _book(subscription, invoice)


def _book(subscription: Subscription, invoice: Invoice) -> None:
    price = subscription.price
    currency = subscription.organization.brand.currency
    if (invoice.subscription, invoice.currency, price.currency) != (subscription.stripe_id, currency, currency):
        log.error("invoice %s is not what %s agreed on; reconcile names it", invoice.id, subscription)
        return
    with transaction.atomic():
        Subscription.objects.select_for_update().get(pk=subscription.pk)
        if SubscriptionInvoice.objects.filter(invoice_id=invoice.id).exists():
            return
        nanos = currencies.nanos_of(invoice.net, price.currency)
        SubscriptionInvoice.objects.create(
            subscription=subscription,
            invoice_id=invoice.id,
            payment_intent=invoice.payment_intent,
            reason=invoice.reason[:40],
            paid_units=invoice.paid,
            net_nanos=nanos,
            posting=_post(subscription, nanos, Posting.Kind.SUBSCRIPTION, invoice.id, f"Paid plan: {price.name}"),
            created_at=invoice.created_at,
        )


def _post(subscription: Subscription, nanos: int, kind: str, reference: str, memo: str) -> Posting:
    organization = subscription.organization
    lines = (Line(AccountKind.REVENUE, nanos), Line(AccountKind.CASH, -nanos))
    return ledger.post(
        Entry(
            brand_id=organization.brand_id,
            organization_id=organization.pk,
            kind=kind,
            reference=f"stripe:{reference}",
            lines=lines,
            memo=memo,
        )
    ).posting


# What goes back


def of_intent(payment_intent: str, account_id: int) -> SubscriptionInvoice | None:
    rows = SubscriptionInvoice.objects.filter(subscription__account_id=account_id, payment_intent=payment_intent)
    return rows.select_related("subscription__account__brand", "subscription__organization").first()


def look(invoice: SubscriptionInvoice) -> None:
    """Make the books say what Stripe says went back of it. Raises what the gateway raises."""
    gateway = stripe_gateway.of(invoice.subscription.account)
    for kind, found in (
        (Kind.REFUND, gateway.refunds_of(invoice.payment_intent)),
        (Kind.DISPUTE, gateway.disputes_of(invoice.payment_intent)),
    ):
        for back in reversed(found):
            _apply(invoice, kind, back)


def _apply(invoice: SubscriptionInvoice, kind: Kind, back: Back) -> None:
    with transaction.atomic():
        locked = SubscriptionInvoice.objects.select_for_update().get(pk=invoice.pk)
        row = locked.reversals.filter(stripe_id=back.id).first()
        if row is None and back.is_back:
            _take(locked, kind, back)
        elif row is not None and row.returned is None and not back.is_back:
            memo = f"Stayed after all: {locked.posting.memo}"
            reference = f"{back.id}:returned"
            row.returned = _post(locked.subscription, row.nanos, POSTING_KINDS[kind], reference, memo)
            row.save(update_fields=["returned"])


def _take(invoice: SubscriptionInvoice, kind: Kind, back: Back) -> None:
    stands = list(invoice.reversals.filter(returned=None).values_list("units", "nanos"))
    units = min(invoice.paid_units, sum(units for units, _ in stands) + back.units)
    # In proportion of the whole, so that parts of any size, once all went back, have taken exactly what came in.
    nanos = invoice.net_nanos * units // invoice.paid_units - sum(nanos for _, nanos in stands)
    if nanos <= 0:
        return
    InvoiceReversal.objects.create(
        invoice=invoice,
        kind=kind,
        stripe_id=back.id,
        units=back.units,
        nanos=nanos,
        posting=_post(
            invoice.subscription, -nanos, POSTING_KINDS[kind], back.id, f"{kind.label}: {invoice.posting.memo}"
        ),
    )
