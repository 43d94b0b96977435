"""One sequence of versions that never go back, and an audit trail that cannot be rewritten."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import F

VERSIONS = """
CREATE SEQUENCE keys_publication_version;

-- A save() of a stale instance would write an old version back; workers compare versions, so it may only grow.
CREATE FUNCTION keys_version_never_falls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := greatest(OLD.version, NEW.version);
    RETURN NEW;
END $$;
CREATE TRIGGER keys_version_never_falls BEFORE UPDATE ON keys_apikey
    FOR EACH ROW EXECUTE FUNCTION keys_version_never_falls();
CREATE TRIGGER keys_version_never_falls BEFORE UPDATE ON keys_organization
    FOR EACH ROW EXECUTE FUNCTION keys_version_never_falls();
CREATE TRIGGER keys_version_never_falls BEFORE UPDATE ON keys_brand
    FOR EACH ROW EXECUTE FUNCTION keys_version_never_falls();
"""

NO_VERSIONS = """
DROP TRIGGER keys_version_never_falls ON keys_apikey;
DROP TRIGGER keys_version_never_falls ON keys_organization;
DROP TRIGGER keys_version_never_falls ON keys_brand;
DROP FUNCTION keys_version_never_falls();
DROP SEQUENCE keys_publication_version;
"""

APPEND_ONLY = """
CREATE FUNCTION keys_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER keys_audit_is_append_only BEFORE UPDATE OR DELETE ON keys_auditevent
    FOR EACH ROW EXECUTE FUNCTION keys_audit_is_append_only();
"""

NOT_APPEND_ONLY = """
DROP TRIGGER keys_audit_is_append_only ON keys_auditevent;
DROP FUNCTION keys_audit_is_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("keys", "0001_initial")]

    operations = [
        migrations.RunSQL(VERSIONS, NO_VERSIONS),
        migrations.AlterField(
            model_name="auditevent",
            name="actor",
            field=models.ForeignKey(
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.DO_NOTHING,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.RunSQL(APPEND_ONLY, NOT_APPEND_ONLY),
        migrations.AddIndex(
            model_name="organization",
            index=models.Index(F("id") % 64, F("id"), name="organization_by_shard"),
        ),
        migrations.AddIndex(
            model_name="apikey",
            index=models.Index(F("organization_id") % 64, F("id"), name="api_key_by_shard"),
        ),
    ]
