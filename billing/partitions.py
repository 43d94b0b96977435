"""Day partitions of usage_event: made ahead of time, bounded by the UUIDv7s of a UTC day.

A call whose day has no partition lands in usage_event_default, which works but is never dropped in one piece: `stray`
counts such rows for doctor, `adopt` moves them to partitions of their own.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper

from billing import call_ids

AHEAD_DAYS = 7
ADOPTED_DAYS_MAX = 400


def name_of(day: date) -> str:
    return f"usage_event_{day:%Y%m%d}"


def bounds_of(day: date) -> tuple[UUID, UUID]:
    """Lower bound inclusive, upper exclusive."""
    return _lowest(day), _lowest(day + timedelta(days=1))


def _lowest(day: date) -> UUID:
    return call_ids.lowest_of(int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000)


def create_ahead(now: datetime, days: int = AHEAD_DAYS) -> list[date]:
    """Makes what is missing from yesterday to `days` ahead; the days it made. When rows of a day already wait in the
    default partition, they are adopted."""
    today = now.astimezone(UTC).date()
    made = []
    for day in _missing([today + timedelta(days=n) for n in range(-1, days + 1)]):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                _create(cursor, day)
        except IntegrityError:
            adopt(now)
        made.append(day)
    return made


def create_between(first: date, last: date) -> None:
    """Makes what is missing of these days and both their neighbours: for events booked long after their day."""
    days = range(-1, (last - first).days + 2)
    for day in _missing([first + timedelta(days=n) for n in days]):
        with transaction.atomic(), connection.cursor() as cursor:
            _create(cursor, day)


def _missing(days: list[date]) -> list[date]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'usage_event'::regclass"
        )
        present = {name for (name,) in cursor.fetchall()}
    return [day for day in days if name_of(day) not in present]


def _create(cursor: CursorWrapper, day: date) -> None:
    lower, upper = bounds_of(day)
    cursor.execute("SET LOCAL lock_timeout = '4s'")
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {name_of(day)} PARTITION OF usage_event FOR VALUES FROM ('{lower}') TO ('{upper}')"
    )


def stray() -> int:
    """Rows in the default partition; doctor reports any."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_event_default")
        return int(cursor.fetchone()[0])


def adopt(now: datetime) -> list[date]:
    """Moves the default partition's rows to partitions of their days, as far as those are in the past
    ADOPTED_DAYS_MAX days or the next AHEAD_DAYS; the days made. Nothing is deleted row by row: the old default table is
    replaced by a new one."""
    today = now.astimezone(UTC).date()
    first, last = today - timedelta(days=ADOPTED_DAYS_MAX), today + timedelta(days=AHEAD_DAYS)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '4s'")
        cursor.execute("ALTER TABLE usage_event DETACH PARTITION usage_event_default")
        cursor.execute("ALTER TABLE usage_event_default RENAME TO usage_event_stray")
        cursor.execute("CREATE TABLE usage_event_default PARTITION OF usage_event DEFAULT")
        cursor.execute(
            "SELECT DISTINCT left(call_id::text, 8) || substr(call_id::text, 10, 4) FROM usage_event_stray"
            " WHERE call_id >= %s AND call_id < %s",
            [_lowest(first), _lowest(last + timedelta(days=1))],
        )
        times_ms = {int(digits, 16) for (digits,) in cursor.fetchall()}
        days = _missing(sorted({datetime.fromtimestamp(ms / 1000, UTC).date() for ms in times_ms}))
        for day in days:
            _create(cursor, day)
        cursor.execute("INSERT INTO usage_event SELECT * FROM usage_event_stray")
        cursor.execute("DROP TABLE usage_event_stray")
    return days
