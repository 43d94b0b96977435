"""Calls of test keys, kept for a week beside the refusals."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("proxy", "0003_refusals_by_call")]

    operations = [
        migrations.CreateModel(
            name="TestCall",
            fields=[
                ("call_id", models.UUIDField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("brand_id", models.BigIntegerField()),
                ("organization_id", models.BigIntegerField()),
                ("key_id", models.BigIntegerField()),
                ("key_hint", models.CharField(max_length=40)),
                ("model", models.CharField(max_length=120)),
                ("endpoint", models.CharField(max_length=20)),
                ("stream", models.BooleanField()),
                ("http_status", models.SmallIntegerField()),
                ("end_reason", models.CharField(max_length=20)),
                ("uncached_input_tokens", models.BigIntegerField()),
                ("cache_read_tokens", models.BigIntegerField(null=True)),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField(null=True)),
                ("images", models.IntegerField()),
                ("first_token_ms", models.IntegerField(null=True)),
                ("duration_ms", models.IntegerField()),
                ("settled_at", models.DateTimeField()),
                ("address", models.GenericIPAddressField(null=True)),
                ("agent", models.CharField(blank=True, max_length=200)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["organization_id", "-call_id"], name="test_call_organization_call"),
                ],
            },
        ),
    ]
