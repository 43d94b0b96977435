"""Whether a call may run, and what it cost: reserve → Hold or Refused; dispatched; progress; settle or void.

One Admission per proxy worker and event loop. What it owes to Redis outlives the request that caused it: settling and
voiding are owned here, repeated until Redis has answered, and waited for by `drain`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from billing import crash, events, facts, pricing, wal
from billing.counters import Counters, StoreUnavailable
from billing.events import Event
from billing.hold import Charge, Hold, LimitState, Outcome, Reason, Refusal, Refused, Standing, refusal_of, standing_of
from billing.limits import Estimate
from billing.script import Verdict
from billing.seeds import Seeds, SeedUnavailable
from billing.snapshot import ModelRecord, Snapshot
from billing.templates import ANY_MODEL, Template, Templates, needs_of
from billing.tiers import TierUnknown
from billing.usage import Usage
from billing.wal import Wal, WalUnavailable
from keys.caller import Caller, shard_of

__all__ = [
    "Admission",
    "Charge",
    "Estimate",
    "Hold",
    "LimitState",
    "Outcome",
    "Reason",
    "Refusal",
    "Refused",
    "Standing",
    "StoreUnavailable",
]

log = logging.getLogger(__name__)

LEASE_MS: Final = 60_000
RENEW_MS: Final = 20_000
NOT_AFTER_MS: Final = 10_000
PROGRESS_MS: Final = 250
ATTEMPTS_MAX: Final = 8
TICK_SECONDS: Final = 1.0
SETTLE_SECONDS_MAX: Final = 10.0
OVERTIME_MS: Final = 120_000
"""A call this far past its model's total deadline is renewed no more: its lease runs out and the sweeper settles it."""

Recheck = Callable[[Caller, Snapshot], ModelRecord]


class CallerSource(Protocol):
    """keys.directory.Directory."""

    async def reload(self, caller: Caller) -> Caller: ...


class SnapshotSource(Protocol):
    """billing.catalogue.Catalogue."""

    async def reload(self, brand_id: int) -> Snapshot: ...


class Admission:
    def __init__(
        self, counters: Counters, wal: Wal, catalogue: SnapshotSource, directory: CallerSource, seeds: Seeds
    ) -> None:
        self._counters = counters
        self._wal = wal
        self._catalogue = catalogue
        self._directory = directory
        self._seeds = seeds
        self._templates = Templates()
        self._running: dict[str, Hold] = {}
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Renew the leases of running calls until `drain`."""
        self._ticker = asyncio.get_running_loop().create_task(self._renew_forever(), name="admission: leases")

    @property
    def running(self) -> int:
        """Calls that hold something now."""
        return len(self._running)

    def holds(self) -> list[Hold]:
        return list(self._running.values())

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
        """Judge the call by every limit and by the balance, and hold its worst case.

        `recheck` judges statically again what had to be reloaded and returns the model; what it raises passes through,
        as does what the sources raise. Refused; StoreUnavailable (nothing is owed: answer 503).
        """
        if not self._wal.healthy and not self._wal.probe():
            raise StoreUnavailable("the WAL cannot be written")
        redis_ms: int | None = None
        for _ in range(ATTEMPTS_MAX):
            now_ms = redis_ms or self._counters.now_ms()
            try:
                template = self._template(caller, snapshot, model, now_ms)
            except TierUnknown:  # the organization's record is newer than the snapshot
                caller, snapshot, model = await self._reloaded("policy", caller, snapshot, recheck)
                continue
            hold = Hold(
                call_id,
                model,
                template,
                estimate,
                stream=stream,
                started_at_ms=started_at_ms or now_ms,
                address=address,
            )
            crash.at("before_reserve")
            verdict = await self._counters.submit(self._reserve_entry(hold, now_ms))
            word = verdict[0]
            if word == "OK":
                return self._held(hold, verdict)
            if word == "NO":
                raise Refused(refusal_of(template, verdict))
            redis_ms = verdict[1]
            if word == "STALE" and verdict[2] != "clock":
                caller, snapshot, model = await self._reloaded(verdict[2], caller, snapshot, recheck)
            elif word == "STALE":
                model = recheck(caller, snapshot)  # a key may have expired by the clock that was just learned
            else:
                await self._mended(template, verdict)
        raise StoreUnavailable("Redis and PostgreSQL do not come to agree")

    async def check(
        self, caller: Caller, snapshot: Snapshot, *, recheck: Recheck | None = None
    ) -> tuple[Caller, Snapshot]:
        """Caller and snapshot as they hold now, for calls that reserve nothing: the given ones, or reloaded."""
        for _ in range(ATTEMPTS_MAX):
            organization = caller.organization
            entry = (
                *("check", caller.shard, self._counters.epochs[caller.shard]),
                *(str(organization.id), str(caller.key_id), str(snapshot.brand.id)),
                *(str(caller.key_version), str(organization.version), str(snapshot.version)),
            )
            verdict = await self._counters.submit(entry)
            if verdict[0] == "OK":
                return caller, snapshot
            if verdict[0] == "STALE":
                caller, snapshot, _ = await self._reloaded(verdict[2], caller, snapshot, None)
            else:
                self._learn_epoch(caller.shard, verdict)
        raise StoreUnavailable("what this worker knows stays behind Redis")

    async def usage(self, caller: Caller, snapshot: Snapshot) -> tuple[LimitState, ...]:
        """The counters of a key's and its organization's windows as they stand, the balance last; holds nothing."""
        return (await self.standing(caller, snapshot)).every

    async def standing(self, caller: Caller, snapshot: Snapshot) -> Standing:
        """How a key and its organization stand with their limits; holds nothing."""
        redis_ms: int | None = None
        for _ in range(ATTEMPTS_MAX):
            try:
                template = self._template(caller, snapshot, ANY_MODEL, redis_ms or self._counters.now_ms())
            except TierUnknown:
                caller, snapshot, _ = await self._reloaded("policy", caller, snapshot, None)
                continue
            entry = ("look", caller.shard, self._counters.epochs[caller.shard], "", template.static)
            verdict = await self._counters.submit(entry)
            if verdict[0] == "OK":
                return standing_of(template, verdict)
            redis_ms = verdict[1]
            if verdict[0] == "STALE" and verdict[2] != "clock":
                caller, snapshot, _ = await self._reloaded(verdict[2], caller, snapshot, None)
            else:
                await self._mended(template, verdict)
        raise StoreUnavailable("Redis and PostgreSQL do not come to agree")

    async def dispatched(self, hold: Hold, engine_id: int) -> None:
        """Before the call is sent to an engine: its D line is written. StoreUnavailable: do not send, void."""
        hold.engine_id = engine_id
        if hold.is_dispatched:
            self._wal.note(wal.PROGRESS, hold.progress_line())  # another engine takes over before the first byte
            return
        hold.is_dispatched = True  # from here on, also for a caller that is cancelled while it waits: the line is there
        try:
            await self._wal.append(wal.DISPATCHED, hold.dispatched_line())
        except WalUnavailable as error:
            hold.is_dispatched = False
            raise StoreUnavailable(str(error)) from error
        crash.at("after_dispatched_line")

    def progress(self, hold: Hold, usage: Usage, source: str = "running") -> None:
        """The call's cumulative usage so far. Cheap enough for every chunk: a P line leaves at most every
        PROGRESS_MS, and the lease takes the latest with it. When the lease is found lapsed, `hold.lapsed` turns
        True: end the stream with an error."""
        hold.usage, hold.usage_source = usage, source
        now = self._counters.loop.time()
        if now >= hold.next_progress:
            if hold.next_progress:
                crash.at("mid_stream")
            hold.next_progress = now + PROGRESS_MS / 1000
            self._wal.note(wal.PROGRESS, hold.progress_line())

    async def settle(self, hold: Hold, outcome: Outcome) -> Charge:
        """Charge what was used. Returns once the S line is in the WAL; Redis follows, and is asked until it has
        answered. Where the WAL cannot be written it returns once Redis has it, and StoreUnavailable says that neither
        does: what is left to deliver stays. A second call returns the first one's charge. Cancelling the caller loses
        nothing: all is on its way before the first wait."""
        if hold.charge is not None:
            return hold.charge
        return await self.post(hold, self.bill(hold, outcome))

    def bill(self, hold: Hold, outcome: Outcome) -> Event:
        """What the call comes to, which from here on is its charge: `post` must follow, or `unbill`."""
        event = hold.event(outcome, self._counters.now_ms())
        hold.charge = Charge(event.cost_nanos, event.list_cost_nanos, event.flags, event.credits)
        return event

    def unbill(self, hold: Hold) -> None:
        hold.charge = None

    async def post_again(self, blob: bytes) -> None:
        """An event that another worker billed and may have died over: in Redis when this returns, and booked once,
        however often it is posted. StoreUnavailable."""
        try:
            entry = settle_entry(events.decode(blob), blob)
        except events.EventMalformed as error:
            raise StoreUnavailable("the event of a charge cannot be read") from error
        verdict = await self._counters.submit(entry)
        if verdict[0] != "OK":
            raise StoreUnavailable("Redis is being rebuilt")

    async def post(self, hold: Hold, event: Event) -> Charge:
        """As `settle`, of a call that is billed."""
        charge = Charge(event.cost_nanos, event.list_cost_nanos, event.flags, event.credits)
        self._running.pop(hold.call_id, None)
        blob = events.encode(event)
        written = self._wal.append(wal.SETTLED, blob)
        settled = self._settle_in_redis(event, blob)
        try:
            await written
        except WalUnavailable as error:
            try:
                async with asyncio.timeout(SETTLE_SECONDS_MAX):
                    await settled
            except TimeoutError:
                raise StoreUnavailable("neither the WAL nor Redis takes the charge yet") from error
        return charge

    def _settle_in_redis(self, event: Event, blob: bytes) -> asyncio.Future[Verdict]:
        settled: asyncio.Future[Verdict] = self._counters.loop.create_future()

        def done(verdict: Verdict) -> bool:
            crash.at("after_settle")
            if not settled.done():
                settled.set_result(verdict)
            return True

        self._counters.submit_until_done(settle_entry(event, blob), done)
        return settled

    async def void(self, hold: Hold, outcome: Outcome | None = None) -> None:
        """Give everything back. A call that was dispatched has its event all the same: it settles, at no cost."""
        if hold.charge is not None:
            return
        if hold.is_dispatched:
            await self.settle(hold, outcome or Outcome(end_reason="upstream_error", billable=False))
            return
        hold.charge = Charge(0, 0, ())
        self._running.pop(hold.call_id, None)
        self._counters.submit_until_done(("void", hold.caller.shard, 0, hold.call_id), lambda verdict: True)

    async def drain(self, timeout_seconds: float) -> int:
        """Stop renewing and wait until Redis has everything; returns how much is left (the WAL has it)."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        self._wal.flush()
        return await self._counters.drain(timeout_seconds)

    def _template(self, caller: Caller, snapshot: Snapshot, model: ModelRecord, now_ms: int) -> Template:
        try:
            return self._templates.of(caller, snapshot, model, now_ms)
        except pricing.PriceMissing as error:
            raise Refused(Refusal(Reason.PRICE_MISSING)) from error

    def _reserve_entry(self, hold: Hold, now_ms: int) -> tuple[Any, ...]:
        estimate = hold.estimate
        try:
            hold.needs = needs_of(hold.template, estimate)
        except pricing.HoldTooLarge as error:
            raise Refused(Refusal(Reason.HOLD_TOO_LARGE)) from error
        wanted = estimate.output_tokens_wanted
        return (
            "reserve",
            hold.shard,
            self._counters.epochs[hold.shard],
            hold.call_id,
            hold.template.static,
            wanted,
            min(estimate.output_tokens_min, wanted),
            [number for need in hold.needs for number in need],
            LEASE_MS,
            now_ms + NOT_AFTER_MS,
            hold.facts_text(),
        )

    def _held(self, hold: Hold, verdict: Verdict) -> Hold:
        crash.at("after_reserve")
        hold.take(verdict)
        hold.renew_at_ms = verdict[1] + RENEW_MS
        self._running[hold.call_id] = hold
        return hold

    async def _reloaded(
        self, what: str, caller: Caller, snapshot: Snapshot, recheck: Recheck | None
    ) -> tuple[Caller, Snapshot, Any]:
        if what == "policy":
            snapshot = await self._catalogue.reload(snapshot.brand.id)
        else:
            caller = await self._directory.reload(caller)
        return caller, snapshot, recheck(caller, snapshot) if recheck is not None else None

    async def _mended(self, template: Template, verdict: Verdict) -> None:
        """What stood in the way of a judgement is put right, so that it can be asked for again."""
        if verdict[0] == "EPOCH":
            self._learn_epoch(template.caller.shard, verdict)
        elif verdict[0] == "UNSEEDED":
            wanted = [template.wanted(number - 1) for number in verdict[2] if number]
            try:
                await self._seeds.seed(template.caller.organization.id, wanted)
            except SeedUnavailable as error:
                raise StoreUnavailable(str(error)) from error
        # STALE clock: the verdict's time was learned when it arrived.

    def _learn_epoch(self, shard: int, verdict: Verdict) -> None:
        """A new epoch of a shard is taken over; what this worker holds there was asserted before (assertion.py)."""
        counter, _, _ = verdict[2].partition(":")
        if not counter:
            raise StoreUnavailable("Redis is being rebuilt")
        self._counters.epochs[shard] = int(counter)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                for hold in self._due():
                    self._renew(hold)
                self._wal.probe()
            except Exception:
                log.exception("leases could not be renewed; tried again in a second")

    def _due(self) -> Iterator[Hold]:
        now_ms = self._counters.now_ms()
        for hold in list(self._running.values()):
            deadline_ms = hold.reserved_at_ms + hold.model.total_ms + OVERTIME_MS
            if hold.renew_at_ms <= now_ms < deadline_ms:
                yield hold

    def _renew(self, hold: Hold) -> None:
        hold.renew_at_ms = self._counters.now_ms() + RENEW_MS
        entry = ("renew", hold.shard, 0, hold.call_id, LEASE_MS, hold.running_text().decode())
        answer = self._counters.submit(entry)
        answer.add_done_callback(lambda future: _renewed(hold, future))


def _renewed(hold: Hold, future: asyncio.Future[Verdict]) -> None:
    if future.cancelled() or future.exception() is not None or future.result()[0] == "EPOCH":
        hold.renew_at_ms = 0  # at the next tick
    elif future.result()[0] == "LAPSED" and hold.charge is None:
        hold.lapsed = True


def settle_entry(event: Event, blob: bytes) -> tuple[Any, ...]:
    """The script's settle of an event: by its worker, or by whoever replays its WAL."""
    return (
        "settle",
        shard_of(event.organization_id),
        0,
        event.call_id,
        str(event.organization_id),
        str(event.key_id),
        str(event.model_id),
        f"d{event.day}",
        facts.unit_amounts(event),
        event.cost_nanos,
        blob.decode(),
    )
