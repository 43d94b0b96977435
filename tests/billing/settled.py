"""Settled calls as the proxy leaves them: a customer with a key and a model, events, and entries on the journal."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from typing import Any

import redis

from billing import call_ids, events, journal
from billing.events import Event
from billing.models import Model
from keys.caller import shard_of
from keys.models import ApiKey, Brand, Organization
from tests import cast

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Customer:
    brand: Brand
    organization: Organization
    key: ApiKey
    model: Model

    @property
    def shard(self) -> int:
        return shard_of(self.organization.id)

    def event(self, **changes: Any) -> Event:
        """A plain call of ten tokens in and five out that cost seven nanos, now."""
        now_ms = int(time.time() * 1000)
        fields = {
            "call_id": call_ids.mint(now_ms, os.urandom(10)),
            "brand_id": self.brand.id,
            "organization_id": self.organization.id,
            "key_id": self.key.id,
            "model_id": self.model.id,
            "rates": {"input_picos": 200, "output_picos": 1000},
            "endpoint": "chat",
            "payer": "prepaid",
            "uncached_input_tokens": 10,
            "output_tokens": 5,
            "list_cost_nanos": 7,
            "cost_nanos": 7,
            "held_nanos": 20,
            "usage_source": "final",
            "end_reason": "stop",
            "day": time.strftime("%Y%m%d", time.gmtime(now_ms / 1000)),
            "started_at_ms": now_ms,
            "first_token_ms": 30,
            "duration_ms": 130,
            "settled_at_ms": now_ms + 130,
            "address": "192.0.2.7",
            "agent": "test",
        }
        return Event(**{**fields, **changes})


def customer(brand: Brand | None = None, **fields: Any) -> Customer:
    brand = brand or cast.brand()
    organization = cast.organization(brand, **fields)
    number = next(_numbers)
    key = ApiKey.objects.create(
        organization=organization,
        name=f"key {number}",
        digest=os.urandom(32),
        pepper_version=1,
        hint=f"ak-…{number:04d}",
    )
    model = Model.objects.create(
        brand=brand, slug=f"model-{number}", name="Model", context_length=8192, max_completion_tokens=4096
    )
    return Customer(brand, organization, key, model)


def entry(event: Event, *, late: bool = False, **changes: Any) -> dict[Any, Any]:
    """The fields that settle appends for an event."""
    fields: dict[Any, Any] = {
        "o": event.organization_id,
        "k": event.key_id,
        "m": event.model_id,
        "d": event.day,
        "late": int(late),
        "bal": event.cost_nanos,
        **events.counted(event).by_unit(),
        "e": events.encode(event),
    }
    return {**fields, **changes}


def settle(store: redis.Redis, *settled: Event, late: bool = False) -> list[str]:
    """Appends the events' entries, each to its shard; the stream ids."""
    pipeline = store.pipeline(transaction=False)
    for event in settled:
        pipeline.xadd(journal.stream_of(shard_of(event.organization_id)), entry(event, late=late))
    return [stream_id.decode() for stream_id in pipeline.execute()]


def late(store: redis.Redis, event: Event) -> str:
    return settle(store, event, late=True)[0]
