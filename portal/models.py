"""The only tables of this room: what the canary saw (by portal.canary.checks), what people put away or accepted, and
what the management API answered (by portal.manage_api.idempotency)."""

from __future__ import annotations

from django.db import models
from django.db.models import TextChoices  # by name: mypy loses models.TextChoices inside a model's body
from django.db.models.functions import Now

from billing.models import Model
from keys.models import ApiKey, Brand, Organization, User


class CanaryCheck(models.Model):
    """One question to one model. `slot_at` is the beginning of the five minutes it was asked for: asked once, however
    often the job runs. A row that stays `running` is of a job that was killed, and counts for nothing."""

    class Outcome(TextChoices):
        RUNNING = "running"
        PASSED = "passed"
        WRONG = "wrong"
        FAILED = "failed"

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="+")
    slot_at = models.DateTimeField()
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.RUNNING)
    call_id = models.CharField(max_length=60, blank=True, help_text="x-request-id of the answer")
    http_status = models.SmallIntegerField(null=True)
    code = models.CharField(max_length=60, blank=True, help_text="Why it failed")
    first_token_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "slot_at"], name="canary_check_once")]
        indexes = [models.Index(fields=["slot_at"], name="canary_check_slot")]

    def __str__(self) -> str:
        return f"{self.model} {self.slot_at}: {self.outcome}"


class ModelEvidence(models.Model):
    """What a model last answered to the canary's question, and what its engines say they are: a list of
    {"kind", "version", "model"}."""

    model = models.OneToOneField(Model, primary_key=True, on_delete=models.CASCADE, related_name="+")
    prompt = models.CharField(max_length=200, blank=True)
    answer = models.CharField(max_length=1_000, blank=True)
    answered_at = models.DateTimeField(null=True)
    engines = models.JSONField(default=list)
    engines_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.model}: {self.answer[:40]}"


class ChecklistDismissal(models.Model):
    """Somebody has seen enough of an account's first steps. Written by portal.onboarding alone."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "user"], name="checklist_dismissal_once")]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization}"


class KeptAnswer(models.Model):
    """What the management API answered to a POST with an Idempotency-Key. `name` and `request` are digests; `status` is
    null until it is answered. Written by portal.manage_api.idempotency alone."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+", db_index=False)
    name = models.BinaryField(max_length=32)
    request = models.BinaryField(max_length=32)
    status = models.PositiveSmallIntegerField(null=True)
    sealed = models.TextField(blank=True)
    at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["key", "name"], name="kept_answer_once")]

    def __str__(self) -> str:
        return f"{self.key_id} {self.at}: {self.status}"


class TermsAcceptance(models.Model):
    """Somebody accepted a version of a brand's terms, from an address. Written by portal.terms alone; never changed."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="+")
    version = models.CharField(max_length=40)
    at = models.DateTimeField(db_default=Now(), editable=False)
    address = models.GenericIPAddressField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "brand", "version"], name="terms_accepted_once")]

    def __str__(self) -> str:
        return f"{self.user}: {self.version} of {self.brand}"
