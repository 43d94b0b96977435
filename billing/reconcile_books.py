"""Do the books agree with themselves? Events, rollups, postings, balances and numbers, compared inside PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db.backends.utils import CursorWrapper

from billing.events import FAILURES
from billing.rollups import KEYS, SUMS

LAST = "reconcile:last"
"""A hash in Redis: `differences` found by the last complete run and `at_ms`, when it ended."""


class Difference(NamedTuple):
    """One thing that two places say differently."""

    check: str
    subject: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.check}: {self.subject}: expected {self.expected}, found {self.found}"


def differences(cursor: CursorWrapper) -> Iterator[Difference]:
    """Everything that disagrees within PostgreSQL; the caller's transaction is one snapshot."""
    yield from _unbalanced_postings(cursor)
    yield from _account_balances(cursor)
    yield from _usage_postings(cursor)
    yield from _rollups(cursor, "rollup by day", "billing_usageday", "day", "day")
    yield from _rollups(cursor, "rollup by quarter", "billing_usagequarter", "starts_at", _QUARTER)
    yield from _numbers(cursor)
    yield from _dead_letters(cursor)


_QUARTER = "to_timestamp(floor(extract(epoch FROM started_at) / 900) * 900)"


def _rows(cursor: CursorWrapper, statement: str) -> list[tuple[Any, ...]]:
    cursor.execute(statement)
    found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _unbalanced_postings(cursor: CursorWrapper) -> Iterator[Difference]:
    statement = """
        SELECT posting.reference, COALESCE(sum(line.amount_nanos), 0)::bigint
        FROM billing_posting posting LEFT JOIN billing_postingline line ON line.posting_id = posting.id
        GROUP BY posting.id HAVING COALESCE(sum(line.amount_nanos), 0) <> 0 OR count(line.id) = 0 ORDER BY posting.id
    """
    for reference, total in _rows(cursor, statement):
        yield Difference("posting", f"{reference} sums", 0, total if total else "no lines")


def _account_balances(cursor: CursorWrapper) -> Iterator[Difference]:
    statement = """
        SELECT account.id, account.kind, account.organization_id, COALESCE(sum(line.amount_nanos), 0)::bigint,
            account.balance_nanos
        FROM billing_ledgeraccount account LEFT JOIN billing_postingline line ON line.account_id = account.id
        GROUP BY account.id HAVING COALESCE(sum(line.amount_nanos), 0) <> account.balance_nanos ORDER BY account.id
    """
    for account_id, kind, organization_id, summed, kept in _rows(cursor, statement):
        yield Difference("balance", f"account {account_id} ({kind}, organization {organization_id})", summed, kept)


def _usage_postings(cursor: CursorWrapper) -> Iterator[Difference]:
    """What calls cost is what was posted for them: event by posting, and no posting without its events."""
    statement = """
        WITH billed AS (
            SELECT posting_id, sum(cost_nanos)::bigint AS cost_nanos FROM usage_event
            WHERE posting_id IS NOT NULL GROUP BY posting_id
        ), posted AS (
            SELECT posting.id AS posting_id, posting.reference,
                COALESCE(sum(line.amount_nanos) FILTER (WHERE account.kind = 'revenue'), 0)::bigint AS earned,
                COALESCE(-sum(line.amount_nanos) FILTER (WHERE account.kind = 'wallet'), 0)::bigint AS paid
            FROM billing_posting posting LEFT JOIN billing_postingline line ON line.posting_id = posting.id
            LEFT JOIN billing_ledgeraccount account ON account.id = line.account_id
            WHERE posting.reference LIKE 'usage:%' OR posting.reference LIKE 'correction:%'
            GROUP BY posting.id
        )
        SELECT posting_id, reference, cost_nanos, paid, earned FROM billed FULL JOIN posted USING (posting_id)
        WHERE cost_nanos IS DISTINCT FROM paid OR cost_nanos IS DISTINCT FROM earned ORDER BY posting_id
    """
    for posting_id, reference, cost, paid, earned in _rows(cursor, statement):
        subject = f"posting {posting_id} ({reference or 'missing'})"
        found = "no posting" if reference is None else f"{paid} paid, {earned} earned"
        yield Difference("events and postings", subject, "no events" if cost is None else cost, found)


_COUNTS = {
    "requests": "count(*) FILTER (WHERE kind = 'call')",
    "failures": "count(*) FILTER (WHERE kind = 'call' AND usage_source = 'none' AND end_reason = ANY('{"
    + ",".join(FAILURES)
    + "}'))",
}
"""Columns of a rollup that count events instead of adding up one of theirs."""


def _rollups(cursor: CursorWrapper, check: str, table: str, column: str, window: str) -> Iterator[Difference]:
    keys = ", ".join(KEYS)
    sums = ", ".join(_COUNTS.get(name, f"sum(COALESCE({name}, 0))::bigint") for name in SUMS)
    grouped = ", ".join("COALESCE(engine_id, 0)" if name == "engine_id" else name for name in KEYS)
    statement = f"""
        WITH summed ({keys}, {column}, sums) AS (
            SELECT {grouped}, {window}, ARRAY[{sums}] FROM usage_event GROUP BY 1, 2, 3, 4, 5, 6, 7
        ), kept AS (
            SELECT {keys}, {column}, ARRAY[{", ".join(SUMS)}] AS sums,
                (SELECT COALESCE(sum(n), 0)::bigint FROM unnest(duration_histogram) AS n) AS measured FROM {table}
        )
        SELECT {keys}, {column}, summed.sums, kept.sums, kept.measured
        FROM summed FULL JOIN kept USING ({keys}, {column})
        WHERE summed.sums IS DISTINCT FROM kept.sums OR kept.measured <> kept.sums[1] ORDER BY {keys}, {column}
    """  # noqa: S608 - constants of this module
    for row in _rows(cursor, statement):
        *names, at, summed, kept, measured = row
        subject = ", ".join(f"{name} {value}" for name, value in zip((*KEYS, column), (*names, at), strict=True))
        nothing = [0] * len(SUMS)
        for name, expected, found in zip(SUMS, summed or nothing, kept or nothing, strict=True):
            if expected != found:
                yield Difference(check, f"{name} of {subject}", expected, found)
        if kept and measured != kept[0]:
            yield Difference(check, f"durations of {subject}", kept[0], measured)


def _numbers(cursor: CursorWrapper) -> Iterator[Difference]:
    """Counter changes are numbered without gaps, and the wallet knows the last number."""
    statement = """
        SELECT organization_id, wallet.changes, COALESCE(numbered.highest, 0), COALESCE(numbered.present, 0)
        FROM (SELECT organization_id, max(seq) AS highest, count(*) AS present FROM billing_counterchange
              GROUP BY organization_id) AS numbered
        FULL JOIN (SELECT organization_id, changes FROM billing_ledgeraccount WHERE kind = 'wallet') AS wallet
            USING (organization_id)
        WHERE COALESCE(wallet.changes, 0) <> COALESCE(highest, 0) OR COALESCE(highest, 0) <> COALESCE(present, 0)
        ORDER BY organization_id
    """
    for organization_id, changes, highest, present in _rows(cursor, statement):
        subject = f"organization {organization_id}'s numbered changes"
        yield Difference("counter changes", subject, changes or 0, f"{present} rows up to {highest}")


def _dead_letters(cursor: CursorWrapper) -> Iterator[Difference]:
    statement = """
        SELECT shard, stream_id, error FROM billing_deadletter WHERE resolved_at IS NULL ORDER BY shard, stream_id
    """
    for shard, stream_id, error in _rows(cursor, statement):
        yield Difference("dead letter", f"shard {shard}, entry {stream_id}", "booked", error)
