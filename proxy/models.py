"""What support looks at after a call was refused or failed, and what conversations are kept in. Not imported on a
call's way."""

from __future__ import annotations

from django.db import models

from keys.models import Organization


class RefusalRecord(models.Model):
    """One refused or failed call. Partitioned by day on its call id, like usage events, and kept for a week
    (refusal_records.py). Ids are plain numbers: records outlive what they name, and none of it is money."""

    call_id = models.UUIDField(primary_key=True)
    at = models.DateTimeField()
    brand_id = models.BigIntegerField(null=True)
    organization_id = models.BigIntegerField(null=True)
    key_id = models.BigIntegerField(null=True)
    key_hint = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=120, blank=True)
    endpoint = models.CharField(max_length=20, blank=True)
    status = models.SmallIntegerField()
    reason = models.CharField(max_length=40)
    limit = models.CharField(max_length=60, blank=True, db_column="limit_name")
    message = models.CharField(max_length=300, blank=True)
    engine_id = models.BigIntegerField(null=True)
    engine_status = models.SmallIntegerField(null=True)
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)

    class Meta:
        managed = False
        db_table = "refusal_record"

    def __str__(self) -> str:
        return f"{self.call_id} {self.status} {self.reason}"


class RefusalCount(models.Model):
    """How often a reason was given in a minute; complete where rows are not."""

    minute = models.DateTimeField()
    brand_id = models.BigIntegerField(default=0)
    organization_id = models.BigIntegerField(default=0)
    reason = models.CharField(max_length=40)
    count = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["minute", "organization_id", "brand_id", "reason"], name="refusal_count_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.minute} {self.reason}: {self.count}"


class TestCall(models.Model):
    """One call of a test key that ran. Kept for a week like refusals (test_calls.py, its only writer), and in no book:
    it cost nothing and used nothing that is anybody's."""

    __test__ = False

    call_id = models.UUIDField(primary_key=True)
    at = models.DateTimeField()
    brand_id = models.BigIntegerField()
    organization_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    key_hint = models.CharField(max_length=40)
    model = models.CharField(max_length=120)
    endpoint = models.CharField(max_length=20)
    stream = models.BooleanField()
    http_status = models.SmallIntegerField()
    end_reason = models.CharField(max_length=20)
    uncached_input_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField(null=True)
    images = models.IntegerField()
    first_token_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField()
    settled_at = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)

    class Meta:
        indexes = [models.Index(fields=["organization_id", "-call_id"], name="test_call_organization_call")]

    def __str__(self) -> str:
        return f"{self.call_id} {self.http_status} {self.end_reason}"

    def total(self, name: str) -> int | None:
        """An amount, by its name in a usage event. Nobody ever corrects one of these."""
        return getattr(self, name, None)


class Conversation(models.Model):
    """What a brand's customers said under one session_id, sealed (conversation_rows.py, its only writer). It belongs to
    the organization, not to a key; `digest` stands for the session_id, which is sealed with the rest."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    digest = models.CharField(max_length=64)
    sealed = models.TextField()
    version = models.BigIntegerField(help_text="counts writes: nobody writes over what they have not read")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "digest"], name="conversation_unique")]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.digest[:8]}"
