"""What makes a ladder live: the nights that were judged, and exceptions that end by themselves."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from billing.choices import reach
from keys.models import Brand, Organization, User


class UpgradeNight(models.Model):
    """A brand day whose organizations were all judged by the upgrade rules. Written by billing.upgrades only."""

    brand = models.ForeignKey(Brand, on_delete=models.CASCADE, related_name="+")
    night = models.DateField(help_text="The brand day that had ended")
    judged = models.PositiveIntegerField(default=0)
    moved = models.PositiveIntegerField(default=0)
    finished_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["brand", "night"], name="upgrade_night_unique")]

    def __str__(self) -> str:
        return f"{self.brand} {self.night}: {self.moved} of {self.judged}"


class LimitOverride(models.Model):
    """In place of a limit of the organization's tier, until it expires: (unit, window, scope, model) as TierLimit has
    them. Written by billing.overrides only; workers judge its end by Redis' clock."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="limit_overrides")
    unit = models.CharField(max_length=10)
    window = models.CharField(max_length=8)
    scope = models.CharField(max_length=12, default="organization")
    model = models.ForeignKey("billing.Model", null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    amount = models.BigIntegerField()
    is_raise = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="It raised the limit of the tier when it was put: it takes nothing from a tier that gives more",
    )
    reason = models.CharField(max_length=200)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "unit", "window", "scope", "model"],
                nulls_distinct=False,
                name="limit_override_unique",
            ),
            models.CheckConstraint(
                condition=models.Q(amount__gte=0, amount__lt=2**53), name="limit_override_amount_bounded"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.unit} {reach(self.unit, self.window, self.scope)} for {self.organization}"


class FirstAccount(models.Model):
    """Whose organization is their first at a brand: sign-up credit and what tiers include are given to it. Kept by
    mailbox and by person, whatever becomes of membership, address or organization. Written by billing.ladder only."""

    brand = models.ForeignKey(Brand, on_delete=models.CASCADE, related_name="+")
    mailbox = models.CharField(max_length=254)
    user = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["brand", "mailbox"], name="first_account_unique")]

    def __str__(self) -> str:
        return f"{self.mailbox} at {self.brand}"
