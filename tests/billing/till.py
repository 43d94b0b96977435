"""Calls of a customer through the real scripts, one by one, so that reconcile has real counters to read."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import redis

from billing import events, script
from billing.admission import settle_entry
from billing.events import COUNTED_SQL, Event
from billing.limits import Estimate
from billing.seeds import Snapshot as Seen
from billing.seeds import seed_entry
from billing.templates import Template, Templates, needs_of
from tests.billing import books, stage
from tests.billing.settled import Customer

LIMITS = (
    stage.limit("tokens", "day", 10**9, scope="key"),
    stage.limit("requests", "month", 10**6, scope="model"),
    stage.limit("tokens", "lifetime", 10**12),
)
WANTED = 100


class Till:
    """One customer's shard, open, with an account seeded from the books; what is held is tokens and requests."""

    def __init__(self, store: redis.Redis, customer: Customer) -> None:
        self.store, self.customer, self.shard = store, customer, customer.shard
        self.template = self._template()
        stage.open_epoch(store, shards=[self.shard])
        stage.publish(store, self.template.caller, self.template.snapshot)
        self._seed()

    def reserve(self, event: Event) -> None:
        now_ms = int(time.time() * 1000)
        needs = needs_of(self.template, Estimate(prompt_tokens_max=WANTED, output_tokens_wanted=WANTED))
        flat = [number for need in needs for number in need]
        head = ("reserve", self.shard, stage.EPOCH, event.call_id, self.template.static)
        self._run((*head, WANTED, 16, flat, 60_000, now_ms + 60_000, "{}"))

    def settle(self, event: Event) -> None:
        self._run(settle_entry(event, events.encode(event)))

    def call(self, **changes: Any) -> Event:
        event = self.customer.event(**changes)
        self.reserve(event)
        self.settle(event)
        return event

    def _template(self) -> Template:
        who = self.customer
        snapshot = stage.snapshot(*LIMITS, payer="included")
        brand = msgspec.structs.replace(snapshot.brand, id=who.brand.id)
        model = msgspec.structs.replace(snapshot.models[0], id=who.model.id)
        snapshot = msgspec.structs.replace(snapshot, brand=brand, models=(model,))
        caller = stage.anchored(
            stage.caller(who.organization.id, key_id=who.key.id), month_anchor=who.organization.month_anchor
        )
        return Templates().of(caller, snapshot, model, int(time.time() * 1000))

    def _seed(self) -> None:
        """The customer has not called yet, so every counter starts at nought."""
        wanted = [self.template.wanted(number) for number in range(len(self.template.counters))]
        nought = {(counter.window_id, counter.scope): ("0",) * len(COUNTED_SQL) for counter in wanted}
        organization_id = self.customer.organization.id
        seen = Seen(books.wallet(organization_id), 0, "0-0", nought)
        self._run(seed_entry(organization_id, stage.EPOCH, seen, wanted))

    def _run(self, entry: Any) -> None:
        (verdict,) = script.run(self.store, [entry])
        assert verdict[0] == "OK", verdict
