"""What pages of staff call these rows. No SQL."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("keys", "0013_service_accounts")]

    operations = [
        migrations.AlterModelOptions("apikey", {"verbose_name": "API key", "verbose_name_plural": "API keys"}),
    ]
