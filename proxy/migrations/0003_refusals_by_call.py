"""An account's refusals in the order of their call ids, which is how pages list them among its calls."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("proxy", "0002_conversations")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.RunSQL(
            "CREATE INDEX refusal_record_organization_call ON refusal_record (organization_id, call_id DESC)",
            "DROP INDEX refusal_record_organization_call",
        ),
    ]
