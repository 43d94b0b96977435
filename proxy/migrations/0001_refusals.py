"""Refused and failed calls: records partitioned by day on the call id, and counts per minute."""

from django.db import migrations, models

TABLE = """
CREATE TABLE refusal_record (
    call_id uuid NOT NULL PRIMARY KEY,
    at timestamptz NOT NULL,
    brand_id bigint,
    organization_id bigint,
    key_id bigint,
    key_hint text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL,
    status smallint NOT NULL,
    reason text NOT NULL,
    limit_name text NOT NULL,
    message text NOT NULL,
    engine_id bigint,
    engine_status smallint,
    address inet,
    agent text NOT NULL
) PARTITION BY RANGE (call_id);

CREATE TABLE refusal_record_default PARTITION OF refusal_record DEFAULT;

CREATE INDEX refusal_record_organization_at ON refusal_record (organization_id, at DESC);
"""


class Migration(migrations.Migration):
    initial = True
    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="RefusalRecord",
            fields=[
                ("call_id", models.UUIDField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("brand_id", models.BigIntegerField(null=True)),
                ("organization_id", models.BigIntegerField(null=True)),
                ("key_id", models.BigIntegerField(null=True)),
                ("key_hint", models.CharField(blank=True, max_length=40)),
                ("model", models.CharField(blank=True, max_length=120)),
                ("endpoint", models.CharField(blank=True, max_length=20)),
                ("status", models.SmallIntegerField()),
                ("reason", models.CharField(max_length=40)),
                ("limit", models.CharField(blank=True, db_column="limit_name", max_length=60)),
                ("message", models.CharField(blank=True, max_length=300)),
                ("engine_id", models.BigIntegerField(null=True)),
                ("engine_status", models.SmallIntegerField(null=True)),
                ("address", models.GenericIPAddressField(null=True)),
                ("agent", models.CharField(blank=True, max_length=200)),
            ],
            options={"db_table": "refusal_record", "managed": False},
        ),
        migrations.RunSQL(TABLE, "DROP TABLE refusal_record"),
        migrations.CreateModel(
            name="RefusalCount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("minute", models.DateTimeField()),
                ("brand_id", models.BigIntegerField(default=0)),
                ("organization_id", models.BigIntegerField(default=0)),
                ("reason", models.CharField(max_length=40)),
                ("count", models.BigIntegerField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("minute", "organization_id", "brand_id", "reason"), name="refusal_count_unique"
                    )
                ]
            },
        ),
    ]
