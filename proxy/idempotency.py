"""Answers to give again: whole calls that carried an Idempotency-Key, sealed, for a day. Owns `{sN}:idem:…` in Redis.

A record belongs to organization, key value, endpoint and body; the same key with another body is another call. While a
call runs its name is taken, so that a second one is told to wait instead of being paid twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, NamedTuple

import orjson
from redis.exceptions import RedisError

from billing.counters import StoreUnavailable
from keys.caller import Caller
from keys.sealing import SealBroken, open_text, seal_text
from proxy.fields import invalid
from proxy.refusals import Reason, decline

ANSWER_BYTES_MAX = 256 * 1024
KEPT_SECONDS = 24 * 3600
RUNNING_SECONDS = 90
"""How long a name is taken for a call whose worker has died; a living one renews it."""
RENEW_SECONDS = 30.0
KEY_BYTES_MAX = 255
SECONDS_MAX = 2.0
_RUNNING = b"running:"

# KEYS[1]: the record's name. ARGV[1]: who runs it. Deletes the mark if it is still this call's.
_FORGET = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Replay(NamedTuple):
    """An answer to give again: the id it was given under, its body without what it cost, and that. The cost is None
    in records of gateways that did not keep it."""

    call_id: str
    body: bytes
    cost_nanos: int | None


class Idempotency:
    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._running: dict[str, str] = {}
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._renew_forever(), name="proxy: idempotency")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def begin(self, name: str, call_id: str) -> Replay | None:
        """None: this call may run, and nobody else under `name` until it is finished or forgotten."""
        mark = _RUNNING + call_id.encode()
        try:
            async with asyncio.timeout(SECONDS_MAX):
                if await self._redis.set(name, mark, nx=True, ex=RUNNING_SECONDS):
                    self._running[name] = call_id
                    return None
                found = await self._redis.get(name)
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "Redis does not answer") from error
        if found is None or found.startswith(_RUNNING):
            raise decline(Reason.IDEMPOTENT_CALL_RUNNING)
        try:
            kept = orjson.loads(open_text(found.decode()))
            return Replay(kept["id"], kept["body"].encode(), kept.get("cost_nanos"))
        except (SealBroken, KeyError, ValueError) as error:
            raise StoreUnavailable("the record of this Idempotency-Key cannot be read") from error

    async def finish(self, name: str, answer: Replay) -> None:
        """Keep the answer. What is too large to keep, or cannot be, is forgotten: a retry runs again."""
        if len(answer.body) > ANSWER_BYTES_MAX:
            await self.forget(name, answer.call_id)
            return
        self._running.pop(name, None)
        kept = {"id": answer.call_id, "body": answer.body.decode(), "cost_nanos": answer.cost_nanos}
        sealed = seal_text(orjson.dumps(kept).decode())
        await self._quietly(self._redis.set(name, sealed, ex=KEPT_SECONDS))

    async def forget(self, name: str, call_id: str) -> None:
        self._running.pop(name, None)
        await self._quietly(self._redis.eval(_FORGET, 1, name, _RUNNING + call_id.encode()))

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for name in list(self._running):
                await self._quietly(self._redis.expire(name, RUNNING_SECONDS))

    async def _quietly(self, command: Any) -> None:
        """The call itself is settled: a record that is lost costs a retry its replay, not the answer."""
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await command
        except (RedisError, OSError, TimeoutError):
            return


def record_name(caller: Caller, key: bytes, endpoint: str, body: bytes) -> str:
    if not key or len(key) > KEY_BYTES_MAX:
        raise invalid("Idempotency-Key", f"expected 1 to {KEY_BYTES_MAX} characters")
    digest = hashlib.sha256(b"%d:%b:%b:" % (len(key), key, endpoint.encode()) + hashlib.sha256(body).digest())
    return f"{{s{caller.shard}}}:idem:{caller.organization.id}:{digest.hexdigest()}"
