"""What engines' own counters said, and where metering disagreed with them. Written by billing.engine_counters only."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import TextChoices


class EngineReading(models.Model):
    """The counters at `root` (an engine's address without /v1) at one moment. Several rows of Engine may share a root:
    the counters are theirs together. `is_prompt_whole`: prompt tokens include those from a cache. `running` null: the
    engine does not say how many calls it has. `boundary` not empty: an interval ends here and the next begins."""

    class Boundary(TextChoices):
        FIRST = "first", "First reading, or other engine rows than before"
        RESTARTED = "restarted", "The engine has started anew"
        AGREED = "agreed"
        DIFFERED = "differed"
        TOO_LONG = "too_long", "Ended without a result: too many calls were under way at its ends"

    root = models.CharField(max_length=200)
    engine_ids = ArrayField(models.BigIntegerField())
    at = models.DateTimeField()
    prompt_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    is_prompt_whole = models.BooleanField()
    running = models.IntegerField(null=True)
    process_started = models.FloatField(null=True, help_text="Unix seconds, where the engine says it")
    boundary = models.CharField(max_length=9, blank=True, choices=Boundary.choices)

    class Meta:
        app_label = "billing"
        indexes = [models.Index(fields=["root", "at"], name="engine_reading_root_at")]

    def __str__(self) -> str:
        return f"{self.root} {self.at:%Y-%m-%d %H:%M:%S}"


class EngineFinding(models.Model):
    """An interval over which an engine counted more or fewer tokens than were metered. Reconcile names it until an
    operator has resolved it."""

    root = models.CharField(max_length=200)
    engine_ids = ArrayField(models.BigIntegerField())
    kind = models.CharField(max_length=6, choices=[("prompt", "prompt"), ("output", "output")])
    since = models.DateTimeField()
    until = models.DateTimeField()
    counted = models.BigIntegerField(help_text="Tokens, by the engine")
    metered = models.BigIntegerField(help_text="Tokens, by us")
    allowed = models.BigIntegerField(help_text="Difference that calls under way and the bound explain")
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "billing"

    def __str__(self) -> str:
        return f"{self.root}: {self.kind} tokens until {self.until:%Y-%m-%d %H:%M}"
