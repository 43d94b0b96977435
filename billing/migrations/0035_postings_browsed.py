"""Transactions of a brand, or of an organization, by kind and time: what operators page through."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0034_odd_payments_decided"),
    ]

    operations = [
        AddIndexConcurrently(
            "posting", models.Index(fields=["brand", "kind", "-posted_at", "-id"], name="posting_brand_kind_at")
        ),
        AddIndexConcurrently(
            "posting",
            models.Index(fields=["organization", "kind", "-posted_at", "-id"], name="posting_organization_kind_at"),
        ),
    ]
