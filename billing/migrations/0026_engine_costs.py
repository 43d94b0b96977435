"""A history of what engines cost, begun with what is known: today's cost since each was registered."""

import django.db.models.deletion
from django.db import migrations, models

BEGIN = """
INSERT INTO billing_enginecost (engine_id, per_hour_nanos, since)
SELECT id, cost_per_hour_nanos, created_at FROM billing_engine WHERE cost_per_hour_nanos > 0
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0025_webhooks_out")]

    operations = [
        migrations.CreateModel(
            name="EngineCost",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("per_hour_nanos", models.BigIntegerField()),
                ("since", models.DateTimeField()),
                (
                    "engine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="costs", to="billing.engine"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("engine", "since"), name="engine_cost_unique"),
                    models.CheckConstraint(condition=models.Q(("per_hour_nanos__gte", 0)), name="engine_cost_sane"),
                ],
            },
        ),
        migrations.RunSQL(BEGIN, migrations.RunSQL.noop),
    ]
