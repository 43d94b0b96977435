"""Answers to give again: calls that carried an Idempotency-Key, sealed, for a day. Owns `{sN}:idem:…` in Redis.

A record belongs to organization, key value, endpoint and body; the same key with another body is another call. It says
whose it is and how far that call has come, `state:call id`, then what was sealed:

  running   nothing is charged, nor may be before its call has moved the record on; free after 90 s without a worker
  began     a stream's first bytes leave: what is delivered will be charged, so nobody else may run under the name
  pending   the answer, and the event of its charge, not surely posted yet: who gives the answer again posts it first
  settled   the same, and the charge is posted
  spent     charged, and there is no answer to give: a stream that was cut, or more than may be kept

Only the call that has a record moves it, in one step that looks whose it is. So of two calls under one name one at most
is charged, wherever a worker dies or sleeps (settling.py has the order; tests/chaos/test_charged_once.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

import orjson
from redis.exceptions import RedisError

from billing import script
from billing.counters import StoreUnavailable
from keys.caller import Caller
from keys.sealing import SealBroken, open_text, seal_text
from proxy.fields import invalid
from proxy.refusals import Reason, decline

ANSWER_BYTES_MAX = 256 * 1024
KEPT_SECONDS = 24 * 3600
RUNNING_SECONDS = 90
"""How long a name is taken for a call whose worker has died; a living one renews it."""
TICK_SECONDS = 5.0
TICKS_PER_RENEWAL = 6
KEY_BYTES_MAX = 255
SECONDS_MAX = 2.0
OWED_MAX = 200
"""Records that wait for a Redis that is away, per worker; what is more is not kept."""

RUNNING: Final = "running"
BEGAN: Final = "began"
PENDING: Final = "pending"
SETTLED: Final = "settled"
SPENT: Final = "spent"

# KEYS[1]: the record's name. ARGV: a call, its record ('' deletes it), seconds to keep it.
# 1: done. 0: the record is another call's, and stays.
_MOVE = """
local found = redis.call('GETRANGE', KEYS[1], 0, 63)
if found ~= '' and string.match(found, '^%l+:([^:]*)') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
return 1
"""
# KEYS[1]: the record's name. ARGV: how it begins, and a beginning of the same length that takes its place.
_MARK = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then redis.call('SETRANGE', KEYS[1], 0, ARGV[2]) end
return 1
"""


class Replay(NamedTuple):
    """An answer to give again: the id it was given under, its body (a whole one without its cost), its cost, and the
    event to be posted first, where it may not be posted yet."""

    call_id: str
    body: bytes
    cost_nanos: int
    event: bytes | None


class _Owed(NamedTuple):
    call_id: str
    record: str


class Idempotency:
    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._running: dict[str, str] = {}
        self._owed: dict[str, _Owed] = {}
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._ticking = asyncio.get_running_loop().create_task(self._tick_forever(), name="proxy: idempotency")

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        await self._pay()

    async def begin(self, name: str, call_id: str, shard: int) -> Replay | None:
        """None: this call may run, and nobody else under `name` until it has moved on or is forgotten. Declined;
        StoreUnavailable."""
        if await self._asked(self._redis.set(name, f"{RUNNING}:{call_id}", nx=True, ex=RUNNING_SECONDS)):
            self._running[name] = call_id
            return None
        found = await self._asked(self._redis.get(name))
        state, _, rest = (found or RUNNING.encode()).decode().partition(":")
        owner, _, sealed = rest.partition(":")
        if state in (PENDING, SETTLED):
            return _opened(owner, sealed, is_posted=state == SETTLED)
        holds = script.name(shard, script.HOLDS)
        if state == RUNNING or (state == BEGAN and await self._asked(self._redis.hexists(holds, owner))):
            raise decline(Reason.IDEMPOTENT_CALL_RUNNING)
        raise decline(Reason.IDEMPOTENT_CALL_SPENT, call=owner)

    async def began(self, name: str, call_id: str) -> bool:
        """Before a stream's first bytes leave. False: another call has the name. StoreUnavailable."""
        self._running.pop(name, None)
        return bool(await self._asked(self._move(name, call_id, f"{BEGAN}:{call_id}")))

    async def keep(self, name: str, answer: Replay) -> bool:
        """The answer, before its charge is posted. False: another call has the name, so this one may not be charged."""
        kept = {"body": answer.body.decode(), "cost_nanos": answer.cost_nanos, "event": (answer.event or b"").decode()}
        sealed = seal_text(orjson.dumps(kept).decode())
        return await self._settle(name, answer.call_id, f"{PENDING}:{answer.call_id}:{sealed}")

    async def spend(self, name: str, call_id: str) -> bool:
        """There will be a charge and no answer. False: as `keep`."""
        return await self._settle(name, call_id, f"{SPENT}:{call_id}")

    async def forget(self, name: str, call_id: str) -> None:
        """Nothing is charged: a retry runs again."""
        await self._settle(name, call_id, "")

    async def mark_settled(self, name: str, call_id: str) -> None:
        """The charge is posted. Where this is not heard, whoever gives the answer again posts it once more, in vain."""
        if name not in self._owed:
            try:
                await self._asked(self._redis.eval(_MARK, 1, name, f"{PENDING}:{call_id}", f"{SETTLED}:{call_id}"))
            except StoreUnavailable:
                return

    async def _settle(self, name: str, call_id: str, record: str) -> bool:
        """Where Redis is away the call ends all the same, and its record follows."""
        self._running.pop(name, None)
        self._owed.pop(name, None)
        try:
            return bool(await self._asked(self._move(name, call_id, record)))
        except StoreUnavailable:
            if len(self._owed) < OWED_MAX:
                self._owed[name] = _Owed(call_id, record)
            return True

    def _move(self, name: str, call_id: str, record: str) -> Awaitable[Any]:
        moved: Awaitable[Any] = self._redis.eval(_MOVE, 1, name, call_id, record, KEPT_SECONDS)
        return moved

    async def _tick_forever(self) -> None:
        tick = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._pay()
            tick += 1
            if tick % TICKS_PER_RENEWAL == 0:
                await self._renew()

    async def _renew(self) -> None:
        for name in list(self._running):
            try:
                await self._asked(self._redis.expire(name, RUNNING_SECONDS))
            except StoreUnavailable:
                return

    async def _pay(self) -> None:
        for name, owed in list(self._owed.items()):
            try:
                await self._asked(self._move(name, owed.call_id, owed.record))
            except StoreUnavailable:
                return
            if self._owed.get(name) == owed:
                del self._owed[name]

    async def _asked(self, command: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "Redis does not answer") from error


def _opened(call_id: str, sealed: str, *, is_posted: bool) -> Replay:
    try:
        kept = orjson.loads(open_text(sealed))
        return Replay(call_id, kept["body"].encode(), kept["cost_nanos"], None if is_posted else kept["event"].encode())
    except (SealBroken, KeyError, ValueError) as error:
        raise StoreUnavailable("the record of this Idempotency-Key cannot be read") from error


def record_name(caller: Caller, key: bytes, endpoint: str, body: bytes) -> str:
    if not key or len(key) > KEY_BYTES_MAX:
        raise invalid("Idempotency-Key", f"expected 1 to {KEY_BYTES_MAX} characters")
    kind = b"test:" if caller.is_test else b""  # so that neither answers for the other
    digest = hashlib.sha256(kind + b"%d:%b:%b:" % (len(key), key, endpoint.encode()) + hashlib.sha256(body).digest())
    return f"{{s{caller.shard}}}:idem:{caller.organization.id}:{digest.hexdigest()}"
