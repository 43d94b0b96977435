"""Whether a test call may run, and what becomes of it: nothing in the books.

It is judged by what stands in Redis as every call is, so that a revoked key is refused at once, and by a limit of its
own. No counter, balance, write-ahead log or journal hears of it: it is told to the log of test calls, and that is all.

Owns `{sN}:test:…` in Redis: how many test calls a key and an organization made in a minute.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError

from billing.admission import Admission, Recheck, StoreUnavailable
from billing.events import Event
from billing.hold import Charge, Hold, Outcome, Reason, Refusal, Refused, Standing
from billing.limits import Estimate
from billing.snapshot import ModelRecord, RateRecord, Snapshot
from billing.templates import Template, Templates, needs_of
from billing.tiers import tier_of
from billing.usage import Usage
from keys.caller import Caller
from proxy.refusal_log import RefusalLog

KEY_CALLS_PER_MINUTE: Final = 60
ORGANIZATION_CALLS_PER_MINUTE: Final = 300
OUTPUT_TOKENS_MAX: Final = 2_048
"""Of all choices of one answer together: enough to try with, and next to no work."""
OUTPUT_TOKENS_LEAST: Final = 16
SECONDS_MAX: Final = 2.0
MINUTE_MS: Final = 60_000
FREE: Final = RateRecord(id=0, from_ms=0, input_picos=0, output_picos=0, is_free=True)

# KEYS: a key's and its organization's count of this minute. ARGV: the most of each. Which of the two is passed, or 0.
_COUNT = """
for n = 1, 2 do
  local used = redis.call('INCR', KEYS[n])
  if used == 1 then redis.call('EXPIRE', KEYS[n], 120) end
  if used > tonumber(ARGV[n]) then return n end
end
return 0
"""


class TestAdmission(Admission):
    """As Admission, of one worker's test calls."""

    __test__ = False

    def __init__(self, *parts: Any, redis: Any, log: RefusalLog) -> None:
        super().__init__(*parts)
        self._redis = redis
        self._log = log

    async def reserve(
        self,
        call_id: str,
        caller: Caller,
        snapshot: Snapshot,
        model: ModelRecord,
        estimate: Estimate,
        *,
        recheck: Recheck,
        stream: bool = False,
        started_at_ms: int | None = None,
        address: str | None = None,
    ) -> Hold:
        """A hold of nothing. `granted` is bounded; Refused past the limit of test calls; StoreUnavailable."""
        caller, snapshot = await self.check(caller, snapshot)
        model = recheck(caller, snapshot)
        now_ms = self._counters.now_ms()
        await self._count(caller, now_ms)
        template = template_of(caller, snapshot, model, now_ms)
        hold = Hold(
            call_id,
            template.snapshot.models_by_name[model.slug],
            template,
            estimate,
            stream=stream,
            started_at_ms=started_at_ms or now_ms,
            address=address,
        )
        hold.needs = needs_of(template, estimate)
        nothing = ["0"] * (2 * len(template.counters))
        hold.take(["OK", now_ms, 1, _granted(estimate), "0", "0", nothing])
        return hold

    async def standing(self, caller: Caller, snapshot: Snapshot) -> Standing:
        """Test calls stand beside every limit."""
        return Standing((), (), ())

    async def dispatched(self, hold: Hold, engine_id: int) -> None:
        hold.engine_id = engine_id
        hold.is_dispatched = True

    def progress(self, hold: Hold, usage: Usage, source: str = "running") -> None:
        hold.usage, hold.usage_source = usage, source

    async def post(self, hold: Hold, event: Event) -> Charge:
        self._log.note_test(event, model=hold.model.slug, key_hint=hold.caller.key_hint)
        return Charge(0, 0, event.flags)

    async def post_again(self, blob: bytes) -> None:
        """There is nothing to be charged."""

    async def void(self, hold: Hold, outcome: Outcome | None = None) -> None:
        if hold.charge is None and hold.is_dispatched:
            await self.settle(hold, outcome or Outcome(end_reason="upstream_error", billable=False))

    async def _count(self, caller: Caller, now_ms: int) -> None:
        minute, scope = now_ms // MINUTE_MS, caller.organization.id
        names = [f"{{s{caller.shard}}}:test:{name}:{minute}" for name in (f"k{caller.key_id}", f"o{scope}")]
        most = (KEY_CALLS_PER_MINUTE, ORGANIZATION_CALLS_PER_MINUTE)
        try:
            async with asyncio.timeout(SECONDS_MAX):
                passed = int(await self._redis.execute_command("EVAL", _COUNT, 2, *names, *most))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "Redis does not answer") from error
        if passed:
            raise Refused(_refusal(passed, most[passed - 1], (minute + 1) * MINUTE_MS))


def template_of(caller: Caller, snapshot: Snapshot, model: ModelRecord, now_ms: int) -> Template:
    """The model as it is sold, for nothing and without limits."""
    tier = msgspec.structs.replace(tier_of(snapshot, caller.organization), payer="included", limits=())
    free = msgspec.structs.replace(model, rates=(FREE,))
    organization = replace(caller.organization, tier_id=tier.id, overrides=(), is_further=False)
    without = msgspec.structs.replace(snapshot, models=(free,), tiers=(tier,))
    return Templates().of(replace(caller, limits=(), organization=organization), without, free, now_ms)


def _granted(estimate: Estimate) -> int:
    share = max(OUTPUT_TOKENS_LEAST, OUTPUT_TOKENS_MAX // max(1, estimate.choices))
    return min(estimate.output_tokens_wanted, share)


def _refusal(passed: int, most: int, resets_at_ms: int) -> Refusal:
    scope = "key" if passed == 1 else "organization"
    return Refusal(
        reason=Reason.RATE_LIMITED,
        name=f"test.{scope}.requests.minute",
        unit="requests",
        window="minute",
        scope=scope,
        limit=most,
        used=most,
        held=0,
        need=1,
        resets_at_ms=resets_at_ms,
        in_flight=False,
    )
