"""Where organizations want to hear of what happens to them, and what was sent there."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import TextChoices  # by name: mypy loses models.TextChoices inside a model's body
from django.db.models.functions import Now

from keys.models import Organization, public_id


def endpoint_public_id() -> str:
    return public_id("hook_")


class WebhookEvent(TextChoices):
    BALANCE_LOW = "balance.low", "The balance fell below a sum"
    BALANCE_EXHAUSTED = "balance.exhausted", "The balance is used up"
    TIER_CHANGED = "tier.changed", "The account moved to another tier"
    KEY_REVOKED = "key.revoked", "An API key was revoked"


TEST = "webhook.test"
"""Sent on request, to one endpoint, whatever it chose."""


class WebhookEndpoint(models.Model):
    """An address of an organization's own. Written by billing.webhook_endpoints only. `balance_level` is how the
    balance stood when it was last looked at for this endpoint: an event is a step down from it."""

    class Level(TextChoices):
        ENOUGH = "enough"
        LOW = "low"
        EXHAUSTED = "exhausted"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="webhook_endpoints")
    public_id = models.CharField(max_length=40, unique=True, default=endpoint_public_id, editable=False)
    url = models.CharField(max_length=500)
    events = ArrayField(models.CharField(max_length=30, choices=WebhookEvent.choices))
    low_balance_nanos = models.BigIntegerField(default=0, help_text="Below this the balance is low")
    balance_level = models.CharField(max_length=10, choices=Level.choices, default=Level.ENOUGH)
    secret_sealed = models.TextField()
    previous_secret_sealed = models.TextField(blank=True)
    previous_secret_until = models.DateTimeField(null=True)
    is_enabled = models.BooleanField(default=True)
    failing_since = models.DateTimeField(null=True)
    disabled_because = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["organization", "url"], name="webhook_endpoint_url_once"),
            models.CheckConstraint(
                condition=models.Q(low_balance_nanos__gte=0), name="webhook_low_balance_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.url}"


class WebhookDelivery(models.Model):
    """One event on its way to one endpoint: written in the transaction of what it tells of, sent afterwards. Written by
    billing.webhook_deliveries only. While `state` is SENDING, `next_at` is when its sender counts as gone."""

    class State(TextChoices):
        WAITING = "waiting", "Waiting"
        SENDING = "sending", "Being sent"
        DELIVERED = "delivered", "Delivered"
        FAILED = "failed", "Given up"

    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    event_id = models.CharField(max_length=40)
    event = models.CharField(max_length=30)
    body = models.TextField(help_text="As it is signed and sent, each time the same")
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    attempts_before = models.PositiveIntegerField(default=0, help_text="Those before it was last sent again by hand")
    next_at = models.DateTimeField(db_default=Now())
    answer_status = models.PositiveSmallIntegerField(null=True)
    answer = models.CharField(max_length=500, blank=True, help_text="The beginning of it, or why there was none")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name, verbose_name_plural = "webhook delivery", "webhook deliveries"
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["endpoint", "event_id"], name="webhook_delivery_once"),
        ]
        indexes = [
            models.Index(
                fields=["next_at"], condition=models.Q(state__in=["waiting", "sending"]), name="webhook_delivery_due"
            ),
            models.Index(fields=["endpoint", "-id"], name="webhook_delivery_log"),
        ]

    def __str__(self) -> str:
        return f"{self.event_id} {self.event} {self.state}"
