"""Since when an upgrade rule is in force: it judges no night that had ended before."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0028_limits_tried_out"),
    ]

    operations = [
        migrations.AddField(
            model_name="tier",
            name="rule_since",
            field=models.DateTimeField(
                editable=False,
                help_text="When the rule was made or last changed; null: before anybody noted it",
                null=True,
            ),
        ),
    ]
