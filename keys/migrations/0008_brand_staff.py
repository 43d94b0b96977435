"""Who works for which brand."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keys", "0007_management_keys")]

    operations = [
        migrations.CreateModel(
            name="BrandStaff",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "role",
                    models.CharField(
                        choices=[
                            ("support", "Support: looks, changes nothing"),
                            ("manager", "Manager: looks and acts"),
                        ],
                        default="support",
                        max_length=8,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "brand",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="staff", to="keys.brand"
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="staff_of",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={"verbose_name_plural": "brand staff"},
        ),
        migrations.AddConstraint(
            model_name="brandstaff",
            constraint=models.UniqueConstraint(fields=("user", "brand"), name="brand_staff_unique"),
        ),
    ]
