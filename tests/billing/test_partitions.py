"""Events land in the partition of the day their id names, also around midnight and when nobody made it in time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction

from billing import call_ids, partitions
from billing.journal import Journal
from tests.billing import books
from tests.billing.draining import drain
from tests.billing.settled import customer, settle

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime(2031, 5, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _drop_days_of_2031():
    yield
    for (name,) in books.rows("SELECT relname FROM pg_class WHERE relname LIKE 'usage_event_2031%%' AND relkind = 'r'"):
        books_execute(f"DROP TABLE {name}")


def books_execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def id_at(time_ms: int, fill: bytes = b"\x00") -> str:
    return call_ids.mint(time_ms, fill * 10)


def partition_of(call_id: str) -> str:
    return str(books.one("SELECT tableoid::regclass::text FROM usage_event WHERE call_id = %s", call_id))


def book(redis_connection, *ids: str) -> None:
    who = customer()
    settle(redis_connection, *(who.event(call_id=call_id) for call_id in ids))
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))


def test_a_migrated_database_has_the_days_around_now():
    today = datetime.now(UTC).date()
    names = {name for (name,) in books.rows("SELECT relname FROM pg_class WHERE relname LIKE 'usage_event_2%%'")}
    assert {partitions.name_of(today + timedelta(days=n)) for n in (-1, 0, 1)} <= names
    assert partitions.create_ahead(datetime.now(UTC), days=1) == []


def test_the_migration_and_the_module_name_the_same_bounds():
    lower, upper = partitions.bounds_of(datetime.now(UTC).date())
    expected = f"FOR VALUES FROM ('{lower}') TO ('{upper}')"
    name = partitions.name_of(datetime.now(UTC).date())
    assert books.one("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s", name) == expected


def test_days_are_made_once_and_ahead():
    made = partitions.create_ahead(NOON)
    assert made == [date(2031, 5, 19) + timedelta(days=n) for n in range(9)]
    assert partitions.create_ahead(NOON) == []
    assert partitions.create_ahead(NOON + timedelta(days=1)) == [date(2031, 5, 28)]


def test_the_last_call_of_a_day_and_the_first_of_the_next_lie_apart(redis_connection):
    partitions.create_ahead(NOON)
    midnight = ms(datetime(2031, 5, 21, tzinfo=UTC))
    last, first = id_at(midnight - 1, b"\xff"), id_at(midnight)
    book(redis_connection, last, first)
    assert partition_of(last) == "usage_event_20310520"
    assert partition_of(first) == "usage_event_20310521"
    books.assert_consistent()


def test_the_same_call_is_refused_whatever_the_day(redis_connection):
    partitions.create_ahead(NOON)
    call_id = id_at(ms(NOON))
    book(redis_connection, call_id)
    with pytest.raises(IntegrityError), transaction.atomic():
        books_execute(f"INSERT INTO usage_event SELECT * FROM usage_event WHERE call_id = '{call_id}'")


def test_a_day_without_a_partition_is_kept_apart_and_counted(redis_connection):
    call_id = id_at(ms(NOON))
    book(redis_connection, call_id)
    assert partition_of(call_id) == "usage_event_default"
    assert partitions.stray() == 1
    books.assert_consistent()


def test_a_day_that_comes_late_adopts_what_waits_in_the_default(redis_connection):
    strays = [id_at(ms(NOON)), id_at(ms(NOON + timedelta(days=1)))]
    absurd = id_at(ms(datetime(2200, 1, 1, tzinfo=UTC)))
    book(redis_connection, *strays, absurd)
    made = partitions.create_ahead(NOON)
    assert {date(2031, 5, 20), date(2031, 5, 21), date(2031, 5, 27)} <= set(made)
    assert [partition_of(call_id) for call_id in strays] == ["usage_event_20310520", "usage_event_20310521"]
    assert partition_of(absurd) == "usage_event_default"
    assert partitions.stray() == 1
    assert partitions.create_ahead(NOON) == []
    book(redis_connection, id_at(ms(NOON + timedelta(hours=1))))
    books.assert_consistent()


@pytest.mark.parametrize("statement", ["UPDATE usage_event SET cost_nanos = 0", "DELETE FROM usage_event"])
def test_an_event_never_changes(redis_connection, statement):
    who = customer()
    settle(redis_connection, who.event())
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))
    with pytest.raises(IntegrityError, match="never change"), transaction.atomic():
        books_execute(statement)
    with pytest.raises(IntegrityError, match="never change"), transaction.atomic():
        books_execute(statement.replace("usage_event", partitions.name_of(datetime.now(UTC).date())))


def test_a_cost_without_a_posting_is_refused(redis_connection):
    who = customer()
    event = who.event(cost_nanos=0)
    settle(redis_connection, event)
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))
    columns = [
        name
        for (name,) in books.rows(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'usage_event'"
            " ORDER BY ordinal_position"
        )
    ]
    values = ", ".join(
        {"call_id": f"'{UUID(int=UUID(event.call_id).int + 1)}'", "cost_nanos": "5"}.get(name, f'"{name}"')
        for name in columns
    )
    with pytest.raises(IntegrityError, match="cost_is_posted"), transaction.atomic():
        books_execute(f"INSERT INTO usage_event SELECT {values} FROM usage_event")
