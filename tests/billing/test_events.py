"""The journal entry survives the way through Redis, and refuses what is no event."""

from __future__ import annotations

import pytest

from billing import events
from billing.events import Event, EventMalformed

CALL_ID = "018f0000-0000-7000-8000-000000000001"


def event(**changes) -> Event:
    fields = {
        "call_id": CALL_ID,
        "brand_id": 1,
        "organization_id": 2,
        "key_id": 3,
        "model_id": 4,
        "endpoint": "chat",
        "payer": "prepaid",
        "usage_source": "final",
        "end_reason": "stop",
        "day": "20261121",
        "started_at_ms": 1_795_000_000_000,
        "settled_at_ms": 1_795_000_001_000,
    }
    return Event(**{**fields, **changes})


def test_an_event_comes_back_as_it_was_sent():
    sent = event(
        cache_read_tokens=7, flags=("clamped",), metadata={"a": "ü"}, cost_nanos=2**63 - 1, rates={"input": None}
    )
    assert events.decode(events.encode(sent)) == sent


def test_absent_tokens_stay_unknown():
    assert events.decode(events.encode(event())).cache_read_tokens is None


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        events.encode(event()).replace(b'"stop"', b'"whenever"'),
        events.encode(event(cost_nanos=5)).replace(b'"cost_nanos":5', b'"cost_nanos":-5'),
        events.encode(event(cost_nanos=5)).replace(b'"cost_nanos":5', b'"cost_nanos":9223372036854775808'),
        events.encode(event(cost_nanos=5)).replace(b'"cost_nanos":5', b'"cost_nanos":5.5'),
        events.encode(event()).replace(b"-7000-", b"-4000-"),
    ],
)
def test_what_is_no_event_is_refused(blob):
    with pytest.raises(EventMalformed):
        events.decode(blob)


def test_fields_of_a_newer_worker_are_ignored():
    assert events.decode(events.encode(event())[:-1] + b',"new_field":1}') == event()


def test_an_input_of_three_buckets_counts_as_their_sum():
    counts = events.counted(
        event(
            uncached_input_tokens=10,
            cache_read_tokens=20,
            cache_write_tokens=3,
            output_tokens=5,
            list_cost_nanos=12,
            cost_nanos=9,
        )
    )
    assert counts.by_unit() == {"req": 1, "in": 33, "out": 5, "tok": 38, "cred": 0, "nano": 9}
    assert set(counts.by_unit()) == set(events.COUNTED_SQL)


@pytest.mark.parametrize(
    ("source", "end_reason", "requests"),
    [
        ("none", "upstream_error", 0),
        ("none", "timeout", 0),
        ("none", "client_gone", 1),
        ("none", "lapsed", 1),
        ("running", "timeout", 1),
        ("final", "stop", 1),
    ],
)
def test_only_a_call_that_an_engine_failed_gives_its_request_back(source, end_reason, requests):
    assert events.counted(event(usage_source=source, end_reason=end_reason)).req == requests


def test_ornaments_that_no_database_takes_are_mended_and_amounts_kept():
    sent = event(
        cost_nanos=5,
        address="not an address",
        agent="a\x00b" * 200,
        user="\x00",
        metadata={f"k{i}\x00": "v\x00" for i in range(99)},
    )
    kept = events.storable(sent)
    assert kept.address is None
    assert kept.agent == "ab" * 100
    assert kept.user == ""
    assert events.storable(event(user="u" * 600)).user == "u" * 512
    assert len(kept.metadata) == 16
    assert kept.metadata["k0"] == "v"
    assert kept.cost_nanos == 5


def test_a_scoped_address_is_kept_without_its_zone():
    assert events.storable(event(address="fe80::1%eth0")).address == "fe80::1"
