"""Rows → the Snapshot of a brand, published through Redis, that workers hold. No PostgreSQL on a call's way.

`render` is what keys.publication calls after a change of subject "brand". `Catalogue` is a worker's copy: it loads a
snapshot once, reloads it when a script answers STALE, and keeps the list of brands at most a second old.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.db import connection
from django.db.models import Prefetch, Q
from redis.exceptions import RedisError

from billing.models import Engine, Model, ModelEngine, Rate, Tier, TierLimit
from billing.snapshot import (
    BrandRecord,
    Capabilities,
    EngineRecord,
    LimitRecord,
    ModelRecord,
    RateRecord,
    Route,
    Snapshot,
    TierRecord,
)
from keys import publication, records
from keys.models import Brand

log = logging.getLogger(__name__)

BRANDS_AGE_SECONDS_MAX = 1.0
ASKED_SECONDS_MIN = 0.2
"""An unknown host makes a worker look again, but not more often than this: hosts cost a stranger nothing. Whoever asks
in between waits for the next look with the others, so nobody is told of a list older than the question."""
PAST_RATES_KEPT = timedelta(hours=1)
"""Clocks differ, and a call holds the rate it was reserved at; older prices are in the events."""

_snapshots = msgspec.json.Decoder(Snapshot)
_brand_lists = msgspec.json.Decoder(tuple[BrandRecord, ...])


class BrandUnknown(Exception):
    """No such brand."""


class SnapshotUnreadable(Exception):
    """What stands in Redis is no snapshot this release can read: damaged, or written by a newer one."""


def milliseconds(moment: datetime) -> int:
    """Unix milliseconds, rounded down, without a float in between."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def render(brand_id: int) -> tuple[int, bytes]:
    """The brand's version and its snapshot as JSON."""
    snapshot = build(brand_id)
    return snapshot.version, msgspec.json.encode(snapshot)


def build(brand_id: int) -> Snapshot:
    """The brand as committed now. The version is read first: rows may be newer than it, never older."""
    brand = Brand.objects.get(pk=brand_id)
    models = list(_models(brand))
    engines = {route.engine_id: route.engine for model in models for route in model.routes.all()}
    tiers = Tier.objects.filter(brand=brand).order_by("rank").prefetch_related("limits")
    return Snapshot(
        version=brand.version,
        brand=msgspec.convert(records.brand_values(brand), BrandRecord),
        models=tuple(map(_model_record, models)),
        tiers=tuple(map(_tier_record, tiers)),
        engines=tuple(engine_record(engines[engine_id]) for engine_id in sorted(engines)),
    )


def _models(brand: Brand) -> Any:
    recent = Q(effective_until=None) | Q(effective_until__gt=datetime.now(UTC) - PAST_RATES_KEPT)
    return (
        Model.objects.filter(brand=brand)
        .order_by("position", "slug")
        .prefetch_related(
            Prefetch("routes", ModelEngine.objects.select_related("engine").order_by("engine_id")),
            Prefetch("rates", Rate.objects.filter(recent).order_by("effective_from")),
        )
    )


def _model_record(model: Model) -> ModelRecord:
    created = model.created_at
    if model.released_on is not None:
        created = datetime(model.released_on.year, model.released_on.month, model.released_on.day, tzinfo=UTC)
    return ModelRecord(
        created=milliseconds(created) // 1000,
        aliases=tuple(model.aliases),
        features=tuple(model.features),
        extra_fields=tuple(model.extra_fields),
        routes=tuple(Route(engine_id=r.engine_id, name_there=r.name_there) for r in model.routes.all()),
        rates=tuple(map(_rate_record, model.rates.all())),
        **{name: getattr(model, name) for name in _MODEL_FIELDS},
    )


_MODEL_FIELDS = (
    *("id", "slug", "name", "description", "owned_by", "context_length", "default_max_tokens"),
    *(
        "max_completion_tokens",
        "modalities",
        "tokens_per_message",
        "tokens_per_call",
        "modality",
        "images_per_call_max",
    ),
    *("is_moderated", "is_reasoning", "state", "maintenance_message"),
    *("connect_ms", "first_byte_ms", "idle_ms", "total_ms"),
)


def _rate_record(rate: Rate) -> RateRecord:
    return RateRecord(
        from_ms=milliseconds(rate.effective_from),
        until_ms=None if rate.effective_until is None else milliseconds(rate.effective_until),
        **{name: getattr(rate, name) for name in _RATE_FIELDS},
    )


_RATE_FIELDS = (
    *("id", "organization_id", "input_picos", "output_picos", "cache_read_picos", "cache_write_picos"),
    *("reasoning_picos", "request_nanos", "image_nanos", "credits_per_request", "credits_per_1000_tokens", "is_free"),
)


def _tier_record(tier: Tier) -> TierRecord:
    return TierRecord(
        models=None if tier.model_slugs is None else tuple(tier.model_slugs),
        limits=tuple(map(limit_record, tier.limits.all())),
        is_sold=bool(tier.monthly_price_nanos),
        **{name: getattr(tier, name) for name in _TIER_FIELDS},
    )


_TIER_FIELDS = ("id", "rank", "slug", "name", "payer", "priority", "is_default", "is_listed")


def limit_record(limit: TierLimit) -> LimitRecord:
    return LimitRecord(
        **{
            name: getattr(limit, name)
            for name in ("unit", "window", "scope", "amount", "model_id", "is_allotment", "is_shadow")
        },
    )


def engine_record(engine: Engine) -> EngineRecord:
    """An engine as workers, and whoever asks it something, know it."""
    return EngineRecord(
        api_key=bytes(engine.api_key_sealed).decode("ascii") if engine.api_key_sealed else "",
        capabilities=msgspec.convert(engine.capabilities, Capabilities),
        **{name: getattr(engine, name) for name in _ENGINE_FIELDS},
    )


_ENGINE_FIELDS = ("id", "name", "kind", "base_url", "headers", "verify_tls", "max_in_flight", "weight", "state")


def publish_missing(brand_id: int | None = None) -> None:
    """Put brands into Redis again that it does not have (a new or emptied one). Blocking; for a thread of its own."""
    try:
        ids = Brand.objects.values_list("id", flat=True)
        for found in ids if brand_id is None else ids.filter(pk=brand_id):
            publication.apply(publication.BRAND, found)
    finally:
        if not connection.in_atomic_block:
            connection.close()


def _seen(look: asyncio.Task[None]) -> None:
    """Its failure is the waiters' to hear, and they may all have left."""
    if not look.cancelled():
        look.exception()


class Catalogue:
    """A worker's snapshots and brands, for one event loop. `redis` answers bytes and is closed by its owner."""

    def __init__(self, redis: Any, *, brands_age_seconds_max: float = BRANDS_AGE_SECONDS_MAX) -> None:
        self._redis = redis
        self._age_seconds = brands_age_seconds_max
        self._brands: tuple[BrandRecord, ...] = ()
        self._brands_version = b""
        self._asked_at = 0.0
        self._next_look: asyncio.Task[None] | None = None
        self._snapshots: dict[int, Snapshot] = {}
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loads: defaultdict[int, int] = defaultdict(int)
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the list of brands, and keep it fresh until `close`. A Redis that is away is waited for."""
        await self._try_refresh()
        self._refreshing = asyncio.create_task(self._keep_fresh(), name="catalogue: brands")

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
            self._refreshing = None

    def brands(self) -> tuple[BrandRecord, ...]:
        """All brands, at most about a second old. The same tuple until something changes, so an index may be kept."""
        return self._brands

    @property
    def knows_brands(self) -> bool:
        """Whether the list was ever read. Without it nothing can be said of hosts, paths and keys."""
        return bool(self._brands_version)

    async def refresh_brands(self) -> tuple[BrandRecord, ...]:
        """The list as it stands at some moment after this was called, for a host or slug that nobody knows yet. Looks
        are a fifth of a second apart. Raises RedisError."""
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look_in_turn(), name="catalogue: unknown brand")
            self._next_look.add_done_callback(_seen)
        await asyncio.shield(self._next_look)  # a waiter that leaves must not take the look away from the others
        return self._brands

    async def _look_in_turn(self) -> None:
        await asyncio.sleep(self._asked_at + ASKED_SECONDS_MIN - time.monotonic())
        self._next_look = None  # who asks from here on asks for a later look
        self._asked_at = time.monotonic()
        await self._load_brands()

    async def snapshot(self, brand_id: int) -> Snapshot:
        """The brand's snapshot as this worker knows it; loaded when it does not. Raises BrandUnknown,
        SnapshotUnreadable, RedisError."""
        known = self._snapshots.get(brand_id)
        return known if known is not None else await self.reload(brand_id)

    async def reload(self, brand_id: int) -> Snapshot:
        """The snapshot as it stands in Redis at some moment after this was called. Callers that ask while a load runs
        share the next one, never the running one: it may have read before the change they heard of."""
        lock = self._locks[brand_id]
        wanted = self._loads[brand_id] + 1 + lock.locked()
        async with lock:
            if self._loads[brand_id] < wanted:
                self._snapshots[brand_id] = await self._load(brand_id)
                self._loads[brand_id] += 1
            return self._snapshots[brand_id]

    async def current(self, brand_id: int) -> Snapshot:
        """The snapshot as it stands in Redis, for answers that no script compares versions for."""
        known = self._snapshots.get(brand_id)
        if known is not None:
            version = await self._redis.hget(records.brand_name(brand_id), "v")
            if version is not None and int(version) == known.version:
                return known
        return await self.reload(brand_id)

    async def _load(self, brand_id: int) -> Snapshot:
        data = await self._redis.hget(records.brand_name(brand_id), "data")
        if data is None:
            await asyncio.to_thread(publish_missing, brand_id)
            data = await self._redis.hget(records.brand_name(brand_id), "data")
        if data is None:
            self._snapshots.pop(brand_id, None)
            raise BrandUnknown(brand_id)
        try:
            return _snapshots.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SnapshotUnreadable(f"brand {brand_id}: {error}") from error

    async def _load_brands(self) -> None:
        version, data = await self._redis.hmget(records.BRANDS, "v", "data")
        if data is None:
            await asyncio.to_thread(publish_missing)
            version, data = await self._redis.hmget(records.BRANDS, "v", "data")
        if data is not None and version != self._brands_version:
            found = _brand_lists.decode(data)
            if found != self._brands:  # the list is numbered anew whenever any brand is published
                self._brands = found
            self._brands_version = version

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._age_seconds)
            await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self._load_brands()
        except (RedisError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("the list of brands stays as it was: %s", error)
