"""Sealed days, and edits behind our back: by SQL, with the triggers off, as the owner of the tables could."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.utils import DatabaseError

from billing import ledger, seals
from billing.models import Grant, LedgerSeal, LedgerSealPart, Posting
from tests import cast
from tests.billing.test_ledger import usage_entry

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
NOW = FIRST + 4 * DAY


@contextmanager
def triggers_off():
    """What somebody with the database in hand would do."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        yield cursor


@pytest.fixture
def house():
    """Three days of postings, three in each, sealed."""
    house = cast.brand(slug="acme")
    customer = cast.organization(house)
    with triggers_off() as cursor:
        for number in range(9):
            posting = ledger.post(usage_entry(customer, 100 + number, f"usage:{number}")).posting
            at = FIRST + number // 3 * DAY
            cursor.execute("UPDATE billing_posting SET posted_at = %s WHERE id = %s", [at, posting.pk])
        grant = ledger.grant(
            organization=customer, amount_nanos=5, kind="paid", reason="Top-up", reference="grant:1", actor="test"
        )
        cursor.execute("UPDATE billing_posting SET posted_at = %s WHERE id = %s", [FIRST + 2 * DAY, grant.posting_id])
    assert seals.run(NOW) == 4
    return house


def problems(house):
    return [(str(problem.day), problem.what) for problem in seals.verify(house)]


def posting(reference):
    return Posting.objects.get(reference=reference).pk


def test_days_are_sealed_once_in_order_and_agree(house):
    days = LedgerSeal.objects.order_by("number").values_list("number", "day", "postings")
    assert list(days) == [(n, date(2026, 3, n), count) for n, count in ((1, 3), (2, 3), (3, 4), (4, 0))]
    assert seals.run(NOW) == 0
    assert problems(house) == []
    assert seals.run(NOW + DAY) == 1


def test_a_day_is_sealed_when_its_last_posting_must_be_there(house):
    midnight = datetime(2026, 3, 6, tzinfo=UTC)
    assert seals.run(midnight + seals.GRACE - timedelta(seconds=1)) == 0
    assert seals.run(midnight + seals.GRACE) == 1


EDITS = [
    ("UPDATE billing_posting SET memo = 'x' WHERE reference = 'usage:4'", "2026-03-02", "usage:4", "edited"),
    ("UPDATE billing_posting SET actor_id = 7 WHERE reference = 'usage:0'", "2026-03-01", "usage:0", "edited"),
    (
        "UPDATE billing_postingline SET amount_nanos = amount_nanos * 2 WHERE posting_id ="
        " (SELECT id FROM billing_posting WHERE reference = 'usage:8')",
        *("2026-03-03", "usage:8", "edited"),
    ),
    (
        "DELETE FROM billing_postingline WHERE posting_id ="
        " (SELECT id FROM billing_posting WHERE reference = 'usage:3')",
        *("2026-03-02", "usage:3", "edited"),
    ),
    ("UPDATE billing_grant SET amount_nanos = 500", "2026-03-03", "grant:1", "edited"),
    ("UPDATE billing_grant SET expires_at = now()", "2026-03-03", "grant:1", "edited"),
    ("DELETE FROM billing_grant", "2026-03-03", "grant:1", "edited"),
    ("UPDATE billing_posting SET brand_id = brand_id + 1 WHERE reference = 'usage:4'", "2026-03-02", "usage:4", "gone"),
]


@pytest.mark.parametrize(("statement", "day", "reference", "how"), EDITS)
def test_a_row_edited_behind_our_back_is_named(house, statement, day, reference, how):
    id = posting(reference)
    with triggers_off() as cursor:
        cursor.execute(statement)
        assert cursor.rowcount >= 1
    words = f"posting {id} ({reference}) was edited" if how == "edited" else f"posting {id} was deleted, or moved"
    [(found_day, what)] = problems(house)
    assert found_day == day
    assert what.startswith(words)


def test_a_deleted_posting_is_named_and_so_is_one_put_in(house):
    id = posting("usage:4")
    with triggers_off() as cursor:
        cursor.execute("DELETE FROM billing_postingline WHERE posting_id = %s", [id])
        cursor.execute("DELETE FROM billing_posting WHERE id = %s", [id])
        cursor.execute(
            "INSERT INTO billing_posting (brand_id, kind, reference, memo, posted_at)"
            " VALUES (%s, 'adjustment', 'mine', '', %s) RETURNING id",
            [house.pk, FIRST],
        )
        (new,) = cursor.fetchone()
    assert problems(house) == [
        ("2026-03-01", f"posting {new} (mine) was inserted afterwards"),
        ("2026-03-02", f"posting {id} was deleted, or moved to another day or brand"),
    ]


def test_a_posting_moved_to_another_day_shows_on_both(house):
    with triggers_off() as cursor:
        cursor.execute("UPDATE billing_posting SET posted_at = %s WHERE reference = 'usage:0'", [FIRST + DAY])
    assert [day for day, _ in problems(house)] == ["2026-03-01", "2026-03-02"]


def test_lines_moved_to_another_account_show(house):
    with triggers_off() as cursor:
        cursor.execute("UPDATE billing_ledgeraccount SET kind = 'adjustment' WHERE kind = 'revenue'")
    assert len(problems(house)) == 9


def test_sealing_anew_what_was_edited_needs_the_pepper(house, settings):
    """The whole chain and every print made again, by somebody who knows how but has the database only."""
    with triggers_off() as cursor:
        cursor.execute("UPDATE billing_posting SET memo = 'x' WHERE reference = 'usage:4'")
        cursor.execute("DELETE FROM billing_ledgersealpart")
        cursor.execute("DELETE FROM billing_ledgerseal")
    there, settings.KEY_PEPPERS = settings.KEY_PEPPERS, {max(settings.KEY_PEPPERS): b"a guess"}
    assert seals.run(NOW) == 4
    assert problems(house) == []
    settings.KEY_PEPPERS = there
    assert [what for _, what in problems(house)] == ["the seal itself was edited"] * 4


def test_a_seal_that_is_missing_breaks_the_chain(house):
    with triggers_off() as cursor:
        cursor.execute("DELETE FROM billing_ledgersealpart")
        cursor.execute("DELETE FROM billing_ledgerseal WHERE number = 2")
    assert ("2026-03-03", "seal 3 follows where seal 2 belongs") in problems(house)


def test_seals_are_appended_to_only(house):
    for rows in (LedgerSeal.objects.all(), LedgerSealPart.objects.all()):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            rows.update(id=99)


def test_the_command_names_what_it_finds_and_fails(house, capsys):
    call_command("verify_ledger", "--brand", "acme")
    said = capsys.readouterr().out
    assert "The books are as they were sealed." in said
    digest = LedgerSeal.objects.get(number=4).digest
    assert f"acme: 4 days sealed, the last 2026-03-04, digest {digest}" in said
    call_command("verify_ledger", "--expect", digest)
    with triggers_off() as cursor:
        cursor.execute("UPDATE billing_posting SET memo = 'x' WHERE reference = 'usage:4'")
        cursor.execute("DELETE FROM billing_ledgerseal WHERE number = 4")
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        call_command("verify_ledger", "--expect", digest)
    assert left.value.code == 1
    said = capsys.readouterr().out
    assert "acme 2026-03-02: posting" in said
    assert f"no seal with the digest {digest}" in said


def test_days_touch_where_clocks_change_and_zones_skip_a_day():
    berlin, apia = ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Apia")
    day, until = seals.day_after(datetime(2026, 3, 28, 23, tzinfo=UTC), berlin)
    assert (day, until) == (date(2026, 3, 29), datetime(2026, 3, 29, 22, tzinfo=UTC))
    moment = datetime(2011, 12, 28, 12, tzinfo=UTC)
    for _ in range(5):
        _, until = seals.day_after(moment, apia)
        assert moment < until <= moment + timedelta(hours=26)
        moment = until
    assert Grant.objects.count() == 0
