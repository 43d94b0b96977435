"""A brand's currency stays once its books have begun: every amount in them is in it."""

from django.db import migrations

CURRENCY_STAYS = """
CREATE FUNCTION billing_currency_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM billing_posting WHERE brand_id = old.id) THEN
        RAISE EXCEPTION 'the books of brand % are kept in %, and that stays', old.slug, old.currency
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END
$$;
CREATE TRIGGER brand_currency_stays BEFORE UPDATE OF currency ON keys_brand
    FOR EACH ROW WHEN (old.currency IS DISTINCT FROM new.currency) EXECUTE FUNCTION billing_currency_stays();
"""

CURRENCY_MAY_CHANGE = """
DROP TRIGGER brand_currency_stays ON keys_brand;
DROP FUNCTION billing_currency_stays();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0014_rollups_by_time"), ("keys", "0003_brand_surface")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.RunSQL(CURRENCY_STAYS, CURRENCY_MAY_CHANGE),
    ]
