"""Keys that the portal issues for its own pages are told from those that programs keep."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("keys", "0008_brand_staff")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.AddField(
            model_name="apikey",
            name="purpose",
            field=models.CharField(
                choices=[("program", "Program"), ("playground", "Playground")],
                db_default="program",
                default="program",
                editable=False,
                max_length=10,
            ),
        ),
    ]
