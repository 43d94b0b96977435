import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("billing", "0011_surface_facts"),
    ]

    operations = [
        migrations.CreateModel(
            name="ModelEvidence",
            fields=[
                (
                    "model",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="billing.model",
                    ),
                ),
                ("prompt", models.CharField(blank=True, max_length=200)),
                ("answer", models.CharField(blank=True, max_length=1000)),
                ("answered_at", models.DateTimeField(null=True)),
                ("engines", models.JSONField(default=list)),
                ("engines_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="CanaryCheck",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("slot_at", models.DateTimeField()),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("running", "Running"),
                            ("passed", "Passed"),
                            ("wrong", "Wrong"),
                            ("failed", "Failed"),
                        ],
                        default="running",
                        max_length=8,
                    ),
                ),
                ("call_id", models.CharField(blank=True, help_text="x-request-id of the answer", max_length=60)),
                ("http_status", models.SmallIntegerField(null=True)),
                ("code", models.CharField(blank=True, help_text="Why it failed", max_length=60)),
                ("first_token_ms", models.IntegerField(null=True)),
                ("duration_ms", models.IntegerField(null=True)),
                (
                    "model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="+", to="billing.model"
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["slot_at"], name="canary_check_slot")],
                "constraints": [models.UniqueConstraint(fields=("model", "slot_at"), name="canary_check_once")],
            },
        ),
    ]
