"""A limit on trial may stand beside the one that holds on the same counter: to try out a tighter one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0027_once_per_person"),
    ]

    operations = [
        migrations.AddConstraint(
            model_name="tierlimit",
            constraint=models.UniqueConstraint(
                fields=("tier", "unit", "window", "scope", "model", "is_allotment", "is_shadow"),
                name="tier_limit_place_unique",
                nulls_distinct=False,
            ),
        ),
        migrations.RemoveConstraint(
            model_name="tierlimit",
            name="tier_limit_unique",
        ),
    ]
