"""The stage of admission's tests: one customer of one brand as records, published to the test's real Redis.

`Stage` needs no PostgreSQL: accounts are seeded from what a test says. Tests of seeding use the real one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import redis
import redis.asyncio

from billing import script
from billing.admission import Admission
from billing.call_ids import mint
from billing.counters import Counters
from billing.events import COUNTED_SQL
from billing.hold import Hold, Outcome
from billing.limits import Estimate
from billing.seeds import Snapshot as Seen
from billing.seeds import WantedCounter, seed_entry
from billing.snapshot import BrandRecord, LimitRecord, ModelRecord, RateRecord, Snapshot, TierRecord
from billing.usage import Usage
from billing.wal import Wal
from keys.caller import Caller, OrganizationRecord

EPOCH = 1_000
"""Of long ago: every window of the test began under it."""
RATE = RateRecord(id=1, from_ms=0, input_picos=200_000, output_picos=400_000)
ONE_NANO_EACH = RateRecord(id=2, from_ms=0, input_picos=0, output_picos=1_000, is_free=True)
_numbers = itertools.count(1)


def call_id() -> str:
    return mint(int(time.time() * 1000), os.urandom(10))


def limit(unit: str, window: str, amount: int, scope: str = "organization", **fields: Any) -> LimitRecord:
    return LimitRecord(unit=unit, window=window, scope=scope, amount=amount, **fields)


def model(rate: RateRecord = RATE, **fields: Any) -> ModelRecord:
    values = {"id": 7, "slug": "m", "context_length": 8192, "max_completion_tokens": 4096, "rates": (rate,), **fields}
    return ModelRecord(**values)


def snapshot(
    *limits: LimitRecord, payer: str = "prepaid", rate: RateRecord = RATE, zone: str = "UTC", version: int = 3
) -> Snapshot:
    tier = TierRecord(id=5, rank=1, slug="t", name="T", payer=payer, limits=limits)
    brand = BrandRecord(id=2, slug="b", name="B", timezone=zone)
    return Snapshot(version=version, brand=brand, models=(model(rate),), tiers=(tier,))


def caller(organization_id: int | None = None, key_id: int = 11, **fields: Any) -> Caller:
    number = next(_numbers) + 100 if organization_id is None else organization_id
    organization = OrganizationRecord(number, f"org_{number}", f"o{number}", 2, "active", 5, version=4)
    values: dict[str, Any] = {
        "key_id": key_id,
        "key_public_id": f"key_{key_id}",
        "key_hint": "ak-…abcd",
        "key_version": 6,
        "scopes": frozenset({"chat"}),
        "models": None,
        "networks": (),
        "limits": (),
        "expires_at_ms": None,
        "revoked": False,
        "organization": organization,
    }
    return Caller(**{**values, **fields})


def anchored(who: Caller, month_anchor: int) -> Caller:
    """Its months begin on that day."""
    return replace(who, organization=replace(who.organization, month_anchor=month_anchor))


def open_epoch(client: Any, counter: int = EPOCH, shards: Iterable[int] = range(64)) -> None:
    run_id = client.info("server")["run_id"]
    client.mset({script.name(shard, script.EPOCH): f"{counter}:{run_id}" for shard in shards})


def publish(client: Any, who: Caller, what: Snapshot) -> None:
    client.hset(script.name(who.shard, f"key:{who.key_id}"), "v", who.key_version)
    client.hset(script.name(who.shard, f"org:{who.organization.id}"), "v", who.organization.version)
    client.hset(script.name(who.shard, "policy"), str(what.brand.id), what.version)


class Sources:
    """Directory and catalogue in one: what a reload brings."""

    def __init__(self, who: Caller, what: Snapshot) -> None:
        self.caller, self.snapshot = who, what
        self.reloads: list[str] = []

    def recheck(self, who: Caller, what: Snapshot) -> ModelRecord:
        return what.models[0]

    @property
    def directory(self) -> Any:
        return _Reloads(lambda caller: self._noted("caller", self.caller))

    @property
    def catalogue(self) -> Any:
        return _Reloads(lambda brand_id: self._noted("snapshot", self.snapshot))

    def _noted(self, name: str, value: Any) -> Any:
        self.reloads.append(name)
        return value


class _Reloads:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def reload(self, subject: Any) -> Any:
        await asyncio.sleep(0)
        return self._answer(subject)


class GivenSeeds:
    """Every account has `balance` and nothing posted."""

    def __init__(self, counters: Counters, balance: int) -> None:
        self._counters = counters
        self.balance = balance
        self.seeded = 0

    async def seed(self, organization_id: int, wanted: Iterable[WantedCounter]) -> None:
        counters = frozenset(wanted)
        nought = {(counter.window_id, counter.scope): ("0",) * len(COUNTED_SQL) for counter in counters}
        seen = Seen(self.balance, 0, "0-0", nought)
        epoch = self._counters.epochs[organization_id % 64]
        await self._counters.submit(seed_entry(organization_id, epoch, seen, counters))
        self.seeded += 1


class Stage:
    """`async with Stage(...)`: a caller, a snapshot, published, with admission before them."""

    def __init__(
        self,
        sync: Any,
        folder: Any,
        url: str,
        *limits: LimitRecord,
        balance: int = 10**12,
        connect: Any = redis.asyncio.Redis.from_url,
        month_anchor: int = 1,
        **fields: Any,
    ) -> None:
        self.sync, self.folder, self.url, self.balance = sync, folder, url, balance
        self.journal: Any = None
        self.pool: Any = None
        self.connect = connect
        self.caller, self.snapshot = anchored(caller(), month_anchor), snapshot(*limits, **fields)
        self.model = self.snapshot.models[0]
        self.sources = Sources(self.caller, self.snapshot)

    async def __aenter__(self) -> Stage:
        if not isinstance(self.sync, redis.RedisCluster):
            open_epoch(self.sync)
        publish(self.sync, self.caller, self.snapshot)
        self.client = self.connect(self.url)
        self.counters = Counters(self.client)
        self.wal = Wal(self.folder)
        self.wal.is_leased = True  # as its assertion does
        self.seeds = GivenSeeds(self.counters, self.balance)
        self.admission = Admission(
            self.counters,
            self.wal,
            self.sources.catalogue,
            self.sources.directory,
            self.seeds,  # type: ignore[arg-type]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.admission.drain(5)
        await self.counters.close()
        await self.client.aclose()
        self.wal.close()

    async def reserve(self, prompt: int = 100, wanted: int = 1000, **fields: Any) -> Hold:
        given = {"call_id": call_id(), "caller": self.caller, "snapshot": self.snapshot, "model": self.model, **fields}
        estimate = given.pop("estimate", None) or Estimate(prompt_tokens_max=prompt, output_tokens_wanted=wanted)
        return await self.admission.reserve(estimate=estimate, recheck=self.sources.recheck, **given)

    async def settle(self, hold: Hold, input: int = 90, output: int = 50, **fields: Any) -> Any:
        if not hold.is_dispatched:
            await self.admission.dispatched(hold, 1)
        usage = fields.pop("usage", None) or Usage(input=input, output=output)
        given = {"usage": usage, "usage_source": "final", "end_reason": "stop", **fields}
        return await self.admission.settle(hold, Outcome(**given))

    def counted(self, window: str = "d", scope: str = "o") -> dict[str, int]:
        """Posted and held of one window and scope: {"tok.p": 140, …}."""
        prefix = script.name(self.caller.shard, f"w:{self.caller.organization.id}:{window}")
        found: dict[str, int] = {}
        for name in self.sync.scan_iter(prefix.replace("{", "[{]") + "*"):
            for field, value in self.sync.hgetall(name).items():
                place, _, rest = field.decode().partition(".")
                if place == scope and rest:
                    found[rest] = found.get(rest, 0) + int(value)
        return found

    def account(self) -> dict[str, int]:
        name = script.name(self.caller.shard, f"a:{self.caller.organization.id}")
        return {field.decode(): int(value) for field, value in self.sync.hgetall(name).items()}

    def entries(self) -> list[dict[str, str]]:
        """The shard's journal."""
        rows = self.sync.xrange(script.name(self.caller.shard, script.JOURNAL))
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in rows]

    def nothing_is_held(self) -> bool:
        shard = self.caller.shard
        names = (script.HOLDS, script.LEASES, f"z:{self.caller.organization.id}:o")
        left = [name for name in names if self.sync.exists(script.name(shard, name))]
        held = [self.account().get("held", 0), *(v for k, v in self.counted().items() if k.endswith(".h"))]
        return not left and not any(held)


def with_version(who: Caller, version: int) -> Caller:
    return replace(who, key_version=version)


def with_policy(what: Snapshot, version: int, **fields: Any) -> Snapshot:
    return msgspec.structs.replace(what, version=version, **fields)


def with_limits(tier: TierRecord, *more: LimitRecord) -> TierRecord:
    return msgspec.structs.replace(tier, limits=(*tier.limits, *more))
