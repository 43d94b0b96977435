"""What the database itself refuses: prices that overlap or change afterwards, books that are rewritten or unbalanced.

Statement-level TRUNCATE is not refused: only the owner of the tables may, and tests empty them so.
"""

from django.db import migrations

RATES_NEVER_OVERLAP = """
ALTER TABLE billing_rate ADD CONSTRAINT rate_periods_apart EXCLUDE USING gist (
    int8range(model_id, model_id, '[]') WITH &&,
    int8range(coalesce(organization_id, 0), coalesce(organization_id, 0), '[]') WITH &&,
    tstzrange(effective_from, effective_until) WITH &&
);

CREATE FUNCTION billing_rate_is_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF old.effective_from <= now() THEN
            RAISE EXCEPTION 'rate % has been in force and stays; end its period instead', old.id
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN old;
    END IF;
    IF to_jsonb(new) - 'effective_until' <> to_jsonb(old) - 'effective_until' THEN
        RAISE EXCEPTION 'the prices of rate % never change; a new rate follows it', old.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END
$$;
CREATE TRIGGER rate_is_history BEFORE UPDATE OR DELETE ON billing_rate
    FOR EACH ROW EXECUTE FUNCTION billing_rate_is_history();
"""

RATES_MAY_OVERLAP = """
DROP TRIGGER rate_is_history ON billing_rate;
DROP FUNCTION billing_rate_is_history();
ALTER TABLE billing_rate DROP CONSTRAINT rate_periods_apart;
"""

BOOKS_ARE_APPENDED_TO = """
CREATE FUNCTION billing_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: a correction is a new entry', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER posting_append_only BEFORE UPDATE OR DELETE ON billing_posting
    FOR EACH ROW EXECUTE FUNCTION billing_append_only();
CREATE TRIGGER posting_line_append_only BEFORE UPDATE OR DELETE ON billing_postingline
    FOR EACH ROW EXECUTE FUNCTION billing_append_only();
CREATE TRIGGER grant_append_only BEFORE UPDATE OR DELETE ON billing_grant
    FOR EACH ROW EXECUTE FUNCTION billing_append_only();

CREATE FUNCTION billing_posting_balances() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    posting bigint;
    total numeric;
BEGIN
    IF TG_TABLE_NAME = 'billing_posting' THEN
        posting := new.id;
    ELSE
        posting := new.posting_id;
    END IF;
    SELECT sum(amount_nanos) INTO total FROM billing_postingline WHERE posting_id = posting;
    IF total IS DISTINCT FROM 0 THEN
        RAISE EXCEPTION 'the lines of posting % sum to %, not to zero', posting, coalesce(total::text, 'nothing')
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER posting_balances AFTER INSERT ON billing_posting
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_posting_balances();
CREATE CONSTRAINT TRIGGER posting_line_balances AFTER INSERT ON billing_postingline
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION billing_posting_balances();
"""

BOOKS_MAY_BE_REWRITTEN = """
DROP TRIGGER posting_line_balances ON billing_postingline;
DROP TRIGGER posting_balances ON billing_posting;
DROP FUNCTION billing_posting_balances();
DROP TRIGGER grant_append_only ON billing_grant;
DROP TRIGGER posting_line_append_only ON billing_postingline;
DROP TRIGGER posting_append_only ON billing_posting;
DROP FUNCTION billing_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_constraints")]

    operations = [
        migrations.RunSQL("SET LOCAL lock_timeout = '4s'", migrations.RunSQL.noop),
        migrations.RunSQL(RATES_NEVER_OVERLAP, RATES_MAY_OVERLAP),
        migrations.RunSQL(BOOKS_ARE_APPENDED_TO, BOOKS_MAY_BE_REWRITTEN),
    ]
