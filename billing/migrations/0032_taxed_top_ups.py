"""The tax of an automatic top-up, as it was reckoned before the charge."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0031_raises"),
    ]

    operations = [
        migrations.AddField(
            model_name="topup",
            name="tax_calculation",
            field=models.CharField(blank=True, db_default="", help_text="taxcalc_… at Stripe", max_length=100),
        ),
        migrations.AddField(
            model_name="topup",
            name="tax_units",
            field=models.BigIntegerField(
                help_text="Tax to charge on top, in the currency's minor units; null: not asked, or Checkout asks",
                null=True,
            ),
        ),
    ]
