"""What a person decided about a payment that was not what was asked for."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0033_currencies_of_costs"),
    ]

    operations = [
        migrations.AddField(
            model_name="topup",
            name="decision",
            field=models.CharField(
                blank=True,
                choices=[("credited", "Give credit for it"), ("returned", "Give the money back")],
                db_default="",
                help_text="By a person, of a payment that was not what was asked for",
                max_length=8,
            ),
        ),
    ]
