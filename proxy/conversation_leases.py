"""Who uses a conversation now, and who waits for it: one at a time, in the order of arrival, over all workers. Owns
`{sN}:talk:…` in Redis.

Each user draws a ticket, and the lowest one has the conversation. A ticket has a lease: whoever uses or waits renews
it, so that the place of a worker that died is free again soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from billing.counters import StoreUnavailable
from proxy.refusals import Reason, decline

log = logging.getLogger(__name__)

WAIT_SECONDS_MAX = 30.0
USING_MS = 10_000
"""How long a conversation is taken for a worker that has died; a living one renews it."""
WAITING_MS = 3_000
RENEW_SECONDS = 2.5
PAUSE_SECONDS_MIN = 0.01
PAUSE_SECONDS_MAX = 0.2
USERS_MAX = 64
"""Of one conversation, the one that has it included."""
WAITERS_MAX = 256
"""Of one worker: each keeps its request in memory."""
SECONDS_MAX = 2.0
_LOST, _FULL = -1, -2

# KEYS[1]: a hash, user -> "<ticket> <until ms>". ARGV: user, the lease in ms of who has it, and of who waits, the most
# users there may be (0: no new ones). Replies how many have lower tickets: 0 is to have it. -1: no ticket; -2: full.
_ENTER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local users = redis.call('HGETALL', KEYS[1])
local tickets, mine, last = {}, nil, 0
for n = 1, #users, 2 do
  local ticket, till = string.match(users[n + 1], '^(%d+) (%d+)$')
  ticket = tonumber(ticket)
  if users[n] == ARGV[1] then
    mine = ticket
  elseif tonumber(till) <= now then
    redis.call('HDEL', KEYS[1], users[n])
  else
    tickets[#tickets + 1] = ticket
  end
  last = math.max(last, ticket)
end
if not mine then
  if ARGV[4] == '0' then
    return -1
  elseif #tickets >= tonumber(ARGV[4]) then
    return -2
  end
  mine = last + 1
end
local ahead = 0
for _, ticket in ipairs(tickets) do
  if ticket < mine then
    ahead = ahead + 1
  end
end
local lease = ahead == 0 and ARGV[2] or ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', mine, now + lease))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return ahead
"""

Pause = Callable[[asyncio.Event, float], Awaitable[None]]


class Leases:
    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._using: dict[tuple[str, str], None] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._waiters = 0
        self._leaving: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._renew_forever(), name="proxy: conversations")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, *self._leaving, return_exceptions=True)

    async def enter(self, name: str, user: str, pause: Pause) -> None:
        """`user` has the conversation when this returns, until it leaves. Declined(SESSION_BUSY) after a wait of
        WAIT_SECONDS_MAX, or at once where too many wait. `pause(freed, seconds)` passes the time in between, and raises
        what ends the wait. Whoever did not get in has left."""
        try:
            ahead = await self._ask(name, user, USERS_MAX)
            if ahead:
                await self._wait(name, user, ahead, pause)
        except BaseException:
            self.leave_soon(name, user)
            raise
        self._using[name, user] = None

    async def leave(self, name: str, user: str) -> None:
        """Quietly: a ticket that stays where Redis is away ends by itself."""
        self._using.pop((name, user), None)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await self._redis.hdel(name, user)
        except (RedisError, OSError, TimeoutError):
            return
        for freed in self._waiting.get(name, ()):
            freed.set()

    async def _wait(self, name: str, user: str, ahead: int, pause: Pause) -> None:
        if ahead == _FULL or self._waiters >= WAITERS_MAX:
            raise decline(Reason.SESSION_BUSY)
        clock = asyncio.get_running_loop().time
        until = clock() + WAIT_SECONDS_MAX
        seconds = PAUSE_SECONDS_MIN
        freed = asyncio.Event()
        self._waiting.setdefault(name, set()).add(freed)
        self._waiters += 1
        try:
            while ahead:
                if clock() >= until:
                    raise decline(Reason.SESSION_BUSY)
                await pause(freed, seconds)
                freed.clear()
                seconds = min(PAUSE_SECONDS_MAX, seconds * 1.5)
                ahead = await self._ask(name, user, USERS_MAX)
        finally:
            self._waiters -= 1
            self._waiting[name].discard(freed)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _ask(self, name: str, user: str, users_max: int) -> int:
        try:
            async with asyncio.timeout(SECONDS_MAX):
                return int(await self._redis.eval(_ENTER, 1, name, user, USING_MS, WAITING_MS, users_max))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "Redis does not answer") from error

    def leave_soon(self, name: str, user: str) -> None:
        task = asyncio.get_running_loop().create_task(self.leave(name, user))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for name, user in list(self._using):
                await self._renew(name, user)

    async def _renew(self, name: str, user: str) -> None:
        """A lease that was lost (Redis lost its memory, this worker stood still) ends no call: what two would write is
        told apart where it is written."""
        try:
            if await self._ask(name, user, 0) == _LOST:
                self._using.pop((name, user), None)
                log.warning("the lease of a conversation was lost under call %s", user)
        except StoreUnavailable:
            return
