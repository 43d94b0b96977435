"""The whole house in one test: the served proxy, the demo engine, and the journal process's own work done by hand, so
that a test says when. `differences` are what `manage.py reconcile --deep` would name."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from django.db.models import Sum

from billing import engine_counters, reconcile_calls, reconcile_engine_log, script
from billing.journal import Journal
from billing.models import UsageEvent
from billing.reconcile import reconcile
from billing.reconcile_books import Difference
from billing.shard_leases import LeaseLost
from keys.caller import SHARDS
from portal.management.commands import journal as process
from tests.billing.draining import drain
from tests.proxy.shop import Customer, Gateway, Shop, serve

CHORES = ("epochs", "publications", "counter changes", "dead workers", "lapsed holds")
SECONDS_MAX = 15.0


class Lab:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.customer = shop.customer(credit="1")
        self.serving = ExitStack()
        self.gateway: Gateway = self.serving.enter_context(serve(shop))
        self.journal = Journal(shop.store, name="lab", notify=lambda line: None)

    def close(self) -> None:
        self.serving.close()

    def call(self, *, customer: Customer | None = None, **fields: Any) -> httpx.Response:
        return self.gateway.chat(headers=(customer or self.customer).headers, **{"max_tokens": 20} | fields)

    def settle_down(self) -> None:
        """The chores of the journal process and its draining, until nothing is on its way any more."""
        work = {chore.name: chore.work for chore in process.CHORES}
        until = time.monotonic() + SECONDS_MAX
        for _ in range(2):
            for name in CHORES:
                work[name]()
            self._book()
        while not self._is_open() and time.monotonic() < until:
            work["epochs"]()
            time.sleep(0.02)
        for name in CHORES:
            work[name]()
        self._book()

    def _book(self) -> None:
        """As the journal process: when a rebuild began after its last renewal, it starts over."""
        for _ in range(3):
            try:
                return drain(self.journal)
            except LeaseLost:
                self.journal._start_over()
        return drain(self.journal)

    def _is_open(self) -> bool:
        """Whether Redis decides anything: it may have to be rebuilt first."""
        return all(state[3] for state in script.run(self.shop.store, [("epoch", shard) for shard in range(SHARDS)]))

    def differences(self) -> list[Difference]:
        self.settle_down()
        store, log = self.shop.store, list(self.shop.inference.engine.log)
        engine_ids = [engine.id for engine in engine_counters.engines_at(self.shop.inference.root)]
        later = datetime.now(UTC) + timedelta(minutes=10)
        return [
            *reconcile(store),
            *reconcile_calls.differences(store),
            *reconcile_engine_log.differences(log, engine_ids, reconcile_calls.pending(store), later),
        ]

    def counted_nanos(self) -> int:
        """What the engine's own log of what it did costs at the shop's price."""
        done = [entry for entry in list(self.shop.inference.engine.log) if entry["end"] != "refused"]
        return sum(
            (entry["prompt_tokens"] - entry["cached_tokens"]) * 200
            + entry["cached_tokens"] * 50
            + entry["output_tokens"] * 600
            for entry in done
        )

    def billed_nanos(self) -> int:
        return UsageEvent.objects.aggregate(sum=Sum("cost_nanos"))["sum"] or 0
