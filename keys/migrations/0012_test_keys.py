"""Keys for trying out. Workers of before know no key that begins as they do, and refuse them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keys", "0011_terms_version")]

    operations = [
        migrations.AddField(
            "apikey",
            "mode",
            models.CharField(
                choices=[("live", "Live"), ("test", "Test")],
                db_default="live",
                default="live",
                editable=False,
                max_length=4,
            ),
        ),
    ]
