"""What admission hands out: a Hold, or the Refusal that says why not. Values; the words of money, not of HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import msgspec

from billing import facts, pricing, wal
from billing.events import End, Event, Source
from billing.facts import Facts, Running
from billing.limits import CONCURRENT, Estimate, Need
from billing.script import Verdict
from billing.snapshot import ModelRecord, RateRecord, Snapshot
from billing.templates import Template
from billing.usage import Usage
from keys.caller import Caller

_encode: Final = msgspec.json.Encoder().encode
_MONEY: Final = ("balance", "nanos", "", "organization")
NO_USAGE: Final = Usage()
MILLISECONDS_MAX: Final = 2**31 - 1
MINUTE_MS: Final = 60_000
NOTHING: Final = (0,) * len(facts.UNITS)


class Reason(StrEnum):
    """Why billing refuses; proxy/refusals.py words it."""

    INSUFFICIENT_QUOTA = "insufficient_quota"
    QUOTA_IN_FLIGHT = "quota_in_flight"
    RATE_LIMITED = "rate_limited"
    CONCURRENCY = "concurrency"
    PRICE_MISSING = "price_missing"
    HOLD_TOO_LARGE = "hold_too_large"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`name` is the limit ("organization.tokens.day", "balance"), `used` what is posted on it and `held` what running
    calls hold. `in_flight`: only those stand in the way, so a retry can help. `need` is the least the call asks for:
    past `limit` it can never be served. `resets_at_ms` None: unknown, or never."""

    reason: Reason
    name: str = ""
    unit: str = ""
    window: str = ""
    scope: str = ""
    limit: int = 0
    used: int = 0
    held: int = 0
    need: int = 0
    resets_at_ms: int | None = None
    in_flight: bool = False

    @property
    def exhausted(self) -> bool:
        return not self.in_flight

    @property
    def is_impossible(self) -> bool:
        return self.need > self.limit


class Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason.value} {refusal.name}".strip())
        self.refusal = refusal


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """A limit as it stands. `limit` None: only counted. `posted` and `held` include this call's own hold. The balance
    is a limit with window "": what is left is limit − posted − held everywhere."""

    name: str
    unit: str
    window: str
    scope: str
    limit: int | None
    posted: int
    held: int
    resets_at_ms: int | None


class Charge(NamedTuple):
    cost_nanos: int
    list_cost_nanos: int
    flags: tuple[str, ...]
    credits: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended. Not `billable`: it was the provider's fault and nothing was delivered, so it costs nothing."""

    usage: Usage = NO_USAGE
    usage_source: Source = "none"
    end_reason: End
    flags: tuple[str, ...] = ()
    http_status: int = 200
    engine_id: int | None = None
    first_token_ms: int | None = None
    duration_ms: int = 0
    agent: str = ""
    metadata: dict[str, str] = {}
    user: str = ""
    billable: bool = True


class Hold:
    """What a call has reserved. Attributes to read: call_id, caller, snapshot, model, rate, payer, granted (output
    tokens per choice; send it upstream), applied (granted is less than wanted), limits, day, held_nanos,
    reserved_at_ms, lapsed (the lease ran out: end the stream), charge (once settled or voided)."""

    __slots__ = (
        "_facts",
        "_verdict",
        "address",
        "call_id",
        "caller",
        "charge",
        "engine_id",
        "estimate",
        "granted",
        "is_dispatched",
        "lapsed",
        "model",
        "needs",
        "next_progress",
        "plan",
        "renew_at_ms",
        "reserved_at_ms",
        "shard",
        "snapshot",
        "started_at_ms",
        "stream",
        "template",
        "usage",
        "usage_source",
    )

    def __init__(
        self,
        call_id: str,
        model: ModelRecord,
        template: Template,
        estimate: Estimate,
        *,
        stream: bool,
        started_at_ms: int,
        address: str | None,
    ) -> None:
        self.call_id = call_id
        self.model = model
        self.caller: Caller = template.caller
        self.shard = template.caller.shard
        self.snapshot: Snapshot = template.snapshot
        self.template = template
        self.estimate = estimate
        self.stream = stream
        self.started_at_ms = started_at_ms
        self.address = address
        self.needs: tuple[Need, ...] = ()
        self.granted = 0
        self.plan = 0
        self.reserved_at_ms = 0
        self.renew_at_ms = 0
        self.engine_id: int | None = None
        self.is_dispatched = False
        self.lapsed = False
        self.usage = NO_USAGE
        self.usage_source: str = "none"
        self.next_progress = 0.0
        self.charge: Charge | None = None
        self._facts = b""
        self._verdict: Verdict = []

    def take(self, verdict: Verdict) -> None:
        """The script's OK."""
        self._verdict = verdict
        self.reserved_at_ms, self.plan, self.granted = verdict[1], verdict[2] - 1, verdict[3]

    @property
    def rate(self) -> RateRecord:
        return self.template.rate

    @property
    def payer(self) -> str:
        return self.template.payers[self.plan]

    @property
    def day(self) -> str:
        """YYYYMMDD, the brand's day of the reserve."""
        return self.template.day.id[1:]

    @property
    def applied(self) -> bool:
        return self.granted < self.estimate.output_tokens_wanted

    @property
    def held_nanos(self) -> int:
        return self.needs[-1].at(self.granted) if self.template.asks_money[self.plan] else 0

    @property
    def limits(self) -> tuple[LimitState, ...]:
        """Every limit of the paying plan after this hold, the balance last when it pays."""
        held = tuple([need.at(self.granted) for need in self.needs])
        return limit_states(self.template, self._verdict, plan=self.plan, own=held)

    @property
    def shadowed(self) -> tuple[str, ...]:
        """Names of the limits on trial that would have refused this call, by what is settled: the script reads what
        running calls hold only of limits that it judges."""
        if not self.template.trials:
            return ()
        flat, least = self._verdict[6], self.estimate.output_tokens_min
        return tuple(
            name
            for number, unit, name, amount in self.template.trials
            if int(flat[2 * number]) + int(flat[2 * number + 1]) + self.needs[unit].at(least) > amount
        )

    def limits_after(self, usage: Usage) -> tuple[LimitState, ...]:
        """As `limits`, once the call is settled: what it did use in place of what it held."""
        assert self.charge is not None
        tokens = (usage.prompt_tokens, usage.output, usage.total_tokens)
        used = (1, *tokens, self.charge.credits, self.charge.cost_nanos)
        return limit_states(self.template, self._verdict, plan=self.plan, own=used)

    def facts(self) -> Facts:
        template, estimate = self.template, self.estimate
        return Facts(
            brand_id=self.snapshot.brand.id,
            tier_id=template.tier.id or None,
            rate_id=template.rate.id,
            rates=template.rates,
            credits=template.rate.credits_per_request,
            credits_per_1000_tokens=template.rate.credits_per_1000_tokens,
            endpoint=estimate.endpoint,
            stream=self.stream,
            started_at_ms=self.started_at_ms,
            prompt_tokens_max=estimate.prompt_tokens_max,
            choices=estimate.choices,
            images_max=estimate.images_max,
            address=self.address,
        )

    def facts_text(self) -> str:
        if not self._facts:
            try:
                self._facts = _encode(self.facts())
            except UnicodeEncodeError:  # no address has such letters
                self.address = None
                self._facts = _encode(self.facts())
        return self._facts.decode()

    def dispatched_line(self) -> bytes:
        return _encode(
            wal.Dispatched(
                call_id=self.call_id,
                organization_id=self.caller.organization.id,
                key_id=self.caller.key_id,
                model_id=self.model.id,
                engine_id=self.engine_id,
                day=self.day,
                payer=self.payer,
                granted=self.granted,
                held_nanos=self.held_nanos,
                facts=msgspec.Raw(self._facts),  # type: ignore[arg-type] # encoded already
            )
        )

    def running_text(self) -> bytes:
        usage = self.usage
        return _encode(
            Running(
                engine_id=self.engine_id,
                source=self.usage_source,  # type: ignore[arg-type]
                input=usage.input,
                cache_read=usage.cache_read,
                cache_write=usage.cache_write,
                output=usage.output,
                reasoning=usage.reasoning,
                images=usage.images,
            )
        )

    def progress_line(self) -> bytes:
        return b'{"call_id":"%b","running":%b}' % (self.call_id.encode(), self.running_text())

    def event(self, outcome: Outcome, now_ms: int) -> Event:
        """The immutable record of the call. The charge is never above the hold; what would be is flagged."""
        usage, template = facts.possible(outcome.usage), self.template
        payer, held_nanos = self.payer, self.held_nanos
        price = facts.Price(0, 0, False)
        if outcome.billable:
            price = facts.price(template.rate, usage, payer=payer, held_nanos=held_nanos, buckets=template.price)
        flags = outcome.flags if usage is outcome.usage else (*outcome.flags, facts.USAGE_CLAMPED)
        bounds = self.estimate
        beyond = usage.prompt_tokens > bounds.prompt_tokens_max or usage.output > self.granted * bounds.choices
        if (price.above_hold or beyond) and facts.USAGE_ABOVE_HOLD not in flags:
            flags = (*flags, facts.USAGE_ABOVE_HOLD)
        return Event(
            call_id=self.call_id,
            brand_id=self.snapshot.brand.id,
            organization_id=self.caller.organization.id,
            key_id=self.caller.key_id,
            model_id=self.model.id,
            engine_id=self.engine_id if outcome.engine_id is None else outcome.engine_id,
            tier_id=template.tier.id or None,
            rate_id=template.rate.id,
            rates=template.rates,
            endpoint=bounds.endpoint,
            payer="included" if payer == facts.INCLUDED else "prepaid",
            uncached_input_tokens=usage.input,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
            output_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            images=usage.images,
            credits=pricing.credits(template.rate, usage) if outcome.billable else 0,
            list_cost_nanos=price.list_cost_nanos,
            cost_nanos=price.cost_nanos,
            held_nanos=held_nanos,
            prompt_tokens_max=bounds.prompt_tokens_max,
            granted_tokens=self.granted,
            choices=bounds.choices,
            usage_source=outcome.usage_source,
            end_reason=outcome.end_reason,
            flags=flags,
            http_status=outcome.http_status,
            stream=self.stream,
            day=self.day,
            started_at_ms=self.started_at_ms,
            first_token_ms=outcome.first_token_ms,
            duration_ms=max(0, min(outcome.duration_ms, MILLISECONDS_MAX)),
            settled_at_ms=now_ms,
            address=self.address,
            agent=outcome.agent,
            metadata=outcome.metadata,
            user=outcome.user,
        )


def limit_states(
    template: Template, verdict: Verdict, *, plan: int | None, own: tuple[int, ...] = NOTHING
) -> tuple[LimitState, ...]:
    """An OK verdict in words, with the call's `own` amounts of UNITS: the limits of a plan, or with `plan` None every
    counter; the balance last."""
    now_ms, balance, money_held, flat = verdict[1], int(verdict[4]), int(verdict[5]), verdict[6]
    minute_ms = now_ms - now_ms % MINUTE_MS
    asks_money = plan is not None and template.asks_money[plan]
    if not asks_money:
        own = (*own[:-1], 0)
    found = []
    lines = template.every_line if plan is None else template.lines[plan]
    for number, unit_number, name, unit, window, scope, limit, ends_ms in lines:
        posted, held = int(flat[2 * number]), int(flat[2 * number + 1]) + own[unit_number]
        resets_ms = ends_ms
        if window == "minute":  # its usage is gone when the minute after the next begins
            resets_ms = minute_ms + MINUTE_MS * (2 if posted + held else 1)
        found.append(LimitState(name, unit, window, scope, limit, posted, held, resets_ms))
    if plan is None or asks_money:
        name, unit, window, scope = _MONEY
        found.append(LimitState(name, unit, window, scope, balance, 0, money_held + own[-1], None))
    return tuple(found)


class Standing(NamedTuple):
    """How a key and its organization stand between calls. `every`: all counters, each with its first limit, and the
    balance. `upcoming`: the limits of the plan that would take the next call. `refusing`: those that can refuse one;
    while the balance has anything left a used-up allotment is none of them."""

    every: tuple[LimitState, ...]
    upcoming: tuple[LimitState, ...]
    refusing: tuple[LimitState, ...]


def standing_of(template: Template, verdict: Verdict) -> Standing:
    """A look's OK in words."""
    every = limit_states(template, verdict, plan=None)
    plans = [limit_states(template, verdict, plan=number) for number in range(len(template.payers))]
    refusing = plans[-1] if _has_room(every[-1]) else plans[0]
    upcoming = next((plan for plan in plans if all(_has_room(state) for state in plan)), refusing)
    return Standing(every, upcoming, refusing)


def _has_room(state: LimitState) -> bool:
    return state.limit is None or state.limit > state.posted + state.held


def refusal_of(template: Template, verdict: Verdict) -> Refusal:
    """A NO verdict in words."""
    number, state = verdict[3], verdict[4]
    counter: Any = None
    if number > 0:
        counter = template.counters[number - 1]
        name, unit, window, scope = counter.name, counter.unit, counter.window, counter.scope
    elif number == 0:
        name, unit, window, scope = _MONEY
    else:
        slot = template.slots[-number - 1]
        name, unit, window, scope = slot.name, CONCURRENT, "", slot.name.partition(".")[0]
    return Refusal(
        reason=_reason(number, window, state),
        name=name,
        unit=unit,
        window=window,
        scope=scope,
        limit=int(verdict[5]),
        used=int(verdict[6]),
        held=int(verdict[7]),
        need=int(verdict[9]),
        resets_at_ms=verdict[8] or None,
        in_flight=state == "in_flight",
    )


def _reason(number: int, window: str, state: Literal["in_flight", "exhausted"]) -> Reason:
    if number < 0:
        return Reason.CONCURRENCY
    if window == "minute":
        return Reason.RATE_LIMITED
    return Reason.QUOTA_IN_FLIGHT if state == "in_flight" else Reason.INSUFFICIENT_QUOTA
