"""Who is calling: from a presented secret to a Caller, on every call. Async; no ORM.

Memory, else the records in Redis, else one row of PostgreSQL. What memory holds may be old: reserve compares versions
and says so, and then the worker reloads. So memory may serve, but must never refuse: see `admit`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import psycopg
import redis
from django.conf import settings
from psycopg_pool import AsyncConnectionPool

from keys import records, tokens
from keys.caller import Caller, KeyReason, check_static

CALLERS_MAX = 20_000
UNKNOWN_MAX = 20_000
UNKNOWN_SECONDS = 5.0
ROW_LOOKUPS_MAX = 16
WAITING_MAX = 1_000
LOOKUP_SECONDS_MAX = 3.0
DIGEST_SECONDS = 86_400

_ROW_BY_DIGEST = "k.digest = ANY(%s)"
_ROW_BY_ID = "k.id = %s AND k.public_id = %s"

T = TypeVar("T")
Gate = Callable[[bytes], None]


class BrandFacts(Protocol):
    """What find reads of a brand; billing.snapshot.BrandRecord has it."""

    @property
    def id(self) -> int: ...
    @property
    def key_prefix(self) -> str: ...
    @property
    def legacy_key_patterns(self) -> tuple[str, ...]: ...


class KeyRefused(Exception):
    def __init__(self, reason: KeyReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class DirectoryUnavailable(Exception):
    """Redis or PostgreSQL could not be asked, or too many are asking. The caller may try again."""


class Directory:
    """One per event loop. `redis`: an asyncio client (single or cluster) that answers in bytes. `pool`: of connections
    to the database that Django's models live in."""

    check_static = staticmethod(check_static)

    def __init__(
        self,
        redis: Any,
        pool: AsyncConnectionPool[Any],
        *,
        peppers: Mapping[int, bytes] | None = None,
        callers_max: int = CALLERS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        chosen: Mapping[int, bytes] = settings.KEY_PEPPERS if peppers is None else peppers
        self._peppers = [chosen[version] for version in sorted(chosen, reverse=True)]
        self._redis = redis
        self._pool = pool
        self._callers_max = callers_max
        self._clock = clock
        self._memory_key = os.urandom(32)
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._names: dict[int, bytes] = {}
        self._unknown: dict[tuple[bytes, bool], float] = {}
        self._running: dict[tuple[bytes, bool], asyncio.Task[Caller]] = {}
        self._row_lookups = asyncio.Semaphore(ROW_LOOKUPS_MAX)

    async def find(self, secret: str, *brands: BrandFacts, gate: Gate | None = None) -> Caller:
        """The Caller behind `secret` in one of `brands` (one, when the brand is known from host or path). KeyRefused
        when there is none; DirectoryUnavailable when nobody can say. Any text may be asked. A caller found may be
        revoked, expired or suspended: `admit` judges that. `gate` is asked before a look-up begins, with what stands
        for the secret; what it raises passes through."""
        if len(secret) > tokens.LEGACY_LENGTH_MAX:
            raise KeyRefused(KeyReason.INVALID_KEY)
        remembered = self._name_in_memory(secret)
        caller = self._callers.get(remembered)
        if caller is None:
            caller = await self._find_elsewhere(secret, remembered, brands, gate)
        else:
            self._callers.move_to_end(remembered)
        if not any(brand.id == caller.organization.brand_id for brand in brands):
            raise KeyRefused(KeyReason.INVALID_KEY)
        return caller

    async def reload(self, caller: Caller) -> Caller:
        """The same key as Redis knows it now (as its row says, when Redis does not know it). Never from memory."""
        organization_id, key_id = caller.organization.id, caller.key_id
        standing = await self._asked(self._standing(organization_id, key_id))
        if standing is None or standing.caller.key_public_id != caller.key_public_id:
            standing = await self._asked(self._from_row(_ROW_BY_ID, (key_id, caller.key_public_id)))
        if standing is None:
            self._forget(key_id)
            raise KeyRefused(KeyReason.INVALID_KEY)
        remembered = self._names.get(key_id)
        if remembered is not None:
            self._callers[remembered] = standing.caller
        return standing.caller

    async def admit(
        self, caller: Caller, now_ms: int, address: str | None, *, scope: str | None = None, model: str | None = None
    ) -> Caller:
        """`caller`, when its record lets it make this call, else KeyRefused. A refusal is never given from memory: the
        record is reloaded first, so that a resumed organization or a widened key calls at once."""
        if check_static(caller, now_ms, address, scope=scope, model=model) is None:
            return caller
        fresh = await self.reload(caller)
        reason = check_static(fresh, now_ms, address, scope=scope, model=model)
        if reason is not None:
            raise KeyRefused(reason)
        return fresh

    def _name_in_memory(self, secret: str) -> bytes:
        """By what memory knows a key: no secret stays in it. Under a key of this process' own, so that the quicker
        BLAKE2 will do: HMAC-SHA-256 takes three times as long."""
        text = secret.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._memory_key, digest_size=32).digest()

    async def _find_elsewhere(
        self, secret: str, remembered: bytes, brands: Sequence[BrandFacts], gate: Gate | None
    ) -> Caller:
        own = any(tokens.is_own(secret, brand.key_prefix) for brand in brands)
        legacy = any(tokens.legacy_formed(secret, brand.legacy_key_patterns) for brand in brands)
        if not own and not legacy:
            raise KeyRefused(KeyReason.INVALID_KEY)
        asked = (tokens.digest(secret, self._peppers[0]), legacy)
        if self._unknown.get(asked, 0.0) > self._clock():
            raise KeyRefused(KeyReason.INVALID_KEY)
        running = self._running.get(asked)
        if running is None:
            if gate is not None:
                gate(remembered)
            if len(self._running) >= WAITING_MAX:
                raise DirectoryUnavailable("too many unknown keys are being looked up")
            stored = [tokens.digest(secret, pepper) for pepper in self._peppers]
            if legacy:
                stored.append(tokens.legacy_digest(secret))
            running = asyncio.create_task(self._asked(self._look_up(asked, remembered, stored)))
            self._running[asked] = running
            running.add_done_callback(lambda task: self._looked_up(asked, task))
        # A waiter that is cancelled must not take the look-up away from the others.
        return await asyncio.shield(running)

    def _looked_up(self, asked: tuple[bytes, bool], task: asyncio.Task[Caller]) -> None:
        del self._running[asked]
        if not task.cancelled():
            task.exception()  # seen here: the waiters may all have been cancelled

    async def _look_up(self, asked: tuple[bytes, bool], remembered: bytes, stored: list[bytes]) -> Caller:
        name = records.digest_name(asked[0])
        ids = await self._redis.get(name)
        standing = None
        if ids is not None:
            organization_id, _, key_id = ids.partition(b":")
            standing = await self._standing(int(organization_id), int(key_id))
            if standing is not None and standing.digest not in stored:
                standing = None  # ids of a database that was restored since: the row decides
        if standing is None:
            standing = await self._from_row(_ROW_BY_DIGEST, (stored,))
            if standing is None:
                self._remember_unknown(asked)
                raise KeyRefused(KeyReason.INVALID_KEY)
            caller = standing.caller
            await self._redis.set(name, f"{caller.organization.id}:{caller.key_id}", ex=DIGEST_SECONDS)
        self._remember(remembered, standing.caller)
        return standing.caller

    async def _standing(self, organization_id: int, key_id: int) -> records.Standing | None:
        return await self._offered(organization_id, key_id, ["", "", "", ""])

    async def _from_row(self, condition: str, values: tuple[Any, ...]) -> records.Standing | None:
        """The row's records, offered to Redis; what stands there afterwards may be newer, and counts."""
        async with self._row_lookups, self._pool.connection(LOOKUP_SECONDS_MAX) as connection:
            cursor = await connection.execute(records.pair_sql(condition), values, prepare=False)
            row = await cursor.fetchone()
        if row is None:
            return None
        key_id, key_version, key_data, organization_id, organization_version, organization_data = row
        offer = [key_version, key_data, organization_version, organization_data]
        standing = await self._offered(organization_id, key_id, offer)
        if standing is None:
            raise DirectoryUnavailable(f"the record of key {key_id} in Redis is newer than this release can read")
        return standing

    async def _offered(self, organization_id: int, key_id: int, offer: list[Any]) -> records.Standing | None:
        names = records.key_name(organization_id, key_id), records.organization_name(organization_id)
        return records.read_pair(await self._redis.execute_command("EVAL", records.OFFER, 2, *names, *offer))

    async def _asked(self, question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(LOOKUP_SECONDS_MAX):
                return await question
        except (redis.RedisError, psycopg.Error, OSError, TimeoutError) as error:
            raise DirectoryUnavailable(str(error) or type(error).__name__) from error

    def _remember(self, remembered: bytes, caller: Caller) -> None:
        self._callers[remembered] = caller
        self._names[caller.key_id] = remembered
        if len(self._callers) > self._callers_max:
            _, oldest = self._callers.popitem(last=False)
            self._names.pop(oldest.key_id, None)

    def _forget(self, key_id: int) -> None:
        remembered = self._names.pop(key_id, None)
        if remembered is not None:
            self._callers.pop(remembered, None)

    def _remember_unknown(self, asked: tuple[bytes, bool]) -> None:
        if len(self._unknown) >= UNKNOWN_MAX:
            del self._unknown[next(iter(self._unknown))]  # the oldest: dicts keep the order of insertion
        self._unknown.pop(asked, None)
        self._unknown[asked] = self._clock() + UNKNOWN_SECONDS
