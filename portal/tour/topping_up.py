"""A top-up through the demo's Checkout, half of it refunded: the ledger's lines, which sum to zero."""

from __future__ import annotations

import urllib.parse
import urllib.request

from asgiref.sync import sync_to_async
from django.utils import timezone

from billing import money, reversals, stripe_accounts, stripe_events, top_ups
from billing.models import PostingLine
from billing.payment_models import TopUp
from keys.models import Organization
from portal.tour import NotHere, Proof
from portal.tour.customers import ACTOR, new_customer
from portal.tour.demo import Demo, eventually

GIFT_NANOS = 10**9
PAID_NANOS = 25 * 10**9
BACK_NANOS = 10 * 10**9
BACK_AT = "http://localhost/?top_up={top_up}"
PAGE_SECONDS_MAX = 10


async def a_top_up_is_booked_to_zero(demo: Demo) -> Proof:
    organization, _key = await sync_to_async(new_customer)(demo, GIFT_NANOS)
    row = await sync_to_async(_pay)(organization)
    by_webhook = await eventually(lambda: _is_paid(row), within_seconds=5.0)
    if by_webhook is None:
        await sync_to_async(stripe_events.look)(row, timezone.now())
    await sync_to_async(row.refresh_from_db)()
    if row.state == TopUp.State.PAID:
        await sync_to_async(reversals.refund)(top_up=row, actor=ACTOR, reason="Tour", credit_nanos=BACK_NANOS)
    return await sync_to_async(_proof)(organization, row, "Stripe's webhook" if by_webhook else "a question to Stripe")


def _pay(organization: Organization) -> TopUp:
    """On the stand-in's own page, with the card that works."""
    try:
        account = stripe_accounts.active(organization.brand)
    except stripe_accounts.NotConnected:
        raise NotHere("This brand takes no payments by card.") from None
    if not account.is_stand_in:
        raise NotHere("This brand is paid through Stripe itself, where the tour has no card.")
    row = top_ups.start(organization=organization, amount_nanos=PAID_NANOS, return_url=BACK_AT, actor=ACTOR)
    sent = urllib.parse.urlencode({"card": "pm_card_visa"}).encode()
    request = urllib.request.Request(row.checkout_url, sent, method="POST")  # noqa: S310  # the stand-in's page
    urllib.request.build_opener(_Stay()).open(request, timeout=PAGE_SECONDS_MAX).close()
    return row


class _Stay(urllib.request.HTTPRedirectHandler):
    """The way back leads to a page that this tour does not need."""

    def http_error_303(self, _request, answer, *_rest):  # type: ignore[no-untyped-def]
        return answer


def _is_paid(row: TopUp) -> bool | None:
    return TopUp.objects.filter(pk=row.pk, state=TopUp.State.PAID).exists() or None


def _proof(organization: Organization, row: TopUp, how: str) -> Proof:
    currency = organization.brand.currency
    lines = [f"{money.display(PAID_NANOS, currency)} paid as {row.payment_intent}; {how} told of it"]
    found = PostingLine.objects.filter(posting__organization=organization).select_related("posting", "account")
    postings: dict[str, list[PostingLine]] = {}
    for line in found.order_by("pk"):
        postings.setdefault(f"{line.posting.kind} {line.posting.reference}", []).append(line)
    sums = {name: sum(line.amount_nanos for line in rows) for name, rows in postings.items()}
    for name, rows in postings.items():
        lines.append(name)
        lines += [f"  {line.account.kind:<10} {money.display(line.amount_nanos, currency):>12}" for line in rows]
        lines.append(f"  {'sum':<10} {money.display(sums[name], currency):>12}")
    wallet = sum(
        line.amount_nanos
        for rows in postings.values()
        for line in rows
        if line.account.kind == line.account.Kind.WALLET
    )
    expected = GIFT_NANOS + PAID_NANOS - BACK_NANOS
    lines.append(f"balance {money.display(wallet, currency)}, expected {money.display(expected, currency)}")
    return Proof(lines, wallet == expected and not any(sums.values()))
