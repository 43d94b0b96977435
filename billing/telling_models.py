"""What organizations want to be told of their limits, what they were told, and what their people have put away."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from keys.models import Organization, User


class AlertPreference(models.Model):
    """At which shares of which limits an organization is written to; without a row, as billing.alerts says. Empty
    `percents`: never. Written by billing.alerts only."""

    organization = models.OneToOneField(
        Organization, primary_key=True, on_delete=models.CASCADE, related_name="alert_preference"
    )
    percents = ArrayField(models.PositiveSmallIntegerField(), default=list)
    limits = ArrayField(models.CharField(max_length=60), default=list, help_text='Names: "organization.tokens.day"')
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "billing"

    def __str__(self) -> str:
        return f"{self.organization}: {self.percents}"


class LimitAlert(models.Model):
    """A share of a limit that was reached in a window: told once. A limit that was changed meanwhile is another one.
    Written by billing.alerts only."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="limit_alerts")
    limit = models.CharField(max_length=60)
    scope = models.CharField(max_length=24, help_text="Whose counter: o, k<key>, m<model>")
    window_id = models.CharField(max_length=16)
    amount = models.BigIntegerField()
    percent = models.PositiveSmallIntegerField()
    used = models.BigIntegerField()
    at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "window_id", "limit", "scope", "amount", "percent"], name="limit_alert_once"
            ),
            models.CheckConstraint(condition=models.Q(percent__gte=1, percent__lte=100), name="limit_alert_percent"),
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.percent} % of {self.limit} in {self.window_id}"


class NoticesSeen(models.Model):
    """Up to which notice a person has put an organization's banners away. Written by billing.notices only."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    last_notice_id = models.BigIntegerField()

    class Meta:
        verbose_name, verbose_name_plural = "notices seen", "notices seen"
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="notices_seen_unique")]

    def __str__(self) -> str:
        return f"{self.user} has seen {self.organization}'s notices up to {self.last_notice_id}"
