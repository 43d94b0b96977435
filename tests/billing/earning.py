"""Calls, engines and costs of days long past, as reports on money find them."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

from billing import call_ids, engines, ledger
from billing.events import Event
from billing.journal import Journal
from billing.models import Engine
from keys.models import Organization
from tests.billing.draining import drain
from tests.billing.settled import Customer, settle

_numbers = itertools.count(1)
HOUR_NANOS = 3_600_000
"""A cost per hour of which a second is 1,000 nanos."""


def engine(name: str, **fields: Any) -> Engine:
    """Registered without a cost, long ago."""
    found = engines.register(name=name, kind="vllm", base_url=f"http://{name}.test:8000/v1", actor="test", **fields)
    Engine.objects.filter(pk=found.pk).update(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    return Engine.objects.get(pk=found.pk)


def costs(
    engine: Engine, per_hour_nanos: int, since: datetime, *, now: datetime | None = None, currency: str = ""
) -> None:
    later = now or since + timedelta(days=1)
    engines.set_cost(
        engine=engine, per_hour_nanos=per_hour_nanos, since=since, actor="test", now=later, currency=currency
    )


def call(who: Customer, on: date, cost_nanos: int, *, hour: int = 12, **changes: Any) -> Event:
    """At an hour (UTC) of a day, of ten tokens in and five out unless said otherwise."""
    at_ms = int(datetime(on.year, on.month, on.day, hour, tzinfo=UTC).timestamp() * 1000)
    fields = {
        "call_id": call_ids.mint(at_ms, os.urandom(10)),
        "day": f"{on:%Y%m%d}",
        "started_at_ms": at_ms,
        "settled_at_ms": at_ms + 130,
        "cost_nanos": cost_nanos,
        "list_cost_nanos": cost_nanos,
    }
    return who.event(**{**fields, **changes})


def book(redis_connection: Any, *settled: Event) -> None:
    settle(redis_connection, *settled)
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))


def given(organization: Organization, kind: str, amount_nanos: int) -> None:
    ledger.grant(
        organization=organization,
        amount_nanos=amount_nanos,
        kind=kind,
        reason="test",
        reference=f"earning:{next(_numbers)}",
        actor="test",
    )
