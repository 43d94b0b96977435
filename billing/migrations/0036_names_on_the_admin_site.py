"""What pages of staff call these rows. No SQL."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("billing", "0035_postings_browsed")]

    operations = [
        migrations.AlterModelOptions("topup", {"verbose_name": "top-up", "verbose_name_plural": "top-ups"}),
        migrations.AlterModelOptions(
            "autotopup", {"verbose_name": "automatic top-up", "verbose_name_plural": "automatic top-ups"}
        ),
        migrations.AlterModelOptions(
            "stripeaccount", {"verbose_name": "Stripe account", "verbose_name_plural": "Stripe accounts"}
        ),
        migrations.AlterModelOptions(
            "stripeevent", {"verbose_name": "Stripe event", "verbose_name_plural": "Stripe events"}
        ),
        migrations.AlterModelOptions(
            "stripecustomer", {"verbose_name": "Stripe customer", "verbose_name_plural": "Stripe customers"}
        ),
        migrations.AlterModelOptions(
            "noticesseen", {"verbose_name": "notices seen", "verbose_name_plural": "notices seen"}
        ),
        migrations.AlterModelOptions(
            "webhookdelivery", {"verbose_name": "webhook delivery", "verbose_name_plural": "webhook deliveries"}
        ),
    ]
