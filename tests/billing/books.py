"""What the books say, read back by plain SQL that shares nothing with the journal, and whether they agree."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import connection

from billing.models import JournalShard, JournalWriter


def rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, list(parameters))
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def one(statement: str, *parameters: Any) -> Any:
    return rows(statement, *parameters)[0][0]


def events() -> int:
    return int(one("SELECT count(*) FROM usage_event WHERE kind = 'call'"))


def wallet(organization_id: int) -> int:
    statement = (
        "SELECT sum(balance_nanos)::bigint FROM billing_ledgeraccount WHERE organization_id = %s AND kind = 'wallet'"
    )
    return int(one(statement, organization_id) or 0)


_ROLLED_UP = """
    organization_id, {window}, key_id, model_id, COALESCE(engine_id, 0), end_reason, brand_id,
    count(*) FILTER (WHERE kind = 'call'), sum(uncached_input_tokens), sum(COALESCE(cache_read_tokens, 0)),
    sum(COALESCE(cache_write_tokens, 0)), sum(output_tokens), sum(COALESCE(reasoning_tokens, 0)), sum(images),
    sum(credits), sum(list_cost_nanos), sum(cost_nanos)
"""
_ROLLUP = """
    organization_id, {window}, key_id, model_id, engine_id, end_reason, brand_id, requests, uncached_input_tokens,
    cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, images, credits, list_cost_nanos, cost_nanos
"""
QUARTER_OF_EVENT = "to_timestamp(floor(extract(epoch FROM started_at) / 900) * 900)"


def assert_consistent() -> None:
    """Rollups equal events, every cost is posted, the ledger sums to zero and balances are the sums of their lines."""
    for table, column, window in (
        ("billing_usageday", "day", "day"),
        ("billing_usagequarter", "starts_at", QUARTER_OF_EVENT),
    ):
        summed = rows(
            f"SELECT {_ROLLED_UP.format(window=window)} FROM usage_event GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3"
        )
        kept = rows(f"SELECT {_ROLLUP.format(window=column)} FROM {table} ORDER BY 1, 2, 3")
        assert sorted(summed) == sorted(kept)
        counted = one(f"SELECT COALESCE(sum(n), 0)::bigint FROM {table}, unnest(duration_histogram) AS n")
        assert counted == events()
    assert one("SELECT COALESCE(sum(amount_nanos), 0)::bigint FROM billing_postingline") == 0
    assert not rows(
        "SELECT account.id FROM billing_ledgeraccount account"
        " LEFT JOIN billing_postingline line ON line.account_id = account.id"
        " GROUP BY account.id HAVING account.balance_nanos <> COALESCE(sum(line.amount_nanos), 0)"
    )
    assert not rows(
        "SELECT posting_id FROM usage_event LEFT JOIN billing_postingline line USING (posting_id)"
        " LEFT JOIN billing_ledgeraccount account ON account.id = line.account_id AND account.kind = 'revenue'"
        " WHERE posting_id IS NOT NULL AND account.id IS NOT NULL GROUP BY posting_id, line.amount_nanos"
        " HAVING sum(cost_nanos) <> line.amount_nanos"
    )
    assert one("SELECT COALESCE(sum(cost_nanos), 0)::bigint FROM usage_event") == one(
        "SELECT COALESCE(sum(balance_nanos), 0)::bigint FROM billing_ledgeraccount WHERE kind = 'revenue'"
    )


def end_leases() -> None:
    """As if their holders had been dead for long."""
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    JournalShard.objects.update(leased_until=long_ago)
    JournalWriter.objects.update(seen_until=long_ago)
