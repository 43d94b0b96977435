"""What a call was held for, beside what it used: what a call may have cost of which nobody heard the end."""

from django.db import migrations

BOUNDS = """
ALTER TABLE usage_event
    ADD COLUMN prompt_tokens_max bigint,
    ADD COLUMN granted_tokens bigint,
    ADD COLUMN choices smallint NOT NULL DEFAULT 1;
"""

NO_BOUNDS = "ALTER TABLE usage_event DROP COLUMN prompt_tokens_max, DROP COLUMN granted_tokens, DROP COLUMN choices;"


class Migration(migrations.Migration):
    dependencies = [("billing", "0015_currency_frozen")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.RunSQL(BOUNDS, NO_BOUNDS),
    ]
