"""A brand that sells tiers by the month through the fake Stripe, and what time does to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from billing import ladder, ledger, stripe_events, subscriptions
from billing.models import LedgerAccount, Payer, Posting, PostingLine, Tier
from billing.payment_models import StripeAccount
from billing.subscription_models import InvoiceReversal, Subscription, SubscriptionInvoice, SubscriptionPrice
from keys.models import Brand, Organization
from tests.stripes import KEY, Stripe, control

RULE = {"all": [{"fact": "active_days", "days": 1, "within": 7}], "cool_down_days": 0}


def tiers_of(brand: Brand) -> dict[str, Tier]:
    """free (everybody's), plus at 10 a month, pro at 50, and busy, which use alone would reach from pro."""
    shared: dict[str, Any] = {"brand": brand, "payer": Payer.INCLUDED}
    rows = (
        Tier(rank=1, slug="free", name="Free", is_default=True, **shared),
        Tier(rank=2, slug="plus", name="Plus", monthly_price_nanos=10 * 10**9, **shared),
        Tier(rank=3, slug="pro", name="Pro", monthly_price_nanos=50 * 10**9, **shared),
        Tier(rank=4, slug="busy", name="Busy", upgrade_rule=RULE, **shared),
    )
    return {row.slug: ladder.save_tier(row, actor="test") for row in rows}


def begin(organization: Organization, tier: Tier) -> Subscription:
    return subscriptions.start(
        organization=organization, tier=tier, return_url="http://localhost/p/?plan={plan}", actor="test"
    )


def subscribed(running: Stripe, organization: Organization, tier: Tier, card: str = "pm_card_visa") -> Subscription:
    """Paid at Checkout, and Stripe was asked."""
    row = begin(organization, tier)
    running.post(row.checkout_url, card=card)
    subscriptions.attend(row, clock(running))
    row.refresh_from_db()
    return row


def clock(running: Stripe) -> datetime:
    """The fake's."""
    return datetime.fromtimestamp(running.account.clock(), UTC)


def advance(running: Stripe, days: float) -> datetime:
    control(running, "/control/advance", days=days)
    return clock(running)


def hear(now: datetime) -> None:
    """What the schedule does: the poller, the looks that are due, the events."""
    stripe_events.poll(now)
    stripe_events.look_around(now)
    while stripe_events.work(now):
        pass


def tier_of(organization: Organization) -> str:
    tier, _since = ladder.standing_of(organization)
    assert tier is not None
    return tier.slug


def earned(organization: Organization) -> int:
    """Minor units (cents) of revenue that its plans brought, exactly."""
    lines = PostingLine.objects.filter(
        posting__organization=organization, account__kind=LedgerAccount.Kind.REVENUE
    ).values_list("amount_nanos", flat=True)
    assert sum(lines) % 10**7 == 0
    return sum(lines) // 10**7


def received(running: Stripe, organization: Organization) -> int:
    """Minor units, from the fake's own log alone."""
    ours = set(organization.stripe_customers.values_list("customer_id", flat=True))
    return sum(moved["amount"] for moved in running.fake.log(KEY) if moved["customer"] in ours)


def rows(account: StripeAccount, organization: Organization, tier: Tier) -> None:
    """One of each table, for pages that only show them."""
    price = SubscriptionPrice.objects.create(account=account, tier=tier, amount_nanos=1, currency="USD", name="Plus")
    plan = Subscription.objects.create(account=account, organization=organization, price=price)
    came, went = (_posted(organization, name, nanos) for name, nanos in (("in_1", 1), ("re_1", -1)))
    invoice = SubscriptionInvoice.objects.create(
        subscription=plan, invoice_id="in_1", paid_units=1, net_nanos=1, posting=came, created_at=timezone.now()
    )
    InvoiceReversal.objects.create(invoice=invoice, kind="refund", stripe_id="re_1", units=1, nanos=1, posting=went)


def _posted(organization: Organization, name: str, nanos: int) -> Posting:
    entry = ledger.Entry(
        brand_id=organization.brand_id,
        organization_id=organization.pk,
        kind="subscription",
        reference=f"stripe:{name}",
        lines=(ledger.Line("revenue", nanos), ledger.Line("cash", -nanos)),
    )
    return ledger.post(entry).posting
