"""Calls of test keys, as they are kept for a week: the only writer of TestCall. Blocking; for the journal process and
pages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from billing.recording import write_uses
from proxy.models import TestCall

COUNTED_MAX = 10_000
_COUNT = """
SELECT key_id, count(*) FROM (
    SELECT key_id FROM proxy_testcall WHERE organization_id = %s ORDER BY call_id DESC LIMIT %s
) AS newest GROUP BY key_id
"""


def write(rows: Sequence[dict[str, Any]]) -> int:
    """What workers told of, and when its keys were last used. A call told twice is written once."""
    TestCall.objects.bulk_create([_call(row) for row in rows], ignore_conflicts=True)
    uses = ("key_id", "started_at_ms", "address", "agent")
    latest = {row["key_id"]: row for row in sorted(rows, key=lambda row: row["started_at_ms"])}
    with connection.cursor() as cursor:
        write_uses(cursor, [{name: row[name] for name in uses} for _, row in sorted(latest.items())])
    return len(rows)


def forget(before: str) -> None:
    """Those whose id is lower: call ids are in the order of time."""
    TestCall.objects.filter(call_id__lt=before).delete()


def latest(
    organization_id: int,
    *,
    before: UUID | None = None,
    key_id: int | None = None,
    model: str = "",
    end_reasons: Collection[str] = (),
    down_to: UUID | None = None,
    limit: int,
) -> list[TestCall]:
    """As billing.calls.latest; a model by its name."""
    found = TestCall.objects.filter(organization_id=organization_id)
    if before is not None:
        found = found.filter(call_id__lt=before)
    if key_id is not None:
        found = found.filter(key_id=key_id)
    if model:
        found = found.filter(model=model)
    if end_reasons:
        found = found.filter(end_reason__in=end_reasons)
    if down_to is not None:
        found = found.filter(call_id__gte=down_to)
    return list(found.order_by("-call_id")[:limit])


def of_id(call_id: UUID, *, organization_id: int | None = None) -> TestCall | None:
    found = TestCall.objects.filter(call_id=call_id)
    return (found if organization_id is None else found.filter(organization_id=organization_id)).first()


def by_key(organization_id: int) -> dict[int, int]:
    """How many each key of the account made in the past week, among the COUNTED_MAX newest: a page reads no more."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, [organization_id, COUNTED_MAX])
        return dict(cursor.fetchall())


def _call(row: dict[str, Any]) -> TestCall:
    fields = dict(row)
    at = datetime.fromtimestamp(fields.pop("started_at_ms") / 1000, UTC)
    settled_at = datetime.fromtimestamp(fields.pop("settled_at_ms") / 1000, UTC)
    return TestCall(at=at, settled_at=settled_at, **fields)
