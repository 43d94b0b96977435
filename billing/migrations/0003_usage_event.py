"""The table of settled calls, partitioned by day on the call id itself, and the arithmetic of histograms."""

from datetime import UTC, date, datetime, timedelta

from django.db import migrations, models

TABLE = """
CREATE TABLE usage_event (
    call_id uuid NOT NULL PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('call', 'correction')),
    corrects uuid,
    brand_id bigint NOT NULL,
    organization_id bigint NOT NULL,
    key_id bigint NOT NULL,
    model_id bigint NOT NULL,
    engine_id bigint,
    tier_id bigint,
    rate_id bigint,
    rates jsonb NOT NULL,
    endpoint text NOT NULL,
    payer text NOT NULL,
    uncached_input_tokens bigint NOT NULL,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint,
    images integer NOT NULL,
    credits bigint NOT NULL,
    list_cost_nanos bigint NOT NULL,
    cost_nanos bigint NOT NULL,
    held_nanos bigint NOT NULL,
    usage_source text NOT NULL,
    end_reason text NOT NULL,
    flags text[] NOT NULL,
    http_status smallint NOT NULL,
    stream boolean NOT NULL,
    day date NOT NULL,
    started_at timestamptz NOT NULL,
    first_token_ms integer,
    duration_ms integer NOT NULL,
    settled_at timestamptz NOT NULL,
    address inet,
    agent text NOT NULL,
    metadata jsonb NOT NULL,
    "user" text NOT NULL,
    posting_id bigint,
    CONSTRAINT usage_event_correction_names_its_call CHECK ((kind = 'correction') = (corrects IS NOT NULL)),
    CONSTRAINT usage_event_cost_is_posted CHECK (cost_nanos = 0 OR posting_id IS NOT NULL),
    CONSTRAINT usage_event_call_is_not_negative CHECK (
        kind = 'correction'
        OR (uncached_input_tokens >= 0 AND output_tokens >= 0 AND credits >= 0 AND cost_nanos >= 0 AND list_cost_nanos >= 0)
    )
) PARTITION BY RANGE (call_id);

CREATE TABLE usage_event_default PARTITION OF usage_event DEFAULT;

CREATE INDEX usage_event_organization_call ON usage_event (organization_id, call_id DESC);
CREATE INDEX usage_event_settled ON usage_event (settled_at, call_id);
CREATE INDEX usage_event_corrects ON usage_event (corrects) WHERE corrects IS NOT NULL;

CREATE FUNCTION usage_event_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'usage events never change: write a correction (%)', OLD.call_id USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER usage_event_append_only BEFORE UPDATE OR DELETE ON usage_event
    FOR EACH ROW EXECUTE FUNCTION usage_event_refuse_change();
"""

HISTOGRAMS = """
CREATE FUNCTION add_histograms(one bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(array_agg(COALESCE(a, 0) + COALESCE(b, 0) ORDER BY bucket), '{}')
    FROM unnest(one, other) WITH ORDINALITY AS pair (a, b, bucket)
$$;
CREATE AGGREGATE sum_histograms (bigint[]) (SFUNC = add_histograms, STYPE = bigint[], INITCOND = '{}');
"""

DROP_HISTOGRAMS = """
DROP AGGREGATE sum_histograms (bigint[]);
DROP FUNCTION add_histograms (bigint[], bigint[]);
"""


def bound(day: date) -> str:
    """The least UUIDv7 of a day; billing.partitions says the same."""
    start_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    digits = f"{start_ms:012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def create_first_partitions(apps, schema_editor):
    today = datetime.now(UTC).date()
    for day in (today + timedelta(days=n) for n in range(-1, 8)):
        schema_editor.execute(
            f"CREATE TABLE usage_event_{day:%Y%m%d} PARTITION OF usage_event "
            f"FOR VALUES FROM ('{bound(day)}') TO ('{bound(day + timedelta(days=1))}')"
        )


class Migration(migrations.Migration):
    dependencies = [("billing", "0002_initial")]

    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE usage_event; DROP FUNCTION usage_event_refuse_change;"),
        migrations.RunPython(create_first_partitions, migrations.RunPython.noop),
        migrations.RunSQL(HISTOGRAMS, DROP_HISTOGRAMS),
        migrations.CreateModel(
            name="JournalWriter",
            fields=[
                ("name", models.CharField(max_length=80, primary_key=True, serialize=False)),
                ("seen_until", models.DateTimeField()),
            ],
        ),
    ]
