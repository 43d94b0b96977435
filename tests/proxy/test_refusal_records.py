"""What support finds after a refusal, and how little of it there may be."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from proxy import refusal_records
from proxy.models import RefusalCount, RefusalRecord
from proxy.refusal_log import ROWS_PER_MINUTE_MAX, USED_UP
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _partitions(shop: Any) -> None:
    refusal_records.keep(datetime.now(UTC))


def record_of(gateway: Gateway, call_id: str) -> RefusalRecord:
    deadline = time.monotonic() + 10
    while True:
        refusal_records.move(gateway.shop.store)
        found = RefusalRecord.objects.filter(call_id=call_id).first()
        if found is not None:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_refusal_can_be_looked_up_by_its_request_id(gateway: Gateway) -> None:
    customer = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 0})
    refused = gateway.chat(headers=customer.headers | {"user-agent": "curl/8"})
    record = record_of(gateway, refused.headers["x-request-id"])
    assert (record.status, record.reason, record.limit) == (429, "insufficient_quota", "organization.requests.day")
    assert (record.organization_id, record.key_id) == (customer.organization.id, customer.issued.key.id)
    assert record.key_hint == customer.issued.key.hint
    assert (record.model, record.endpoint, record.agent, record.address) == ("aion-v3", "chat", "curl/8", "127.0.0.1")
    assert customer.issued.secret not in str(vars(record))


def test_a_failed_call_says_what_its_engine_said(gateway: Gateway) -> None:
    failed = gateway.chat(model="aion-broken")
    record = record_of(gateway, failed.headers["x-request-id"])
    assert (record.status, record.reason, record.engine_status) == (502, "engine_error", 500)
    assert record.engine_id == gateway.shop.engine.id
    cut = gateway.stream("demo:die=3")
    assert record_of(gateway, cut.call_id).reason == "engine_cut"


def test_strangers_are_recorded_by_address(gateway: Gateway) -> None:
    refused = gateway.chat(headers={"authorization": "Bearer ak-nobody"})
    record = record_of(gateway, refused.headers["x-request-id"])
    assert (record.organization_id, record.reason, record.address) == (None, "invalid_key", "127.0.0.1")


def test_a_flood_is_counted_and_not_kept(gateway: Gateway) -> None:
    customer = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 0})
    while datetime.now(UTC).second > 50:
        time.sleep(1)  # one minute must hold the flood
    last = [gateway.chat(headers=customer.headers) for _ in range(ROWS_PER_MINUTE_MAX + 20)][-1]
    deadline = time.monotonic() + 10
    while True:
        refusal_records.move(gateway.shop.store)
        counted = RefusalCount.objects.filter(organization_id=customer.organization.id).first()
        if counted is not None and counted.count == ROWS_PER_MINUTE_MAX + 20:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # A worker writes rows before counts, each to a shard of its own: a move under way may have met the counts alone.
    refusal_records.move(gateway.shop.store)
    assert RefusalRecord.objects.filter(organization_id=customer.organization.id).count() == ROWS_PER_MINUTE_MAX
    assert not RefusalRecord.objects.filter(call_id=last.headers["x-request-id"]).exists()


def test_what_was_used_up_is_counted_by_name(gateway: Gateway) -> None:
    limited, broke = (
        gateway.shop.customer({"unit": "requests", "window": "day", "amount": 0}),
        gateway.shop.customer(credit=""),
    )
    last = [gateway.chat(headers=customer.headers) for customer in (limited, broke)][-1]
    record_of(gateway, last.headers["x-request-id"])
    deadline = time.monotonic() + 10
    theirs = [limited.organization.id, broke.organization.id]
    counts = RefusalCount.objects.filter(reason__startswith=USED_UP, organization_id__in=theirs)
    while counts.count() < 2:
        refusal_records.move(gateway.shop.store)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert dict(counts.values_list("organization_id", "reason")) == {
        limited.organization.id: "used up organization.requests.day",
        broke.organization.id: "used up balance",
    }


def test_what_a_limit_on_trial_would_have_refused_is_counted(gateway: Gateway) -> None:
    customer = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 1, "is_shadow": True})
    for _ in range(3):
        assert gateway.chat(headers=customer.headers).status_code == 200
    trials = RefusalCount.objects.filter(organization_id=customer.organization.id)
    deadline = time.monotonic() + 10
    while sum(row.count for row in trials.all()) < 2:
        refusal_records.move(gateway.shop.store)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {row.reason for row in trials.all()} == {"trial organization.requests.day"}
    assert sum(row.count for row in trials.all()) == 2


def test_days_are_made_ahead_and_dropped_after_a_week_counts_after_a_quarter(gateway: Gateway) -> None:
    now = datetime.now(UTC)
    refused = gateway.chat(model="nobody")
    record_of(gateway, refused.headers["x-request-id"])
    assert refusal_records.keep(now + timedelta(days=7)) == []
    assert RefusalRecord.objects.exists()
    dropped = refusal_records.keep(now + timedelta(days=8))
    assert f"refusal_record_{now:%Y%m%d}" in dropped
    assert not RefusalRecord.objects.exists()
    counts = RefusalCount.objects.filter(minute__lt=now + timedelta(days=1))
    assert counts.exists(), "counts stay for a quarter"
    refusal_records.keep(now + timedelta(days=93))
    assert not counts.exists()


def test_rows_that_came_before_their_partition_move_into_it(gateway: Gateway) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'refusal_record'::regclass AND c.relname <> 'refusal_record_default'"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TABLE {name}")
    refused = gateway.chat(model="nobody")
    record_of(gateway, refused.headers["x-request-id"])
    refusal_records.keep(datetime.now(UTC))
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM refusal_record_default")
        assert cursor.fetchone() == (0,)
    assert RefusalRecord.objects.filter(call_id=refused.headers["x-request-id"]).exists()
