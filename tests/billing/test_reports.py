"""What pages and `manage.py usage` show is what was booked, corrections included."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from io import StringIO

import msgspec
import orjson
import pytest
from django.core.management import CommandError, call_command

from billing import calls, reports
from billing.journal import Journal
from tests.billing import books
from tests.billing.draining import drain
from tests.billing.settled import Customer, customer, late, settle

pytestmark = pytest.mark.django_db
FIRST, LAST = date(2026, 11, 1), date(2026, 11, 30)


def book(redis_connection, *settled) -> None:
    settle(redis_connection, *settled)
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))


def shown(call_id: object, organization_id: int | None = None) -> calls.Call:
    call = calls.call_of(str(call_id), organization_id=organization_id)
    assert call is not None
    return call


def correct(redis_connection, event, **changes) -> None:
    late(redis_connection, msgspec.structs.replace(event, **changes))
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))


# Rollups


def test_usage_is_summed_by_what_is_asked_for(redis_connection):
    who = customer()
    other_key = customer(who.brand).key
    book(
        redis_connection,
        who.event(day="20261101", cache_read_tokens=4),
        who.event(day="20261101", end_reason="length"),
        who.event(day="20261102", key_id=other_key.id, cost_nanos=9),
        who.event(day="20261231"),
        customer(who.brand).event(day="20261101"),
    )
    org = who.organization.id
    days = reports.usage(org, first=FIRST, last=LAST)
    assert [(row.day, row.requests, row.cost_nanos) for row in days] == [
        (date(2026, 11, 1), 2, 14),
        (date(2026, 11, 2), 1, 9),
    ]
    assert (days[0].input_tokens, days[0].cache_read_tokens, days[0].total_tokens) == (24, 4, 34)
    keys = reports.usage(org, first=FIRST, last=LAST, by=("key_id",))
    assert {(row.key_hint, row.requests) for row in keys} == {(who.key.hint, 2), (other_key.hint, 1)}
    (model,) = reports.usage(org, first=FIRST, last=LAST, by=("model_id",))
    assert (model.model, model.requests) == (who.model.slug, 3)
    reasons = reports.usage(org, first=FIRST, last=LAST, by=("end_reason",), key_id=who.key.id)
    assert [(row.end_reason, row.requests) for row in reasons] == [("length", 1), ("stop", 1)]
    assert reports.total(org, first=FIRST, last=LAST).cost_nanos == 23
    pairs = reports.usage(org, first=FIRST, last=LAST, by=("model_id", "key_id"))
    assert len(pairs) == 2
    assert reports.added(pairs) == [reports.total(org, first=FIRST, last=LAST)]
    assert reports.added(pairs, ["key_id"]) == keys
    assert reports.added(pairs, ["model_id"]) == [model]
    assert (reports.added([], ["key_id"]), reports.added([])[0].requests) == ([], 0)


def test_an_organization_without_calls_has_a_total_of_nought(redis_connection):
    total = reports.total(customer().organization.id, first=FIRST, last=LAST)
    assert (total.requests, total.cost_nanos, total.first_token_ms(500)) == (0, 0, None)


def test_quarters_part_a_day_by_start(redis_connection):
    who = customer()
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    noon_ms = int(noon.timestamp()) * 1000
    book(redis_connection, *(who.event(started_at_ms=noon_ms + minutes * 60_000) for minutes in (0, 14, 15, 59)))
    rows = reports.quarters(who.organization.id, since=noon, until=noon + timedelta(minutes=45))
    assert [(row.starts_at, row.requests) for row in rows] == [(noon, 2), (noon + timedelta(minutes=15), 1)]


def test_percentiles_come_from_all_calls_of_a_group(redis_connection):
    who = customer()
    book(redis_connection, *(who.event(first_token_ms=ms, duration_ms=ms + 1000) for ms in (40, 60, 90, 4_900)))
    total = reports.total(who.organization.id, first=FIRST, last=date(2030, 1, 1), timed=True)
    assert (total.first_token_ms(500), total.first_token_ms(990)) == (75, 5_000)
    assert total.tokens_per_second(500) == 3
    assert total.duration_ms(500) == 1_333


# Calls


def test_a_call_is_found_by_its_id_and_only_by_its_organization(redis_connection):
    who, stranger = customer(), customer()
    event = who.event()
    book(redis_connection, event)
    assert shown(event.call_id, who.organization.id).cost_nanos == 7
    assert calls.call_of(event.call_id, organization_id=stranger.organization.id) is None
    assert calls.call_of("nonsense") is None
    assert calls.call_of(stranger.event().call_id) is None


def test_a_corrected_call_shows_what_holds_now(redis_connection):
    who = customer()
    event = who.event(usage_source="running", cache_read_tokens=None, reasoning_tokens=None)
    book(redis_connection, event)
    changes = {"cost_nanos": 9, "list_cost_nanos": 9, "cache_read_tokens": 3, "usage_source": "final"}
    correct(redis_connection, event, **changes, settled_at_ms=event.settled_at_ms + 5_000)
    call = shown(event.call_id)
    assert (call.cost_nanos, call.total("cache_read_tokens"), call.usage_source) == (9, 3, "final")
    assert (call.event.cost_nanos, len(call.corrections)) == (7, 1)
    assert call.total("reasoning_tokens") is None
    assert call.total("engine_id") is None
    assert call.settled_at - call.event.settled_at == timedelta(seconds=5)
    assert calls.call_of(call.corrections[0].call_id) is None


def test_the_newest_calls_come_first_page_by_page(redis_connection):
    who = customer()
    events = sorted((who.event() for _ in range(7)), key=lambda event: event.call_id, reverse=True)
    book(redis_connection, *events, customer().event())
    seen, before = [], None
    while page := calls.latest(who.organization.id, before=before, limit=3):
        seen += [str(call.event.call_id) for call in page]
        before = seen[-1]
    assert seen == [event.call_id for event in events]
    assert calls.latest(who.organization.id, model_id=0) == []
    assert len(calls.latest(who.organization.id, key_id=who.key.id)) == 7


def test_every_settled_call_comes_once_across_pages(redis_connection, monkeypatch):
    monkeypatch.setattr(calls, "PAGE_MAX", 4)
    who = customer()
    at_ms = who.event().settled_at_ms
    events = [who.event(settled_at_ms=at_ms + number // 3) for number in range(20)]
    book(redis_connection, *events)
    for number in (0, 7, 19):
        correct(redis_connection, events[number], cost_nanos=8, settled_at_ms=at_ms + 100 + number)
    found = list(calls.settled())
    assert sorted(str(call.event.call_id) for call in found) == sorted(event.call_id for event in events)
    assert [call.settled_at for call in found] == sorted(call.settled_at for call in found)
    assert sum(call.cost_nanos for call in found) == 17 * 7 + 3 * 8 == -books.wallet(who.organization.id)


# The command


def lines(**options) -> list[dict[str, object]]:
    out = StringIO()
    call_command("usage", format="jsonl", stdout=out, **options)
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_says_what_was_promised(redis_connection):
    who = customer()
    event = who.event(cache_read_tokens=2, started_at_ms=1_795_000_000_123, settled_at_ms=1_795_000_001_000)
    book(redis_connection, event)
    assert lines() == [
        {
            "call_id": event.call_id,
            "brand": who.brand.slug,
            "organization": who.organization.slug,
            "key_hint": who.key.hint,
            "model": who.model.slug,
            "uncached_input_tokens": 10,
            "cache_read_tokens": 2,
            "cache_write_tokens": None,
            "output_tokens": 5,
            "reasoning_tokens": None,
            "cost_nanos": 7,
            "usage_source": "final",
            "end_reason": "stop",
            "started_at": "2026-11-18T11:06:40.123Z",
            "settled_at": "2026-11-18T11:06:41.000Z",
        }
    ]


def test_a_correction_is_folded_into_its_call(redis_connection):
    who = customer()
    event = who.event()
    book(redis_connection, event)
    correct(redis_connection, event, cost_nanos=12, output_tokens=8, settled_at_ms=event.settled_at_ms + 3_600_000)
    (line,) = lines()
    assert (line["cost_nanos"], line["output_tokens"]) == (12, 8)
    since = datetime.fromtimestamp(event.settled_at_ms / 1000, UTC) + timedelta(minutes=1)
    assert lines(since=since) == [line]


def test_since_leaves_out_what_was_settled_before(redis_connection):
    who = customer()
    old, new = who.event(settled_at_ms=1_795_000_000_000), who.event(settled_at_ms=1_795_000_001_000)
    book(redis_connection, old, new)
    for since in ("2026-11-18T11:06:41+00:00", "2026-11-18T11:06:41", "2026-11-18T12:06:41+01:00"):
        out = StringIO()
        call_command("usage", "--since", since, stdout=out)
        assert [orjson.loads(line)["call_id"] for line in out.getvalue().splitlines()] == [new.call_id]


def test_it_is_narrowed_by_brand_and_organization(redis_connection):
    one, other = customer(), customer()
    sibling: Customer = customer(one.brand)
    book(redis_connection, one.event(), other.event(), sibling.event())
    assert len(lines()) == 3
    assert {line["organization"] for line in lines(brand=one.brand.slug)} == {
        one.organization.slug,
        sibling.organization.slug,
    }
    for name in (one.organization.slug, one.organization.public_id):
        assert [line["organization"] for line in lines(organization=name)] == [one.organization.slug]
    assert lines(brand=one.brand.slug, organization=one.organization.slug)
    with pytest.raises(CommandError, match="no organization"):
        lines(brand=other.brand.slug, organization=one.organization.slug)
    with pytest.raises(CommandError, match="no brand"):
        lines(brand="nobody")


def test_it_is_narrowed_by_user_and_metadata(redis_connection):
    who = customer()
    ann = who.event(user="ann", metadata={"team": "red", "job": "7"})
    bob = who.event(user="b" * 512, metadata={"team": "blue"})
    book(redis_connection, ann, bob, who.event())
    for arguments, expected in (
        (["--user", "ann"], {ann.call_id}),
        (["--user", "an"], set()),
        (["--user", "b" * 512], {bob.call_id}),
        (["--metadata", "team"], {ann.call_id, bob.call_id}),
        (["--metadata", "team=blue"], {bob.call_id}),
        (["--metadata", "team", "--metadata", "job=7"], {ann.call_id}),
        (["--metadata", "team=blue", "--user", "ann"], set()),
    ):
        out = StringIO()
        call_command("usage", *arguments, stdout=out)
        assert {orjson.loads(line)["call_id"] for line in out.getvalue().splitlines()} == expected, arguments


def test_a_marked_call_brings_its_correction_and_no_other(redis_connection):
    who = customer()
    ann, bob = who.event(user="ann"), who.event(user="bob")
    book(redis_connection, ann, bob)
    for event in (ann, bob):
        correct(redis_connection, event, cost_nanos=12, user="", settled_at_ms=event.settled_at_ms + 1_000)
    (line,) = lines(user="ann")
    assert (line["call_id"], line["cost_nanos"]) == (ann.call_id, 12)
