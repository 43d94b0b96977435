"""A dead letter holds the whole entry, and is booked once its cause is gone."""

from __future__ import annotations

import pytest

from billing import dead_letters
from billing.entries import EntryRefused
from billing.journal import Journal, stream_of
from billing.models import DeadLetter, JournalShard
from tests.billing import books
from tests.billing.draining import drain
from tests.billing.settled import customer, entry, settle

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def journal(redis_connection) -> Journal:
    return Journal(redis_connection, name="first", notify=lambda _line: None)


def test_it_keeps_every_byte(redis_connection, journal):
    who = customer()
    fields = {**entry(who.event()), "bal": b"\xff\x00", "unknown": "x"}
    redis_connection.xadd(stream_of(who.shard), fields)
    drain(journal)
    letter = DeadLetter.objects.get()
    kept = dead_letters.payload_of(letter)
    assert kept[b"bal"] == b"\xff\x00"
    assert set(kept) == {name.encode() for name in fields}
    assert letter.error


def test_it_is_booked_once_when_its_cause_is_gone(redis_connection, journal):
    house = customer()
    later = customer(house.brand)
    organization_id = later.organization.id
    event = later.event()
    later.key.delete()
    later.organization.delete()
    settle(redis_connection, event)
    drain(journal)
    letter = DeadLetter.objects.get()
    later.organization.id = organization_id
    later.organization.save(force_insert=True)
    settle(redis_connection, house.event())
    drain(journal)
    position = JournalShard.objects.get(shard=letter.shard).last_stream_id
    dead_letters.retry(letter.id)
    dead_letters.retry(letter.id)
    letter.refresh_from_db()
    assert letter.resolved_at is not None
    assert books.events() == 2
    assert books.wallet(organization_id) == -7
    assert JournalShard.objects.get(shard=letter.shard).last_stream_id == position
    books.assert_consistent()


def test_it_stays_while_its_cause_stays(redis_connection, journal):
    who = customer()
    redis_connection.xadd(stream_of(who.shard), entry(who.event(), bal=6))
    drain(journal)
    letter = DeadLetter.objects.get()
    with pytest.raises(EntryRefused):
        dead_letters.retry(letter.id)
    letter.refresh_from_db()
    assert letter.resolved_at is None
    assert books.events() == 0
