"""Limits while time passes, against a small model in plain Python: calls are reserved, renewed, settled, voided and
lapse while the clock moves over midnights, a month's end and both changes to and from summer time in Zurich. Once with
calendar months, once with months that begin on the 31st, or on the last day where there is none. Exceptions to a limit
come and end by themselves, and one limit is on trial.

The script's clock is the test's: a name in Redis in place of TIME. Everything else is as it runs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha1
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import leases, script, transports
from billing.admission import LEASE_MS, Refused
from billing.hold import Hold, Outcome
from billing.limits import UNIT_FIELDS
from billing.snapshot import LimitRecord
from billing.usage import Usage
from tests.billing.stage import RATE, Stage, limit, publish

ZONE = ZoneInfo("Europe/Zurich")
STARTS = (
    datetime(2027, 3, 27, 23, 59, 30, tzinfo=ZONE),  # the next day has 23 hours
    datetime(2027, 10, 30, 22, 0, tzinfo=ZONE),  # the next day has 25 hours, the day after begins no month
    datetime(2027, 12, 31, 23, 58, tzinfo=ZONE),
    datetime(2028, 2, 28, 12, 0, tzinfo=ZONE),  # a leap year
)
WANTED = 10
CREDITS = msgspec.structs.replace(RATE, credits_per_request=1, credits_per_1000_tokens=70)
LIMITS = (
    limit("requests", "day", 6),
    limit("requests", "minute", 4),
    limit("tokens", "day", 700),
    limit("tokens", "month", 2_500),
    limit("requests", "lifetime", 60),
    limit("requests", "day", 5, "key"),
    limit("tokens", "day", 600, "model"),
    limit("credits", "day", 38, "key"),
    limit("credits", "month", 120),
    limit("requests", "month", 9, is_shadow=True),
    limit("concurrent", "minute", 3),
)
TIME = b"local clock = redis.call('TIME')"
COUNTERS = (
    ("o", "requests", "day"),
    ("o", "tokens", "day"),
    ("o", "tokens", "month"),
    ("o", "credits", "month"),
    ("o", "requests", "lifetime"),
    ("k11", "requests", "day"),
    ("k11", "credits", "day"),
    ("m7", "tokens", "day"),
)
CLOCK = (
    b"local at = tonumber(redis.call('GET', 'test:clock'))\nlocal clock = {math.floor(at / 1000), (at % 1000) * 1000}"
)


def credits_of(tokens: int) -> int:
    return 1 + math.ceil(tokens * 70 / 1_000)


def places(now: datetime, anchor: int) -> dict[str, str]:
    local = now.astimezone(ZONE)
    return {
        "day": f"d{local:%Y%m%d}",
        "month": month_name(local.date(), anchor),
        "lifetime": "life",
        "minute": f"i{int(now.timestamp()) // 60}",
    }


def month_name(day: date, anchor: int) -> str:
    """With the 31st for an anchor a month begins on a calendar month's last day."""
    if anchor == 1:
        return f"m{day:%Y%m}"
    begun = day if (day + timedelta(days=1)).day == 1 else day.replace(day=1) - timedelta(days=1)
    return f"m{begun:%Y%m}a31"


@dataclass
class Call:
    hold: Hold
    windows: dict[str, str]
    needs: dict[str, int]
    deadline: datetime
    running: int | None = None
    is_dispatched: bool = False


@dataclass
class Model:
    """What is posted and held in each (window, unit); one organization, key and model, so scopes do not differ."""

    anchor: int
    posted: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    calls: list[Call] = field(default_factory=list)
    exception: tuple[int, datetime] | None = None
    """Requests a day instead of the limit's, and until when."""

    def amount(self, one: LimitRecord, now: datetime) -> int:
        is_excepted = (one.scope, one.unit, one.window) == ("organization", "requests", "day")
        if is_excepted and self.exception is not None and now < self.exception[1]:
            return self.exception[0]
        return one.amount

    def held(self, window: str, unit: str) -> int:
        return sum(call.needs[unit] for call in self.calls if window in call.windows.values())

    def used(self, kind: str, unit: str, now: datetime) -> int:
        window = places(now, self.anchor)[kind]
        if kind != "minute":
            return self.posted[window, unit] + self.held(window, unit)
        before = f"i{int(window[1:]) - 1}"
        left = 60_000 - int(now.timestamp() * 1000) % 60_000
        parts = [(self.posted[w, unit], self.held(w, unit)) for w in (window, before)]
        return sum(parts[0]) + sum(math.ceil(float(value) * left / 60_000) for value in parts[1])

    def refusing(self, needs: dict[str, int], now: datetime) -> set[str]:
        found = set()
        for one in LIMITS:
            if one.unit == "concurrent":
                if sum(call.deadline > now for call in self.calls) >= one.amount:
                    found.add("organization.concurrent")
            elif one.is_shadow:
                continue
            elif self.used(one.window, one.unit, now) + needs[one.unit] > self.amount(one, now):
                found.add(f"{one.scope}.{one.unit}.{one.window}")
        return found

    def would_refuse(self, now: datetime) -> tuple[str, ...]:
        """The limit on trial, by what is settled."""
        posted = self.posted[places(now, self.anchor)["month"], "requests"]
        return ("organization.requests.month",) if posted + 1 > 9 else ()

    def post(self, call: Call, requests: int, tokens: int) -> None:
        """Of a call without tokens nothing was heard: it takes no credits."""
        self.calls.remove(call)
        for window in call.windows.values():
            self.posted[window, "requests"] += requests
            self.posted[window, "credits"] += credits_of(tokens) if tokens else 0
            self.posted[window, "tokens"] += tokens


class Time(RuleBasedStateMachine):
    """`home`: what the fixture lends: Redis, a folder for the WAL, the address."""

    home: Any = None
    anchor = 1

    def __init__(self) -> None:
        super().__init__()
        self.store, folder, url = self.home
        self.loop = asyncio.new_event_loop()
        self.store.flushall()
        self.model = Model(self.anchor)
        self.gone: list[Call] = []
        self.now = STARTS[0]
        self._tell()
        zone = "Europe/Zurich"
        self.stage = Stage(self.store, folder, url, *LIMITS, rate=CREDITS, zone=zone, month_anchor=self.anchor)
        self._run(self.stage.__aenter__())

    def teardown(self) -> None:
        self._run(self.stage.__aexit__(None, None, None))
        self.loop.close()

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def _tell(self) -> None:
        self.store.set("test:clock", int(self.now.timestamp() * 1000))

    def _move(self, to: datetime) -> None:
        """The journal's sweeper runs every second: at the end of a long pause it finds what has lapsed."""
        self.now = max(to.astimezone(UTC), self.now)
        self._tell()
        grace = timedelta(milliseconds=leases.GRACE_MS)
        lapsed = [call for call in self.model.calls if call.deadline + grace < self.now]
        for call in lapsed:
            self.model.post(call, 1, call.running or 0)
            self.gone.append(call)
        assert leases.sweep(self.store) == len(lapsed)

    @initialize(start=st.sampled_from(STARTS))
    def begin(self, start: datetime) -> None:
        self._move(start)

    @rule(prompt=st.sampled_from([20, 90, 240]))
    def reserve(self, prompt: int) -> None:
        needs = {"requests": 1, "tokens": prompt + WANTED, "credits": credits_of(prompt + WANTED)}
        refusing = self.model.refusing(needs, self.now)
        try:
            hold = self._run(self.stage.reserve(prompt=prompt, wanted=WANTED))
        except Refused as refused:
            refusal = refused.refusal
            assert refusal.name in refusing, (refusal, refusing)
            if refusal.name == "organization.requests.day":
                assert refusal.limit == self.model.amount(LIMITS[0], self.now)
            if refusal.window in ("day", "month") and refusal.resets_at_ms:
                assert datetime.fromtimestamp(refusal.resets_at_ms / 1000, UTC) == self._end_of(refusal.window)
            return
        assert not refusing
        assert hold.granted == WANTED
        assert hold.shadowed == self.model.would_refuse(self.now)
        windows = places(self.now, self.anchor)
        assert hold.day == windows["day"][1:]
        deadline = self.now + timedelta(milliseconds=LEASE_MS)
        self.model.calls.append(Call(hold, windows, needs, deadline))

    @rule(times=st.integers(2, 5), then=st.sampled_from(["leave", "settle"]))
    def reserve_many(self, times: int, then: str) -> None:
        for _ in range(times):
            before = len(self.model.calls)
            self.reserve(prompt=20)
            if then == "settle" and len(self.model.calls) > before:
                self.settle(number=before, share=100)

    @rule(window=st.sampled_from(["day", "month"]))
    def reserve_on_both_sides_of_the_edge(self, window: str) -> None:
        self._move(self._end_of(window) - timedelta(seconds=1))
        self.reserve(prompt=20)
        self._move(self.now + timedelta(seconds=1))
        self.reserve(prompt=20)

    @rule()
    def reserve_when_leases_are_over_but_not_yet_swept(self) -> None:
        for _ in range(3):
            self.reserve(prompt=20)
        self._move(self.now + timedelta(milliseconds=LEASE_MS + leases.GRACE_MS // 2))
        self.reserve(prompt=20)

    @rule()
    def reserve_when_leases_were_renewed(self) -> None:
        """A slot is kept as long as its call."""
        for _ in range(3):
            self.reserve(prompt=20)
        for _ in range(2):
            self._move(self.now + timedelta(milliseconds=LEASE_MS * 2 // 3))
            for number in range(len(self.model.calls)):
                self.renew(number=number, output=1)
        self.reserve(prompt=20)

    def _end_of(self, window: str) -> datetime:
        local = self.now.astimezone(ZONE)
        day = local.date() + timedelta(days=1)
        if window == "month":
            day = (local.date().replace(day=1) + timedelta(days=32)).replace(day=1)
            if self.anchor == 31:
                last = day - timedelta(days=1)  # of this month
                is_over = local.date() == last
                day = (day + timedelta(days=32)).replace(day=1) - timedelta(days=1) if is_over else last
        return datetime(day.year, day.month, day.day, tzinfo=ZONE).astimezone(UTC)

    @rule(amount=st.sampled_from([2, 9]), seconds=st.sampled_from([5, 600, 100_000]))
    def make_an_exception(self, amount: int, seconds: int) -> None:
        """Of requests a day; it ends by itself."""
        until = self.now + timedelta(seconds=seconds)
        self.model.exception = amount, until
        limited = {"unit": "requests", "window": "day", "scope": "organization", "model_id": None, "amount": amount}
        organization = dataclasses.replace(
            self.stage.caller.organization,
            overrides=({**limited, "until_ms": int(until.timestamp() * 1000)},),
            version=self.stage.caller.organization.version + 1,
        )
        self.stage.caller = self.stage.sources.caller = dataclasses.replace(
            self.stage.caller, organization=organization
        )
        publish(self.store, self.stage.caller, self.stage.snapshot)

    @precondition(lambda self: self.model.exception is not None)
    @rule(seconds=st.sampled_from([-1, 0, 1]))
    def go_to_the_end_of_the_exception(self, seconds: int) -> None:
        assert self.model.exception is not None
        self._move(self.model.exception[1] + timedelta(seconds=seconds))
        self.reserve(prompt=20)

    def _some(self, number: int) -> Call:
        return self.model.calls[number % len(self.model.calls)]

    def _dispatch(self, call: Call) -> None:
        if not call.is_dispatched:
            self._run(self.stage.admission.dispatched(call.hold, 1))
            call.is_dispatched = True

    @precondition(lambda self: self.model.calls)
    @rule(number=st.integers(0, 9), share=st.integers(0, 100))
    def settle(self, number: int, share: int) -> None:
        call = self._some(number)
        self._dispatch(call)
        prompt = (call.needs["tokens"] - WANTED) * share // 100
        self._settle(call, Usage(input=prompt, output=WANTED))
        self.model.post(call, 1, prompt + WANTED)

    def _settle(self, call: Call, usage: Usage) -> None:
        outcome = Outcome(usage=usage, usage_source="final", end_reason="stop")
        self._run(self.stage.admission.settle(call.hold, outcome))
        self._run(self.stage.admission.drain(5))

    @precondition(lambda self: self.model.calls)
    @rule(number=st.integers(0, 9))
    def void(self, number: int) -> None:
        call = self._some(number)
        if call.is_dispatched:
            return
        self._run(self.stage.admission.void(call.hold))
        self._run(self.stage.admission.drain(5))
        self.model.calls.remove(call)

    @precondition(lambda self: self.model.calls)
    @rule(number=st.integers(0, 9), output=st.integers(1, WANTED))
    def renew(self, number: int, output: int) -> None:
        call = self._some(number)
        self._dispatch(call)
        call.hold.usage, call.hold.usage_source = Usage(input=20, output=output), "running"
        entry = ("renew", call.hold.shard, 0, call.hold.call_id, LEASE_MS, call.hold.running_text().decode())
        (verdict,) = script.run(self.store, [entry])
        assert verdict[0] == "OK"
        call.running = 20 + output
        call.deadline = self.now + timedelta(milliseconds=LEASE_MS)

    @precondition(lambda self: self.gone)
    @rule()
    def settle_too_late(self) -> None:
        """Its worker wakes: the journal will correct it, the counters stay."""
        call = self.gone.pop()
        if call.is_dispatched:
            self._settle(call, Usage(input=20, output=WANTED))

    @rule(seconds=st.sampled_from([0.4, 7, 31, 62, 600]))
    def wait(self, seconds: float) -> None:
        self._move(self.now + timedelta(seconds=seconds))

    @rule(seconds=st.sampled_from([-1, 0, 1]), window=st.sampled_from(["day", "day", "month"]))
    def go_to_the_edge(self, seconds: int, window: str) -> None:
        self._move(self._end_of(window) + timedelta(seconds=seconds))

    @invariant()
    def counters_are_what_the_model_says(self) -> None:
        """Those that a limit names, and the day's, which are always kept."""
        kept = self._windows()
        for scope, unit, window in COUNTERS:
            names = {name for name, counted in self.model.posted if counted == unit}
            names |= {call.windows[window] for call in self.model.calls}
            for name in sorted(name for name in names if name.startswith(window[0])):
                found, field = kept.get(name, {}), f"{scope}.{UNIT_FIELDS[unit]}"
                assert found.get(f"{field}.p", 0) == self.model.posted[name, unit], (name, unit)
                assert found.get(f"{field}.h", 0) == self.model.held(name, unit), (name, unit)

    def _windows(self) -> dict[str, dict[str, int]]:
        """By the names that windows have in Redis; without the marks of scopes."""
        caller = self.stage.caller
        prefix = script.name(caller.shard, f"w:{caller.organization.id}:")
        found = {}
        for name in self.store.scan_iter(prefix.replace("{", "[{]") + "*"):
            fields = self.store.hgetall(name).items()
            found[name.decode().removeprefix(prefix)] = {n.decode(): int(v) for n, v in fields if b"." in n}
        return found

    @invariant()
    def money_is_held_only_by_running_calls(self) -> None:
        account = self.stage.account()
        assert account.get("held", 0) == sum(call.hold.held_nanos for call in self.model.calls)


@pytest.fixture
def clock(monkeypatch, redis_connection, wal_dir, settings):
    text = script.TEXT.replace(TIME, CLOCK)
    assert text != script.TEXT
    known, sha = script.SHA, sha1(text, usedforsecurity=False).hexdigest().encode()
    monkeypatch.setattr(script, "TEXT", text)
    monkeypatch.setattr(script, "SHA", sha)
    monkeypatch.setattr(transports, "_EVALSHA", transports._EVALSHA.replace(known, sha))
    monkeypatch.setattr(Time, "home", (redis_connection, wal_dir, settings.REDIS_URL))


@pytest.mark.parametrize(("anchor", "examples"), [(1, 45), (31, 30)])
def test_limits_hold_while_time_passes(clock, monkeypatch, anchor, examples):
    monkeypatch.setattr(Time, "anchor", anchor)
    profile = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    run_state_machine_as_test(Time, settings=profile)


A_MINUTE = 60
"""Requests that the limit of the bursts allows."""


async def burst(stage: Stage) -> list[Hold]:
    """As many calls as are admitted, each at once after the other."""
    held = []
    for _ in range(3 * A_MINUTE):
        try:
            held.append(await stage.reserve(prompt=1, wanted=1))
        except Refused:
            return held
    raise AssertionError("nothing refuses")


@pytest.mark.parametrize("settles", [False, True], ids=["running", "settled"])
@pytest.mark.parametrize(
    ("before_ms", "after_ms", "more"),
    [(1, 0, 0), (1, 1, 0), (500, 500, 0), (1, 1_000, 1), (30_000, 1_000, 1), (1, 15_000, 15), (59_000, 30_000, 30)],
)
async def test_two_bursts_on_both_sides_of_a_minutes_edge_are_one(
    clock, redis_connection, wal_dir, settings, before_ms, after_ms, more, settles
):
    """After the edge there is only as much room as the minute before has faded by then: a sixtieth a second."""
    edge_ms = int(datetime(2027, 5, 3, 12, 0, tzinfo=UTC).timestamp() * 1000)
    redis_connection.set("test:clock", edge_ms - before_ms)
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL, limit("requests", "minute", A_MINUTE)) as stage:
        first = await burst(stage)
        redis_connection.set("test:clock", edge_ms + after_ms)
        if settles:
            for hold in first:
                await stage.settle(hold)
            await stage.admission.drain(5)
        second = await burst(stage)
    assert len(first) == A_MINUTE
    assert len(second) == more
