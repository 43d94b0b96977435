"""What engines cost us over time. Written by billing/engine_costs.py only."""

from __future__ import annotations

from django.db import models


class EngineCost(models.Model):
    """From `since` on an engine costs so much per hour, until its next row. Before its first it cost nothing that
    anybody had said. Engine.cost_per_hour_nanos is that of the newest row."""

    engine = models.ForeignKey("billing.Engine", on_delete=models.PROTECT, related_name="costs")
    per_hour_nanos = models.BigIntegerField()
    currency = models.CharField(max_length=3, blank=True, db_default="", help_text="Empty: nobody knew")
    since = models.DateTimeField()

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["engine", "since"], name="engine_cost_unique"),
            models.CheckConstraint(condition=models.Q(per_hour_nanos__gte=0), name="engine_cost_sane"),
        ]

    def __str__(self) -> str:
        return f"{self.engine} since {self.since:%Y-%m-%d %H:%M}"
