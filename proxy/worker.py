"""What one proxy worker holds for its whole life, opened in order at start and closed in reverse at the end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from redis.exceptions import RedisError

from billing import crash, replay
from billing.admission import Admission
from billing.assertion import Assertion
from billing.catalogue import Catalogue
from billing.counters import Counters
from billing.remains import Told
from billing.seeds import Seeds
from billing.snapshot import BrandRecord
from billing.wal import Wal
from keys.connections import asyncio_client, redis_client
from keys.directory import Directory
from keys.sealing import open_text
from proxy.conversation_leases import Leases
from proxy.conversation_rows import Rows
from proxy.dispatch import Brands
from proxy.engine_slots import EngineSlots
from proxy.forwarding import Salts
from proxy.guard import Guard
from proxy.health import Prober
from proxy.heart import Heart
from proxy.idempotency import Idempotency
from proxy.large_answers import LargeAnswers
from proxy.leavers import Leavers
from proxy.metrics import Metrics
from proxy.refusal_log import RefusalLog
from proxy.room import Room
from proxy.routing import Routing
from proxy.sandbox.bench import bench_of
from proxy.strangers import Strangers
from proxy.upstream import Pool

log = logging.getLogger(__name__)

POSTGRESQL_CONNECTIONS_MAX = 8
RECONNECT_SECONDS_MAX = 2.0
"""The pool's pauses between two tries double until it gives up, and whoever asks next begins anew. At its default of
five minutes a worker was without PostgreSQL for as long again as PostgreSQL had been away."""
HEARTBEAT_SECONDS = 5.0
WORKER_LEASE_MS = 15_000
REPLAY_SECONDS = 60.0
"""Where a journal runs on the host it does this every few seconds, and leaves a worker next to nothing to read."""
WORKERS_NAME = "proxy:workers"
"""Sorted set in Redis: worker → when it counts as gone (Unix ms). What an engine's slots are divided by."""
_CONNECTION_OPTIONS = {"pool", "prepare_threshold", "server_side_binding", "isolation_level", "assume_role"}
DRAIN_SECONDS_MAX = 10.0
REST_SECONDS_MAX = 3.0


class Worker:
    """`async with Worker()`. Settings are read here and nowhere on a call's way."""

    def __init__(self) -> None:
        crash.arm(settings.CRASH_AT)
        self.redis = asyncio_client()
        self.postgresql = postgresql_pool(_conninfo())
        self.counters = Counters(self.redis)
        self.wal = Wal(settings.WAL_DIR)
        self.catalogue = Catalogue(self.redis)
        self.directory = Directory(self.redis, self.postgresql)
        self.admission = Admission(
            self.counters, self.wal, self.catalogue, self.directory, Seeds(self.counters, self.postgresql)
        )
        self.assertion = Assertion(
            self.counters,
            self.admission,
            self.wal,
            self.postgresql,
            bring_in=_bring_in,
            settle_again=_settle_again,
        )
        self.upstream = Pool(open_text)
        self.slots = EngineSlots()
        self.room = Room(settings.CALLS_MAX, settings.BODIES_MIB_MAX * 1024 * 1024)
        self.large_answers = LargeAnswers(settings.ANSWERS_MIB_MAX * 1024 * 1024)
        self.routing = Routing(self.slots)
        self.health = Prober(self.upstream, self.routing)
        self.heart = Heart()
        self.idempotency = Idempotency(self.redis)
        self.conversation_leases = Leases(self.redis)
        self.conversation_rows = Rows(self.postgresql)
        self.refusals = RefusalLog(self.redis)
        self.metrics = Metrics(settings.VAR_DIR / "metrics", self._gauges)
        self.salts = Salts(hmac.digest(settings.SECRET_KEY.encode(), b"proxy: cache salt", hashlib.sha256))
        self.trusted_proxies = tuple(settings.TRUSTED_PROXIES)
        self.metrics_token: str = settings.METRICS_TOKEN
        self.https: bool = settings.HTTPS
        self.strangers = Strangers()
        self.leavers = Leavers()
        self.guard = Guard(settings.REFUSALS_PER_MINUTE, settings.UNKNOWN_KEYS_PER_MINUTE)
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.live_workers = 1
        self.draining = False
        self._serving = 0
        self._at_rest = asyncio.Event()
        self._known: tuple[BrandRecord, ...] | None = None
        self._brands = self._indexed(())
        self._tasks: set[asyncio.Task[Any]] = set()
        self._heartbeat: asyncio.Task[None] | None = None
        self._replayer: asyncio.Task[None] | None = None
        self.bench = bench_of(self)

    async def __aenter__(self) -> Worker:
        await self.postgresql.open()
        await self.catalogue.start()
        self.admission.start()
        await self.assertion.start()
        self.heart.start()
        self.health.start()
        self.refusals.start()
        self.idempotency.start()
        self.conversation_leases.start()
        self.metrics.start()
        self._replayer = asyncio.get_running_loop().create_task(self._replay_forever(), name="proxy: replay")
        await self._beat()
        self._heartbeat = asyncio.get_running_loop().create_task(self._beat_forever(), name="proxy: worker lease")
        return self

    async def __aexit__(self, *_: object) -> None:
        """New calls are refused; what runs has ended or is cut by the server before this. Then everything owed is
        settled, and only then are stores let go."""
        self.draining = self.bench.draining = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._replayer is not None:
            self._replayer.cancel()
        await self._rest()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.heart.stop()
        await self.health.stop()
        await self.upstream.close()
        left = await self.admission.drain(DRAIN_SECONDS_MAX)
        if left:
            log.warning("%d settlements are left to the write-ahead log", left)
        await self.assertion.stop()
        await self.refusals.stop()
        await self.idempotency.stop()
        await self.conversation_leases.stop()
        await self.metrics.stop()
        await self._leave()
        await self.catalogue.close()
        await self.counters.close()
        await self.redis.aclose()
        await self.postgresql.close()
        self.wal.close()

    def began(self) -> None:
        """A request is being served; `ended` must follow."""
        self._serving += 1

    def ended(self) -> None:
        self._serving -= 1
        if self.draining and not self._serving:
            self._at_rest.set()

    async def _rest(self) -> None:
        """Requests that the server has cut are still saying their last words and settling."""
        if self._serving:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST_SECONDS_MAX):
                    await self._at_rest.wait()

    @property
    def brands(self) -> Brands:
        """The dispatch index, made anew when the published list of brands has changed."""
        published = self.catalogue.brands()
        if published is not self._known:
            self._brands, self._known = self._indexed(published), published
        return self._brands

    def own(self, work: Any) -> asyncio.Task[Any]:
        """Run `work` to its end whatever becomes of the request that began it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._owned)
        return task

    def _owned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an owned task failed", exc_info=task.exception())

    def _indexed(self, brands: tuple[BrandRecord, ...]) -> Brands:
        return Brands(brands, default_brand=settings.DEFAULT_BRAND, allowed_hosts=settings.ALLOWED_HOSTS)

    def _gauges(self) -> dict[str, Any]:
        return {
            "in_flight": {str(engine): calls for engine, calls in self.slots.in_flight().items()},
            "unreachable": self.routing.unreachable(),
            "healthy": {str(engine): list(health) for engine, health in self.routing.healths().items()},
            "calls": self.room.calls,
            "body_bytes": self.room.bytes,
            "running": self.admission.running,
            "wal_healthy": int(self.wal.healthy),
            "workers": self.live_workers,
        }

    async def _replay_forever(self) -> None:
        """Each turn to its end, whatever becomes of this worker: `own` waits for it."""
        while True:
            with contextlib.suppress(Exception):  # `own` tells of it
                await asyncio.shield(self.own(asyncio.to_thread(_replay, self.wal.folder)))
            await asyncio.sleep(REPLAY_SECONDS)

    async def _beat_forever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._beat()

    async def _beat(self) -> None:
        """Renew this worker's lease and count the living. A Redis that is away changes nothing."""
        now_ms = int(time.time() * 1000)
        try:
            await self.redis.zadd(WORKERS_NAME, {self.name: now_ms + WORKER_LEASE_MS})
            await self.redis.zremrangebyscore(WORKERS_NAME, "-inf", now_ms)
            self.live_workers = max(1, await self.redis.zcard(WORKERS_NAME))
        except (RedisError, OSError):
            return
        self.slots.set_workers(self.live_workers)

    async def _leave(self) -> None:
        try:
            await self.redis.zrem(WORKERS_NAME, self.name)
        except (RedisError, OSError):
            return


def _bring_in(folder: Path, tokens: Mapping[int, str]) -> int:
    try:
        return replay.bring_in(redis_client(), folder, tokens)
    finally:
        connection.close()


def _settle_again(calls: Mapping[str, Told]) -> dict[str, Told]:
    try:
        return replay.settle_again(redis_client(), calls)
    finally:
        connection.close()


def _replay(folder: Path) -> None:
    """When a worker starts and ever again: where no journal runs on this host, nobody else would charge dead workers'
    calls, nor let the full segments of living ones go."""
    try:
        replay.run(redis_client(), folder)
    except (RedisError, OSError, DatabaseError) as error:
        log.warning("dead workers' calls are left to whoever starts next: %s", error)
    finally:
        connection.close()


def postgresql_pool(conninfo: str) -> AsyncConnectionPool[Any]:
    """Not open yet."""
    return AsyncConnectionPool(
        conninfo,
        min_size=0,
        max_size=POSTGRESQL_CONNECTIONS_MAX,
        open=False,
        reconnect_timeout=RECONNECT_SECONDS_MAX,
        kwargs={"prepare_threshold": None, "autocommit": True},
    )


def _conninfo() -> str:
    """Django's default database for psycopg: PgBouncer in transaction mode must work, so nothing is prepared."""
    facts = settings.DATABASES["default"]
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    given = {names[name]: facts[name] for name in names if facts.get(name)}
    given |= {name: value for name, value in facts.get("OPTIONS", {}).items() if name not in _CONNECTION_OPTIONS}
    given["application_name"] = "gateway proxy"
    return make_conninfo(**given)
