"""A wallet's moves but usage, which are few: what is left of its grants is read from them."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("billing", "0017_grants_expire"),
    ]

    operations = [
        AddIndexConcurrently(
            "posting",
            models.Index(
                fields=["organization", "id"],
                condition=~models.Q(kind__in=["usage", "correction"]),
                name="posting_besides_usage",
            ),
        ),
    ]
