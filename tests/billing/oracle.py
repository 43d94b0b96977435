"""What the script must do, in plain Python integers: one shard, one organization, written from the contract.

Time comes from the script's own verdicts. Amounts are exact; only the fading minute is computed as doubles do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

INT64_MAX = 2**63 - 1
EXACT_MAX = 2**53 - 1
UNITS = ("req", "in", "out", "tok", "cred", "nano")
Where = tuple[str, str, str]  # window id, scope, unit


@dataclass
class Counter:
    posted: int = 0
    held: int = 0


@dataclass
class Hold:
    day: str
    month: str
    minute: int
    key: str
    model: str
    money: int
    held: dict[Where, int]
    scopes: list[str]
    deadline: int


@dataclass
class Asked:
    """A reserve in the test's words. `counters`: (window kind, scope, unit); `plans`: (asks money, limits)."""

    key: str
    model: str
    counters: list[tuple[str, str, str]]
    plans: list[tuple[bool, list[int | None]]]
    slots: list[tuple[str, int]]
    needs: dict[str, tuple[int, int, int]]
    wanted: int
    least: int


def need(asked: Asked, unit: str, g: int) -> int:
    fixed, per, scale = asked.needs[unit]
    return -(-(fixed + g * per) // scale)


def clamped(value: int) -> int:
    return max(-INT64_MAX, min(INT64_MAX, value))


@dataclass
class Oracle:
    day: str
    month: str
    day_end: int
    month_end: int
    balance: int
    money_held: int = 0
    counters: dict[Where, Counter] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    seq: int = 0

    def place(self, kind: str, now: int) -> str:
        return {"day": self.day, "month": self.month, "lifetime": "life", "minute": f"i{now // 60_000}"}[kind]

    def state(self, counter: tuple[str, str, str], now: int) -> tuple[int, int]:
        kind, scope, unit = counter
        if kind != "minute":
            found = self.counters.get((self.place(kind, now), scope, unit), Counter())
            return found.posted, found.held
        minute, left = now // 60_000, 60_000 - now % 60_000
        this = self.counters.get((f"i{minute}", scope, unit), Counter())
        last = self.counters.get((f"i{minute - 1}", scope, unit), Counter())
        fading = [math.ceil(float(value) * left / 60_000) for value in (last.posted, last.held)]
        return this.posted + fading[0], this.held + fading[1]

    def largest(self, asked: Asked, unit: str, have: int) -> int | None:
        """By bisection, as need is monotone in g."""
        if need(asked, unit, asked.wanted) <= max(have, 0):
            return asked.wanted
        if need(asked, unit, asked.least) > have:
            return None
        low, high = asked.least, asked.wanted
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if need(asked, unit, middle) <= have else (low, middle - 1)
        return low

    def judged(self, asked: Asked, number: int, now: int) -> tuple[int | None, list[tuple[int, bool]]]:
        """(granted or None, the limits that refuse: (counter's number, 0 for money; in flight))."""
        asks_money, limits = asked.plans[number]
        granted, refusing = asked.wanted, []
        rooms = [
            (place + 1, counter[2], limit, *self.state(counter, now))
            for place, (counter, limit) in enumerate(zip(asked.counters, limits, strict=True))
            if limit is not None and (counter[2] != "nano" or asks_money)
        ]
        if asks_money:
            rooms.append((0, "nano", self.balance, 0, self.money_held))
        for place, unit, limit, posted, held in rooms:
            g = self.largest(asked, unit, limit - posted - held)
            if g is None:
                refusing.append((place, need(asked, unit, asked.least) <= limit - posted))
            else:
                granted = min(granted, g)
        return (None if refusing else granted), refusing

    def reserve(self, call_id: str, asked: Asked, now: int) -> tuple[str, Any]:
        """("OK", (plan, granted)), ("slot", number) or ("NO", {plan: refusing}). Of a taken slot and a limit the one
        that lasts longer: a slot passes with a call, and never where there are none."""
        taken = self.taken(asked, now)
        answers = [self.judged(asked, number, now) for number in range(len(asked.plans))]
        fitting = [(granted, number) for number, (granted, _) in enumerate(answers) if granted is not None]
        passing = any(
            all(is_in_flight and (not place or asked.counters[place - 1][0] != "minute") for place, is_in_flight in own)
            for granted, own in answers
            if granted is None
        )
        if taken and (fitting or passing or not asked.slots[taken - 1][1]):
            return "slot", taken
        if not fitting:
            return "NO", {number: refusing for number, (_, refusing) in enumerate(answers)}
        full = [number for granted, number in fitting if granted == asked.wanted]
        number = full[0] if full else max(fitting, key=lambda pair: (pair[0], -pair[1]))[1]
        granted = answers[number][0]
        assert granted is not None
        self.hold(call_id, asked, number, granted, now)
        return "OK", (number, granted)

    def taken(self, asked: Asked, now: int) -> int | None:
        for number, (scope, limit) in enumerate(asked.slots, start=1):
            if sum(scope in hold.scopes and hold.deadline > now for hold in self.holds.values()) >= limit:
                return number
        return None

    def hold(self, call_id: str, asked: Asked, number: int, granted: int, now: int) -> None:
        asks_money = asked.plans[number][0]
        money = need(asked, "nano", granted) if asks_money else 0
        held: dict[Where, int] = {}
        for place, (kind, scope, unit) in enumerate(asked.counters):
            where = (self.place(kind, now), scope, unit)
            counter = self.counters.setdefault(where, Counter())
            if any(limits[place] is not None for _, limits in asked.plans):
                amount = 0 if unit == "nano" and not asks_money else need(asked, unit, granted)
                counter.held += amount
                held[where] = amount
        self.money_held += money
        scopes = [scope for scope, _ in asked.slots]
        self.holds[call_id] = Hold(
            self.day, self.month, now // 60_000, asked.key, asked.model, money, held, scopes, now + 60_000
        )

    def settle(self, call_id: str, amounts: tuple[int, ...], charge: int) -> bool:
        """Whether there was a hold."""
        hold = self.end(call_id)
        if hold is None:
            return False
        for window in (hold.day, hold.month, "life"):
            for scope in ("o", hold.key, hold.model):
                for unit, amount in zip(UNITS, amounts, strict=True):
                    counter = self.counters.get((window, scope, unit))
                    if counter is not None:
                        counter.posted = clamped(counter.posted + amount)
        for window, scope, unit in hold.held:
            if window == f"i{hold.minute}" and hold.held[window, scope, unit]:
                counter = self.counters[window, scope, unit]
                counter.posted = clamped(counter.posted + amounts[UNITS.index(unit)])
        self.balance = clamped(self.balance - charge)
        return True

    def end(self, call_id: str) -> Hold | None:
        hold = self.holds.pop(call_id, None)
        if hold is not None:
            for where, amount in hold.held.items():
                self.counters[where].held -= amount
            self.money_held -= hold.money
        return hold

    def change(self, seq: int, nanos: int, tokens: int, scopes: tuple[str, ...]) -> str:
        """The word of the verdict: applied in order or not at all, and only as a whole."""
        if seq > self.seq + 1:
            return "GAP"
        wheres = [(window, scope, "tok") for window in (self.day, self.month, "life") for scope in scopes]
        found = [counter for counter in map(self.counters.get, wheres) if counter is not None]
        if any(abs(sum_) > INT64_MAX for sum_ in (self.balance + nanos, *(c.posted + tokens for c in found))):
            return "FULL"
        self.seq, self.balance = seq, self.balance + nanos
        for counter in found:
            counter.posted += tokens
        return "OK"
