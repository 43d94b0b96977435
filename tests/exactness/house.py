"""What is called: the demo engine, a shop of two models, three proxy workers under gunicorn, and the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redis
from django.db.models import Sum

from billing import prices, script, windows
from billing.models import Model, UsageDay
from billing.reconcile import reconcile
from keys.caller import shard_of
from keys.issuing import Issued
from keys.models import Organization
from portal.stores import children
from tests.exactness.kinds import CREDITS_PER_1000_TOKENS, CREDITS_PER_REQUEST, PER_MILLION, TEMPLATE_TOKENS, Kind, Used
from tests.inference import demo_engine
from tests.proxy.shop import ACTOR, Shop
from tests.stories.workers import journal, proxy_workers

WORKERS = 3
BOOKED_SECONDS_MAX = 60.0
UNIT_FIELDS = {"requests": "req", "input": "in", "output": "out", "tokens": "tok", "credits": "cred", "nanos": "nano"}
SUMS = {
    "requests": ("requests",),
    "input": ("uncached_input_tokens", "cache_read_tokens"),
    "output": ("output_tokens",),
    "tokens": ("uncached_input_tokens", "cache_read_tokens", "output_tokens"),
    "credits": ("credits",),
    "nanos": ("cost_nanos",),
}
"""A unit → what the rollups have of it."""


class Place(NamedTuple):
    """Where calls are counted: one key and one model. `scope` is the counter's name in Redis."""

    issued: Issued
    model: Model
    scope: str


class Buyer(NamedTuple):
    organization: Organization
    places: list[Place]


class House:
    def __init__(self, shop: Shop, port: int) -> None:
        self.shop, self.port = shop, port
        self.store: Any = shop.store
        self.used: dict[str, Used] = {}
        """What a call with such a message takes, once that is known."""
        around = {"tokens_per_message": TEMPLATE_TOKENS, "tokens_per_call": TEMPLATE_TOKENS}
        self.models = [
            shop.new_model(slug, there, per_million=None, **around)
            for slug, there in (("metered", "demo-chat"), ("metered-too", "demo-large"))
        ]
        for model in self.models:
            prices.set_price(
                model=model,
                actor=ACTOR,
                per_million=PER_MILLION,
                credits_per_request=CREDITS_PER_REQUEST,
                credits_per_1000_tokens=CREDITS_PER_1000_TOKENS,
            )

    def takes(self, delay_ms: int = 0) -> None:
        """How the engine answers from now on: as long as it may, and not before that time."""
        self.shop.inference.engine.control.update({"rules": [{"do": f"fill delay={delay_ms}"}]})

    def made_since(self, began: float) -> list[dict[str, Any]]:
        """What the engine was asked for since then, by its own log."""
        return [entry for entry in list(self.shop.inference.engine.log) if entry["started_at"] >= began]

    def buyer(self, kind: Kind, amount: int) -> Buyer:
        """A new customer whose only limit is `amount` of the kind, at each of its places."""
        shop = self.shop
        customer = shop.customer(*kind.limits(amount), credit="")
        shop.grant(customer.organization, kind.credit(amount))
        keys = [customer.issued, shop.new_key(customer.organization)]
        if kind.scope == "key":
            places = [Place(key, self.models[0], f"k{key.key.pk}") for key in keys]
        elif kind.scope == "model":
            places = [Place(keys[0], model, f"m{model.pk}") for model in self.models]
        else:
            places = [Place(keys[0], self.models[0], "o")]
        return Buyer(customer.organization, places)

    def posted(self, kind: Kind, buyer: Buyer, place: Place) -> int:
        """What Redis counts at a place; of a balance what is gone of it since is known to whoever granted it."""
        shard, number = shard_of(buyer.organization.pk), buyer.organization.pk
        if not kind.window:
            return int(self.store.hget(script.name(shard, f"a:{number}"), "bal") or 0)
        window = windows.window_at(int(time.time() * 1000), kind.window, "UTC").id
        field = f"{place.scope}.{UNIT_FIELDS[kind.unit]}.p"
        return int(self.store.hget(script.name(shard, f"w:{number}:{window}"), field) or 0)

    def booked(self, buyer: Buyer, place: Place, unit: str) -> int:
        """What the rollups have of the calls of a place."""
        rows = UsageDay.objects.filter(
            organization_id=buyer.organization.pk, key_id=place.issued.key.pk, model_id=place.model.pk
        )
        sums = rows.aggregate(**{name: Sum(name, default=0) for name in SUMS[unit]})
        return sum(int(value) for value in sums.values())

    def wait_until_booked(self, buyer: Buyer, calls: int) -> bool:
        def all_of_them() -> bool:
            found = sum(self.booked(buyer, place, "requests") for place in buyer.places)
            return found >= calls and not self._entries(buyer)

        return children.wait_until(all_of_them, within_seconds=BOOKED_SECONDS_MAX, every_seconds=0.1)

    def _entries(self, buyer: Buyer) -> int:
        return int(self.store.xlen(script.name(shard_of(buyer.organization.pk), script.JOURNAL)))

    def held(self, buyer: Buyer) -> dict[str, int]:
        """What is left of holds: the calls themselves, slots, and amounts that some counter still holds."""
        shard, number = shard_of(buyer.organization.pk), buyer.organization.pk
        left = {"holds": self.store.hlen(script.name(shard, script.HOLDS))}
        for name in self._names(shard, f"z:{number}:*"):
            left[name] = self.store.zcard(name)
        for name in [*self._names(shard, f"w:{number}:*"), *self._names(shard, f"a:{number}")]:
            fields = {name.decode(): int(held) for name, held in self.store.hgetall(name).items()}
            left |= {f"{name} {field}": held for field, held in fields.items() if field == "held" or field[-2:] == ".h"}
        return {name: amount for name, amount in left.items() if amount}

    def _names(self, shard: int, pattern: str) -> list[str]:
        return [name.decode() for name in self.store.scan_iter(script.name(shard, pattern).replace("{", "[{]"))]

    def differences(self) -> list[str]:
        return [str(found) for found in reconcile(self.store)]


@contextmanager
def house(store: redis.Redis, folder: Path) -> Iterator[House]:
    """Everything on the stores that the environment and the settings name."""
    with demo_engine() as inference, journal(folder), proxy_workers(WORKERS, folder) as port:
        yield House(Shop(inference, store), port)
