"""Tiers that are paid by the month. What is agreed and paid is asked of Stripe; these rows say what we asked for, which
tier the organization has by it, and what was posted.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q, TextChoices
from django.db.models.functions import Now

from billing.payment_models import StripeAccount, idempotency_key
from keys.models import Organization, User, public_id


def subscription_public_id() -> str:
    return public_id("plan_")


class SubscriptionPrice(models.Model):
    """What a month of a tier costs at one Stripe account; another price of the tier is another row, and who subscribed
    keeps theirs. Written by billing.subscriptions only."""

    account = models.ForeignKey(StripeAccount, on_delete=models.PROTECT, related_name="+")
    tier = models.ForeignKey("billing.Tier", on_delete=models.PROTECT, related_name="prices")
    amount_nanos = models.BigIntegerField(help_text="A month, without tax")
    currency = models.CharField(max_length=3)
    name = models.CharField(max_length=80, help_text="What Stripe's pages and receipts call it")
    idempotency_key = models.CharField(max_length=60, unique=True, default=idempotency_key)
    price_id = models.CharField(max_length=60, blank=True, help_text="price_…; empty until Stripe has answered")

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(
                fields=["account", "tier", "amount_nanos", "currency"], name="subscription_price_once"
            ),
            models.UniqueConstraint(
                fields=["account", "price_id"], condition=~Q(price_id=""), name="subscription_price_of_one"
            ),
            models.CheckConstraint(condition=Q(amount_nanos__gt=0), name="subscription_price_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.amount_nanos} {self.currency} a month"


class Subscription(models.Model):
    """An organization's paid plan. created: asked for, Stripe's answer not known. open: its Checkout waits. active and
    past_due run. One of these four at a time. ended, expired (never paid) and failed are over. Written by
    billing.subscriptions and billing.subscription_state only."""

    class State(TextChoices):
        CREATED = "created", "Being prepared"
        OPEN = "open", "Waiting for the payment"
        ACTIVE = "active"
        PAST_DUE = "past_due", "Not paid"
        ENDED = "ended"
        EXPIRED = "expired", "Never paid"
        FAILED = "failed"

    public_id = models.CharField(max_length=40, unique=True, default=subscription_public_id, editable=False)
    account = models.ForeignKey(StripeAccount, on_delete=models.PROTECT, related_name="subscriptions")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="subscriptions")
    price = models.ForeignKey(SubscriptionPrice, on_delete=models.PROTECT, related_name="subscriptions")
    state = models.CharField(max_length=10, choices=State.choices, default=State.CREATED)
    granted = models.ForeignKey(
        "billing.Tier", null=True, on_delete=models.PROTECT, related_name="+", help_text="What it gives now"
    )
    fallback = models.ForeignKey(
        "billing.Tier", null=True, on_delete=models.PROTECT, related_name="+", help_text="Where it leads back to"
    )
    period_end = models.DateTimeField(null=True, help_text="Until when it is paid, or was to be")
    ends_at = models.DateTimeField(null=True, help_text="When it was told to end; null: it goes on")
    grace_until = models.DateTimeField(null=True, help_text="How long an unpaid one keeps its tier")
    return_url = models.CharField(max_length=400, blank=True)
    idempotency_key = models.CharField(max_length=60, unique=True, default=idempotency_key)
    session_id = models.CharField(max_length=100, null=True, unique=True)
    stripe_id = models.CharField(max_length=60, null=True, unique=True, help_text="sub_…; null until it is paid")
    checkout_url = models.TextField(blank=True)
    failure = models.CharField(max_length=200, blank=True)
    looks = models.PositiveIntegerField(default=0, help_text="How often Stripe was asked")
    applied_look = models.PositiveIntegerField(default=0, help_text="Whose answer stands here: an older one is late")
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    address = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    ended_at = models.DateTimeField(null=True)
    next_look_at = models.DateTimeField(null=True, help_text="When the poller asks Stripe about it; null: never again")

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(
                fields=["organization"],
                condition=Q(state__in=["created", "open", "active", "past_due"]),
                name="subscription_one_at_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["active", "past_due"]) | Q(stripe_id__isnull=False),
                name="subscription_running_is_known",
            ),
            models.CheckConstraint(
                condition=Q(granted=None) | Q(state__in=["active", "past_due"]), name="subscription_gives_while_it_runs"
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_look_at"], condition=Q(next_look_at__isnull=False), name="subscription_to_look_at"
            ),
            models.Index(fields=["organization", "-created_at"], name="subscription_of_organization"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.state}"


class SubscriptionInvoice(models.Model):
    """An invoice that was paid: its net amount is revenue. Written by billing.subscription_invoices only."""

    subscription = models.ForeignKey(Subscription, on_delete=models.PROTECT, related_name="invoices")
    invoice_id = models.CharField(max_length=60, unique=True, help_text="in_…")
    payment_intent = models.CharField(max_length=60, blank=True, db_index=True)
    reason = models.CharField(max_length=40, blank=True, help_text="Stripe's: subscription_create, subscription_cycle…")
    paid_units = models.BigIntegerField(help_text="Received with tax, in the currency's minor units")
    net_nanos = models.BigIntegerField(help_text="Without tax")
    posting = models.OneToOneField("billing.Posting", on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(help_text="At Stripe")

    class Meta:
        app_label = "billing"
        constraints = [
            models.CheckConstraint(condition=Q(paid_units__gt=0, net_nanos__gt=0), name="subscription_invoice_positive")
        ]

    def __str__(self) -> str:
        return self.invoice_id


class InvoiceReversal(models.Model):
    """Money of an invoice that went back: a refund or a disputed payment; `returned`: it stayed after all. No wallet
    moves. Written by billing.subscription_invoices only."""

    class Kind(TextChoices):
        REFUND = "refund"
        DISPUTE = "dispute", "Disputed payment"

    invoice = models.ForeignKey(SubscriptionInvoice, on_delete=models.PROTECT, related_name="reversals")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    stripe_id = models.CharField(max_length=60, unique=True, help_text="re_… or du_…")
    units = models.BigIntegerField(help_text="With tax, in the currency's minor units")
    nanos = models.BigIntegerField(help_text="Taken from the revenue")
    posting = models.OneToOneField("billing.Posting", on_delete=models.PROTECT, related_name="+")
    returned = models.OneToOneField("billing.Posting", null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [models.CheckConstraint(condition=Q(units__gt=0, nanos__gt=0), name="invoice_reversal_positive")]

    def __str__(self) -> str:
        return f"{self.kind} {self.stripe_id}"
