"""Refusals, failed calls and test calls, told to support, best effort. Owns `{sN}:refusals` in Redis, a capped stream.

A worker counts every refusal and keeps a row of the first ones of each organization (or address, before anybody is
known) and minute; once a second they leave for Redis, and the journal process moves them on (refusal_records.move).
Nothing waits for it and nothing depends on it: a flood loses rows, never calls.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from zlib import crc32

import orjson
from redis.exceptions import RedisError

from billing import script
from billing.events import Event, storable
from keys.caller import SHARDS, shard_of
from proxy.call import Call
from proxy.refusals import Problem, Reason

STREAM = "refusals"
STREAM_LENGTH_MAX = 2_000
ROWS_PER_MINUTE_MAX = 60
SUBJECTS_MAX = 10_000
ROWS_WAITING_MAX = 1_000
ROWS_PER_ENTRY = 50
WRITE_SECONDS = 1.0
SECONDS_MAX = 2.0
TRIAL = "trial "
"""Begins the reason of what no call was refused for: a limit on trial would have."""
USED_UP = "used up "
"""Begins the reason that is counted besides insufficient_quota, and names the limit (or the balance)."""
TEST = "test "
"""Begins the reason of what a test call was refused for."""


class RefusalLog:
    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._minute = 0
        self._noted: dict[int | str, int] = {}
        self._rows: dict[int, list[dict[str, Any]]] = {}
        self._waiting = 0
        self._tests: list[dict[str, Any]] = []
        self._counts: dict[tuple[int, int, int, str], int] = {}
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._writing = asyncio.get_running_loop().create_task(self._write_forever(), name="proxy: refusals")

    async def stop(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.write()

    def note(self, call: Call, problem: Problem) -> None:
        """One refusal or failed call. `problem.status` is what the client saw unless the head had left."""
        minute = call.started_ms // 60_000
        if minute != self._minute:
            self._minute = minute
            self._noted.clear()
        caller = call.known("caller")
        organization_id = 0 if caller is None else caller.organization.id
        brand_id = 0 if call.brand is None else call.brand.id
        reason = problem.reason.value if caller is None or not caller.is_test else f"{TEST}{problem.reason.value}"[:40]
        self._count((minute, brand_id, organization_id, reason))
        if problem.reason is Reason.INSUFFICIENT_QUOTA and problem.quota is not None:
            self._count((minute, brand_id, organization_id, f"{USED_UP}{problem.quota.name}"[:40]))
        subject: int | str = organization_id or call.address
        noted = self._noted.get(subject, 0)
        if noted >= ROWS_PER_MINUTE_MAX or self._waiting >= ROWS_WAITING_MAX or len(self._noted) >= SUBJECTS_MAX:
            return
        self._noted[subject] = noted + 1
        self._waiting += 1
        shard = shard_of(organization_id) if organization_id else crc32(call.address.encode()) % SHARDS
        self._rows.setdefault(shard, []).append(_row(call, problem, brand_id, organization_id))

    def note_test(self, event: Event, *, model: str, key_hint: str) -> None:
        """One test call that ran, which nothing else is told of."""
        if len(self._tests) < ROWS_WAITING_MAX:
            self._tests.append(_test_row(event, model, key_hint))

    def count_trial(self, call: Call, limit: str) -> None:
        """A call that passed, which `limit` would have refused were it not on trial."""
        brand_id = call.snapshot.brand.id
        self._count((call.started_ms // 60_000, brand_id, call.caller.organization.id, f"{TRIAL}{limit}"[:40]))

    def _count(self, key: tuple[int, int, int, str]) -> None:
        if key in self._counts or len(self._counts) < SUBJECTS_MAX:
            self._counts[key] = self._counts.get(key, 0) + 1

    async def write(self) -> None:
        """What was noted since, to Redis; dropped when that cannot be."""
        rows, self._rows, self._waiting = self._rows, {}, 0
        counts, self._counts = self._counts, {}
        tests, self._tests = self._tests, []
        try:
            async with asyncio.timeout(SECONDS_MAX):
                for shard, found in rows.items():
                    for start in range(0, len(found), ROWS_PER_ENTRY):
                        await self._add(shard, {"rows": orjson.dumps(found[start : start + ROWS_PER_ENTRY])})
                for start in range(0, len(tests), ROWS_PER_ENTRY):
                    part = tests[start : start + ROWS_PER_ENTRY]
                    await self._add(part[0]["organization_id"] % SHARDS, {"tests": orjson.dumps(part)})
                if counts:
                    told = [[*key, count] for key, count in counts.items()]
                    await self._add(self._minute % SHARDS, {"counts": orjson.dumps(told)})
        except (RedisError, OSError, TimeoutError):
            return

    async def _add(self, shard: int, fields: dict[str, bytes]) -> None:
        await self._redis.xadd(script.name(shard, STREAM), fields, maxlen=STREAM_LENGTH_MAX, approximate=True)

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()


def _row(call: Call, problem: Problem, brand_id: int, organization_id: int) -> dict[str, Any]:
    caller, engine, endpoint = call.known("caller"), call.known("engine"), call.known("endpoint")
    return {
        "call_id": call.id,
        "at_ms": int(time.time() * 1000),
        "brand_id": brand_id or None,
        "organization_id": organization_id or None,
        "key_id": None if caller is None else caller.key_id,
        "key_hint": "" if caller is None else caller.key_hint,
        "model": call.model_name[:120],
        "endpoint": "" if endpoint is None else endpoint.name,
        "status": problem.status,
        "reason": problem.reason.value,
        "limit": "" if problem.quota is None else problem.quota.name,
        "message": problem.message[:300],
        "engine_id": None if engine is None else engine.id,
        "engine_status": call.upstream_status or None,
        "address": call.address or None,
        "agent": call.agent,
    }


def _test_row(event: Event, model: str, key_hint: str) -> dict[str, Any]:
    event = storable(event)
    same = ("call_id", "brand_id", "organization_id", "key_id", "endpoint", "stream", "end_reason", "started_at_ms")
    tokens = ("uncached_input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens", "images")
    told = ("http_status", "first_token_ms", "duration_ms", "address", "agent", "settled_at_ms")
    row = {name: getattr(event, name) for name in (*same, *tokens, *told)}
    return row | {"model": model[:120], "key_hint": key_hint}
