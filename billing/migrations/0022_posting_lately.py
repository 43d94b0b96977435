"""Postings of a day: what is sealed is chosen by time. Small, and written at nearly no cost."""

from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0021_ledger_seals"),
    ]

    operations = [
        AddIndexConcurrently("posting", BrinIndex(fields=["posted_at"], name="posting_lately")),
    ]
