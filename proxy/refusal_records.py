"""Refusals and test calls on their way from Redis to PostgreSQL, and how long they stay. Blocking; for the
journal process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from django.db import connection, transaction
from django.db.models import F, Sum
from django.db.models.functions import TruncDate

from billing import call_ids, script
from billing.events import storable_text
from keys.caller import SHARDS
from proxy.models import RefusalCount, RefusalRecord
from proxy.refusal_log import ROWS_PER_MINUTE_MAX, STREAM
from proxy.sandbox import calls as test_calls

KEPT_DAYS = 7
COUNTS_KEPT_DAYS = 92
"""So that new limits and rules can be judged by a quarter's refusals."""
AHEAD_DAYS = 2
ENTRIES_MAX = 200
_DAY = "%Y%m%d"
_LOCK = 0x72656675  # "refu": the advisory lock of whoever moves


def move(redis: Any, *, shards: Iterable[int] = range(SHARDS), limit: int = ENTRIES_MAX) -> int:
    """Bring what waits in the streams of `shards` into the tables, at most `limit` entries of each; returns how many
    records were written. One process moves at a time, another finds nothing to do. Entries are deleted before the
    commit: a crash between loses them, which best effort allows; counting them twice it does not."""
    with transaction.atomic():
        if not _may_move():
            return 0
        return sum([_move_shard(redis, script.name(shard, STREAM), limit) for shard in shards])


def _may_move() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        return bool(cursor.fetchone()[0])


def _move_shard(redis: Any, stream: str, limit: int) -> int:
    entries = redis.xrange(stream, count=limit)
    if not entries:
        return 0
    rows, counts, tests = _read(fields for _, fields in entries)
    written = _write_rows(rows) + test_calls.write(tests)
    _write_counts(counts)
    redis.xdel(stream, *[entry_id for entry_id, _ in entries])
    return written


def keep(now: datetime) -> list[str]:
    """Make the partitions of the coming days and drop those past KEPT_DAYS; the names of what was dropped."""
    today = now.astimezone(UTC).date()
    first = today - timedelta(days=KEPT_DAYS)
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '4s'")
        try:
            present = _partitions(cursor)
            for number in range(AHEAD_DAYS + 1):
                _create(cursor, today + timedelta(days=number), present)
            old = sorted(name for name in present if name < _name(first))
            for name in old:
                cursor.execute(f"DROP TABLE {name}")
            cursor.execute("DELETE FROM refusal_record_default WHERE call_id < %s", [_lowest(first)])
        finally:
            cursor.execute("RESET lock_timeout")
    test_calls.forget(_lowest(first))
    oldest = today - timedelta(days=COUNTS_KEPT_DAYS)
    RefusalCount.objects.filter(minute__lt=datetime(oldest.year, oldest.month, oldest.day, tzinfo=UTC)).delete()
    return old


def counted(
    *, brand_id: int, reasons: Sequence[str], since: datetime, until: datetime, zone: str
) -> dict[tuple[int, date], int]:
    """How often any of these reasons was given, by organization and day in `zone`. `until` is not included."""
    rows = RefusalCount.objects.filter(brand_id=brand_id, reason__in=reasons, minute__gte=since, minute__lt=until)
    by_day = rows.values("organization_id", day=TruncDate("minute", tzinfo=ZoneInfo(zone))).annotate(times=Sum("count"))
    return {(row["organization_id"], row["day"]): row["times"] for row in by_day}


def _read(
    entries: Iterable[dict[bytes, bytes]],
) -> tuple[list[dict[str, Any]], list[list[Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    counts: list[list[Any]] = []
    tests: list[dict[str, Any]] = []
    for fields in entries:
        rows += orjson.loads(fields.get(b"rows", b"[]"))
        counts += orjson.loads(fields.get(b"counts", b"[]"))
        tests += orjson.loads(fields.get(b"tests", b"[]"))
    return rows, counts, tests


def _write_rows(rows: list[dict[str, Any]]) -> int:
    """Each worker keeps to the bound per minute; all together are held to it here."""
    room: dict[tuple[Any, int], int] = {}
    records = []
    for row in rows:
        minute = row["at_ms"] // 60_000
        subject = row["organization_id"] or row["address"]
        if (subject, minute) not in room:
            room[subject, minute] = ROWS_PER_MINUTE_MAX - _written(row, minute)
        if room[subject, minute] > 0:
            room[subject, minute] -= 1
            records.append(_record(row))
    RefusalRecord.objects.bulk_create(records, ignore_conflicts=True)
    return len(records)


def _written(row: dict[str, Any], minute: int) -> int:
    start = datetime.fromtimestamp(minute * 60, UTC)
    found = RefusalRecord.objects.filter(at__gte=start, at__lt=start + timedelta(minutes=1))
    if row["organization_id"]:
        return found.filter(organization_id=row["organization_id"]).count()
    return found.filter(organization_id=None, address=row["address"]).count()


def _record(row: dict[str, Any]) -> RefusalRecord:
    texts = ("key_hint", "model", "endpoint", "reason", "limit", "message", "agent")
    fields = row | {name: storable_text(row[name], 300) for name in texts}
    at = datetime.fromtimestamp(fields.pop("at_ms") / 1000, UTC)
    return RefusalRecord(at=at, **fields)


def _write_counts(counts: list[list[Any]]) -> None:
    sums: dict[tuple[datetime, int, int, str], int] = {}
    for minute, brand_id, organization_id, reason, count in counts:
        key = (datetime.fromtimestamp(minute * 60, UTC), brand_id, organization_id, reason)
        sums[key] = sums.get(key, 0) + count
    for (minute, brand_id, organization_id, reason), count in sorted(sums.items()):
        row, made = RefusalCount.objects.get_or_create(
            minute=minute,
            brand_id=brand_id,
            organization_id=organization_id,
            reason=reason,
            defaults={"count": count},
        )
        if not made:
            RefusalCount.objects.filter(pk=row.pk).update(count=F("count") + count)


def _partitions(cursor: Any) -> set[str]:
    cursor.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'refusal_record'::regclass AND c.relname <> 'refusal_record_default'"
    )
    return {name for (name,) in cursor.fetchall()}


def _create(cursor: Any, day: date, present: set[str]) -> None:
    """Rows of the day that came before its partition are moved into it."""
    if _name(day) in present:
        return
    lower, upper = _lowest(day), _lowest(day + timedelta(days=1))
    with transaction.atomic():
        cursor.execute(f"CREATE TABLE {_name(day)} (LIKE refusal_record INCLUDING ALL)")
        moved = "DELETE FROM refusal_record_default WHERE call_id >= %s AND call_id < %s RETURNING *"
        cursor.execute(
            f"WITH moved AS ({moved}) INSERT INTO {_name(day)} SELECT * FROM moved",  # noqa: S608 - a name made of a date
            [lower, upper],
        )
        cursor.execute(
            f"ALTER TABLE refusal_record ATTACH PARTITION {_name(day)} FOR VALUES FROM ('{lower}') TO ('{upper}')"
        )


def _name(day: date) -> str:
    return f"refusal_record_{day.strftime(_DAY)}"


def _lowest(day: date) -> str:
    instant = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return str(call_ids.lowest_of(int(instant.timestamp()) * 1000))
