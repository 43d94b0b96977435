"""Members that are programs, and the keys that belong to them."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models.functions import Now

import keys.models

ROLES = [
    ("owner", "Owner"),
    ("admin", "Admin"),
    ("developer", "Developer"),
    ("billing", "Billing"),
    ("viewer", "Viewer"),
]


class Migration(migrations.Migration):
    dependencies = [("keys", "0012_test_keys")]

    operations = [
        migrations.CreateModel(
            name="ServiceAccount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=keys.models.service_account_public_id, editable=False, max_length=40, unique=True
                    ),
                ),
                ("name", models.CharField(max_length=100)),
                ("role", models.CharField(choices=ROLES, default="developer", max_length=10)),
                ("created_at", models.DateTimeField(db_default=Now(), editable=False)),
                ("disabled_at", models.DateTimeField(editable=False, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="service_accounts",
                        to="keys.organization",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(disabled_at=None),
                        fields=("organization", "name"),
                        name="service_account_name_unique",
                    )
                ],
            },
        ),
        migrations.AddField(
            "apikey",
            "service_account",
            models.ForeignKey(
                blank=True,
                editable=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="keys",
                to="keys.serviceaccount",
            ),
        ),
    ]
