"""Payments through Stripe. What happened is asked of Stripe; these rows say what we asked for, and what we made of it.

Every request that moves money has its row, and on it its idempotency key, before it is sent.
"""

from __future__ import annotations

import secrets

from django.db import models
from django.db.models import Q, TextChoices
from django.db.models.functions import Now

from keys.models import Brand, Organization, User, public_id


def account_public_id() -> str:
    return public_id("pay_")


def top_up_public_id() -> str:
    return public_id("top_")


def idempotency_key() -> str:
    return secrets.token_urlsafe(24)


class StripeAccount(models.Model):
    """A brand's account at Stripe. One is active; earlier ones stay, because their payments may still be refunded.
    Written by billing.stripe_accounts only."""

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="stripe_accounts")
    public_id = models.CharField(max_length=40, unique=True, default=account_public_id, editable=False)
    stripe_id = models.CharField(max_length=60, help_text="acct_… at Stripe")
    is_active = models.BooleanField(default=True, help_text="Takes new payments")
    livemode = models.BooleanField(help_text="False: test mode, no money moves")
    secret_key_sealed = models.TextField()
    webhook_secrets_sealed = models.TextField(
        blank=True, help_text="A JSON list, newest first; several while one rotates"
    )
    automatic_tax = models.BooleanField(
        default=False, help_text="Stripe Tax adds what is due; credit is the net amount"
    )
    api_base = models.CharField(
        max_length=200, blank=True, help_text="Of a stand-in for Stripe; empty is Stripe itself"
    )
    events_seen_until = models.DateTimeField(null=True, help_text="Events up to here were looked for by the poller")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name, verbose_name_plural = "Stripe account", "Stripe accounts"
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["brand"], condition=Q(is_active=True), name="stripe_account_one_active"),
            models.UniqueConstraint(fields=["brand", "stripe_id", "livemode"], name="stripe_account_once"),
        ]

    def __str__(self) -> str:
        return f"{self.brand} {self.stripe_id}"

    @property
    def is_stand_in(self) -> bool:
        return bool(self.api_base)


class StripeCustomer(models.Model):
    """An organization at one Stripe account, and the card that is kept there for it (never its number: Stripe's
    name of it, and what a person recognises it by). Written by billing.cards only."""

    account = models.ForeignKey(StripeAccount, on_delete=models.PROTECT, related_name="customers")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="stripe_customers")
    customer_id = models.CharField(max_length=60, blank=True, help_text="cus_…; empty until Stripe has answered")
    idempotency_key = models.CharField(max_length=60, unique=True, default=idempotency_key)
    payment_method = models.CharField(max_length=60, blank=True, help_text="pm_… of the kept card")
    card_brand = models.CharField(max_length=20, blank=True)
    card_last4 = models.CharField(max_length=4, blank=True)
    card_expires = models.CharField(max_length=7, blank=True, help_text="MM/YYYY")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name, verbose_name_plural = "Stripe customer", "Stripe customers"
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["account", "organization"], name="stripe_customer_once"),
            models.UniqueConstraint(
                fields=["account", "customer_id"], condition=~Q(customer_id=""), name="stripe_customer_of_one"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization} at {self.account}"


class TopUp(models.Model):
    """One attempt to pay. created: asked for, Stripe's answer not known. open: Stripe has it, the money not. paid,
    expired and failed are ends; money that comes after all makes any of them paid. Written by billing.top_ups only."""

    class Kind(TextChoices):
        CHECKOUT = "checkout", "Top-up"
        AUTO = "auto", "Automatic top-up"

    class Decision(TextChoices):
        CREDITED = "credited", "Give credit for it"
        RETURNED = "returned", "Give the money back"

    class State(TextChoices):
        CREATED = "created", "Being prepared"
        OPEN = "open", "Waiting for the payment"
        PAID = "paid"
        EXPIRED = "expired"
        FAILED = "failed"

    public_id = models.CharField(max_length=40, unique=True, default=top_up_public_id, editable=False)
    account = models.ForeignKey(StripeAccount, on_delete=models.PROTECT, related_name="top_ups")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="top_ups")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    state = models.CharField(max_length=10, choices=State.choices, default=State.CREATED)
    amount_nanos = models.BigIntegerField(help_text="Credit asked for, without tax")
    currency = models.CharField(max_length=3)
    keeps_card = models.BooleanField(default=False, help_text="The card may be charged again, by automatic top-ups")
    return_url = models.CharField(max_length=400, blank=True)
    idempotency_key = models.CharField(max_length=60, unique=True, default=idempotency_key)
    session_id = models.CharField(max_length=100, null=True, unique=True)
    payment_intent = models.CharField(max_length=60, null=True, unique=True)
    checkout_url = models.TextField(blank=True)
    tax_units = models.BigIntegerField(
        null=True, help_text="Tax to charge on top, in the currency's minor units; null: not asked, or Checkout asks"
    )
    tax_calculation = models.CharField(max_length=100, blank=True, db_default="", help_text="taxcalc_… at Stripe")
    paid_units = models.BigIntegerField(null=True, help_text="Received with tax, in the currency's minor units")
    credited_nanos = models.BigIntegerField(null=True)
    failure = models.CharField(max_length=200, blank=True, help_text="Stripe's code, and what it says")
    decision = models.CharField(
        max_length=8,
        choices=Decision.choices,
        blank=True,
        db_default="",
        help_text="By a person, of a payment that was not what was asked for",
    )
    posting = models.OneToOneField("billing.Posting", null=True, on_delete=models.PROTECT, related_name="top_up")
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    address = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    ended_at = models.DateTimeField(null=True)
    next_look_at = models.DateTimeField(null=True, help_text="When the poller asks Stripe about it; null: never again")

    class Meta:
        verbose_name, verbose_name_plural = "top-up", "top-ups"
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(
                fields=["organization"],
                condition=Q(kind="auto", state__in=["created", "open"]),
                name="top_up_one_auto_at_a_time",
            ),
            models.CheckConstraint(condition=Q(amount_nanos__gt=0), name="top_up_positive"),
            models.CheckConstraint(
                condition=~Q(state="paid")
                | Q(posting__isnull=False, credited_nanos__gt=0, paid_units__gt=0, payment_intent__isnull=False),
                name="top_up_paid_is_posted",
            ),
        ]
        indexes = [
            models.Index(fields=["next_look_at"], condition=Q(next_look_at__isnull=False), name="top_up_to_look_at"),
            models.Index(fields=["organization", "-created_at"], name="top_up_of_organization"),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.state}"


class Reversal(models.Model):
    """Money of a top-up that went back: a refund, or a disputed payment. `returned`: it failed, or the dispute was won,
    and the credit was given again. Written by billing.reversals only."""

    class Kind(TextChoices):
        REFUND = "refund"
        DISPUTE = "dispute", "Disputed payment"

    top_up = models.ForeignKey(TopUp, on_delete=models.PROTECT, related_name="reversals")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    stripe_id = models.CharField(max_length=60, null=True, unique=True, help_text="re_… or du_…; null until known")
    idempotency_key = models.CharField(max_length=60, unique=True, default=idempotency_key)
    units = models.BigIntegerField(help_text="With tax, in the currency's minor units")
    nanos = models.BigIntegerField(default=0, help_text="Taken from the wallet")
    posting = models.OneToOneField("billing.Posting", null=True, on_delete=models.PROTECT, related_name="+")
    returned = models.OneToOneField("billing.Posting", null=True, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=200, blank=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    refused = models.CharField(max_length=200, blank=True, help_text="Why Stripe did not do it")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [models.CheckConstraint(condition=Q(units__gt=0, nanos__gte=0), name="reversal_positive")]

    def __str__(self) -> str:
        return f"{self.kind} {self.stripe_id or 'asked for'}"


class AutoTopUp(models.Model):
    """An organization's wish to be charged by itself. Below `threshold_nanos`, `amount_nanos` is charged to the kept
    card, up to `monthly_cap_nanos` a month. Written by billing.auto_top_ups only."""

    organization = models.OneToOneField(
        Organization, primary_key=True, on_delete=models.PROTECT, related_name="auto_top_up"
    )
    is_on = models.BooleanField(default=True)
    threshold_nanos = models.BigIntegerField()
    amount_nanos = models.BigIntegerField()
    monthly_cap_nanos = models.BigIntegerField()
    failures = models.PositiveSmallIntegerField(default=0, help_text="Declined in a row")
    not_before = models.DateTimeField(null=True, help_text="After a decline: the next try")
    stopped_because = models.CharField(max_length=40, blank=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name, verbose_name_plural = "automatic top-up", "automatic top-ups"
        app_label = "billing"
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    threshold_nanos__gte=0, amount_nanos__gt=0, monthly_cap_nanos__gte=models.F("amount_nanos")
                ),
                name="auto_top_up_amounts_sane",
            )
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.amount_nanos} below {self.threshold_nanos}"


class StripeEvent(models.Model):
    """What Stripe told us, once, as it came. Processing it asks Stripe how things stand, so order and repetition do not
    matter. Written by billing.stripe_events only."""

    class Source(TextChoices):
        WEBHOOK = "webhook"
        POLLER = "poller"

    account = models.ForeignKey(StripeAccount, on_delete=models.PROTECT, related_name="events")
    event_id = models.CharField(max_length=100)
    kind = models.CharField(max_length=80)
    payload = models.JSONField()
    source = models.CharField(max_length=8, choices=Source.choices)
    happened_at = models.DateTimeField()
    received_at = models.DateTimeField(db_default=Now(), editable=False)
    due_at = models.DateTimeField(null=True, db_default=Now(), help_text="When to process it; null: done")
    tries = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        verbose_name, verbose_name_plural = "Stripe event", "Stripe events"
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["account", "event_id"], name="stripe_event_once")]
        indexes = [models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="stripe_event_due")]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"
