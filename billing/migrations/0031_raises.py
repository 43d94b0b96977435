"""Which exceptions raise: they take nothing from a tier that gives more. Those of before stand as they are."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0030_subscriptions"),
    ]

    operations = [
        migrations.AddField(
            model_name="limitoverride",
            name="is_raise",
            field=models.BooleanField(
                db_default=False,
                default=False,
                editable=False,
                help_text="It raised the limit of the tier when it was put: it takes nothing from a tier that gives more",
            ),
        ),
    ]
