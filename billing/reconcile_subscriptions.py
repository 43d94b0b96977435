"""Does Stripe say the same of paid plans as we do? Invoices and what went back of them, both ways, for the weeks that
are compared; which plans run, and for which tier, as of now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from django.db.models import QuerySet, Sum

from billing.models import LedgerAccount, PostingLine
from billing.payment_models import StripeAccount
from billing.reconcile_books import Difference
from billing.stripe_gateway import Gateway
from billing.stripe_objects import Back, Invoice, Subscription
from billing.subscription_models import InvoiceReversal, SubscriptionInvoice
from billing.subscription_models import Subscription as Row
from billing.subscription_state import BEGINNING, RUNNING, STATES


def differences(
    account: StripeAccount, gateway: Gateway, backs: Sequence[Back], since: datetime, until: datetime
) -> Iterator[Difference]:
    """Raises what the gateway raises."""
    if not Row.objects.filter(account=account).exists():
        return
    living = {said.id: said for said in gateway.living_subscriptions()}
    invoices = {invoice.id: invoice for invoice in gateway.invoices(since=since, until=until)}
    yield from _states(account, living, until)
    yield from _invoices(account, invoices, since, until)
    yield from _backs(account, backs)


def _states(account: StripeAccount, living: dict[str, Subscription], until: datetime) -> Iterator[Difference]:
    """Rows that were begun lately may be on their way; a name of ours in Stripe's metadata makes one ours."""
    rows = {row.stripe_id: row for row in _rows(account).filter(state__in=RUNNING)}
    for said in living.values():
        row, state = rows.get(said.id), STATES[said.status]
        if "plan" not in said.metadata or state in BEGINNING:
            continue
        found = (str(row.state), row.price.price_id) if row is not None else "no plan"
        if found != (str(state), said.price):
            yield Difference("stripe plan", said.id, (str(state), said.price), found)
    for stripe_id, row in rows.items():
        if stripe_id not in living and row.created_at < until:
            yield Difference("stripe plan", f"{row.public_id} {stripe_id}", "not running", str(row.state))


def _invoices(
    account: StripeAccount, invoices: dict[str, Invoice], since: datetime, until: datetime
) -> Iterator[Difference]:
    ours = set(_rows(account).exclude(stripe_id=None).values_list("stripe_id", flat=True))
    booked = {
        row.invoice_id: row
        for row in SubscriptionInvoice.objects.filter(
            subscription__account=account, created_at__range=(since, until)
        ).select_related("subscription__price")
    }
    for invoice in invoices.values():
        if invoice.status != "paid" or not invoice.paid or invoice.subscription not in ours:
            continue
        row = booked.get(invoice.id)
        if row is None or row.paid_units != invoice.paid:
            yield Difference("stripe invoice", invoice.id, invoice.paid, row.paid_units if row else "nothing booked")
    for row in booked.values():
        if row.invoice_id not in invoices:
            yield Difference("stripe invoice", row.invoice_id, "at Stripe", "not there")
        moved = _revenue(row.posting_id)
        if moved != row.net_nanos:
            yield Difference("stripe invoice revenue", row.invoice_id, row.net_nanos, moved)


def _backs(account: StripeAccount, backs: Sequence[Back]) -> Iterator[Difference]:
    ours = SubscriptionInvoice.objects.filter(subscription__account=account).exclude(payment_intent="")
    paid = set(ours.values_list("payment_intent", flat=True))
    rows = {row.stripe_id: row for row in InvoiceReversal.objects.filter(stripe_id__in=[back.id for back in backs])}
    for back in backs:
        row = rows.get(back.id)
        found = row.units if row is not None and row.returned_id is None else 0
        if back.payment_intent in paid and found != (back.units if back.is_back else 0):
            yield Difference("stripe refund of a plan", back.id, back.units if back.is_back else 0, found)


def _revenue(posting_id: int) -> int:
    """What the posting did to the brand's revenue, as its lines say."""
    lines = PostingLine.objects.filter(posting_id=posting_id, account__kind=LedgerAccount.Kind.REVENUE)
    return int(lines.aggregate(sum=Sum("amount_nanos"))["sum"] or 0)


def _rows(account: StripeAccount) -> QuerySet[Row]:
    return Row.objects.filter(account=account).select_related("price")
