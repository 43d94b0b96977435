"""Which of a call's limits to show, and how long until they reset. Pure; dialects spell the headers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


class LimitState(Protocol):
    """What billing.admission says of one limit. `limit` None means counted only."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def window(self) -> str: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def posted(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def resets_at_ms(self) -> int | None: ...


class Shown(NamedTuple):
    """One line of a customer's limits: `remaining` never negative; `reset_ms` from now and `resets_at_ms` (Unix), None
    when it never resets."""

    name: str
    limit: int
    remaining: int
    reset_ms: int | None
    resets_at_ms: int | None = None


REQUEST_UNITS = ("requests",)
TOKEN_UNITS = ("tokens", "input", "output")
CREDIT_UNITS = ("credits",)


def tightest(states: Iterable[LimitState], units: tuple[str, ...], now_ms: int, *, with_held: bool) -> Shown | None:
    """The limit in `units` with the least room left; of equals the one that lasts longest. On success what running
    calls hold counts as used (`with_held`); refusals show only what is settled."""
    best: LimitState | None = None
    room = 0
    for state in states:
        if state.limit is None or state.unit not in units:
            continue
        left = max(0, state.limit - state.posted - (state.held if with_held else 0))
        if best is None or left < room or (left == room and _lasts_longer(state, best)):
            best, room = state, left
    if best is None or best.limit is None:
        return None
    reset_ms = None if best.resets_at_ms is None else max(0, best.resets_at_ms - now_ms)
    return Shown(best.name, best.limit, room, reset_ms, best.resets_at_ms)


def shown_of(
    states: Iterable[LimitState], units: tuple[str, ...], now_ms: int, refused_by: LimitState | None
) -> Shown | None:
    """Of `units` the limit that refused, where it is one of them; else the tightest."""
    if refused_by is not None and refused_by.unit in units:
        states = (refused_by,)
    return tightest(states, units, now_ms, with_held=refused_by is None)


def _lasts_longer(one: LimitState, other: LimitState) -> bool:
    if one.resets_at_ms is None or other.resets_at_ms is None:
        return one.resets_at_ms is None and other.resets_at_ms is not None
    return one.resets_at_ms > other.resets_at_ms


def iso_time(milliseconds: int) -> str:
    """Unix ms as 2024-01-19T00:00:00Z, rounded up to the second: it is never too early."""
    return datetime.fromtimestamp(-(-milliseconds // 1000), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def go_duration(milliseconds: int) -> bytes:
    """As Go prints durations, which is what OpenAI's reset headers hold: 12ms, 1.5s, 6m0s, 24h0m0s."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    seconds, rest = divmod(milliseconds, 1000)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    fraction = (b".%03d" % rest).rstrip(b"0") if rest else b""
    text = b"%d%bs" % (seconds, fraction)
    if hours:
        return b"%dh%dm%b" % (hours, minutes, text)
    return b"%dm%b" % (minutes, text) if minutes else text
