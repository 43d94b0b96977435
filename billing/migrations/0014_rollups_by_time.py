"""Lately, over all organizations: what pages about a brand's service sum. Small, and written at nearly no cost."""

from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0013_tier_is_listed"),
    ]

    operations = [
        AddIndexConcurrently("usagequarter", BrinIndex(fields=["starts_at"], name="usage_quarter_lately")),
        AddIndexConcurrently("usageday", BrinIndex(fields=["day"], name="usage_day_lately")),
    ]
