"""Which version of a brand's terms people have to accept."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keys", "0010_organization_notes")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="brand",
            name="terms_version",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text=("Of these terms. People accept each version before they see an account; empty asks nobody"),
                max_length=40,
            ),
        ),
    ]
