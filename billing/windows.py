"""The windows that limits count in, as ids with their bounds. Pure: time and zone are passed in.

Days and months are the brand's own (its time zone); a window is an id, so nothing is ever reset by a job. Bounds are
instants in Unix ms, start inclusive, end exclusive; neighbours touch, whatever daylight saving does.

A month begins on its anchor, a day of the month: 1 for calendar months ("m202611"), else that day or, where a month is
too short for it, its last day ("m202602a31" from 28 February to 30 March). The id names the month it begins in.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

MINUTE_MS = 60_000
LIFETIME_ID = "life"
FIRST_OF_MONTH = 1
ANCHOR_MAX = 31
LIFETIME_END_MS = 253_402_300_800_000
"""The year 10000: a lifetime has no reset, and the number stays exact in a double."""

_SLOT_MS = 900_000
_ID = re.compile(r"i(?P<minute>\d{1,12})|d(?P<day>\d{8})|m(?P<month>\d{6})(?:a(?P<anchor>\d\d))?", re.ASCII)
_KINDS = ("minute", "day", "month", "lifetime")


class Bounds(NamedTuple):
    """One window: its id as Redis names it, and its bounds."""

    id: str
    start_ms: int
    end_ms: int


Windows = tuple[tuple[str, tuple[Bounds, ...]], ...]


def windows(now_ms: int, zone: str, anchor: int = FIRST_OF_MONTH) -> Windows:
    """Per kind the window now is in and its neighbours, so that Redis' own clock falls in one of them."""
    return (
        ("minute", minutes(now_ms)),
        *_calendar(now_ms // _SLOT_MS, zone, anchor),
        ("lifetime", (Bounds(LIFETIME_ID, 0, LIFETIME_END_MS),)),
    )


def minutes(now_ms: int) -> tuple[Bounds, ...]:
    now = now_ms // MINUTE_MS
    return tuple(Bounds(f"i{n}", n * MINUTE_MS, (n + 1) * MINUTE_MS) for n in range(now - 1, now + 2))


@lru_cache(maxsize=1024)
def _calendar(slot: int, zone: str, anchor: int) -> tuple[tuple[str, tuple[Bounds, ...]], ...]:
    """Any instant of the slot gives the same answer: neighbours on both sides are listed."""
    tz = ZoneInfo(zone)
    today = datetime.fromtimestamp(slot * _SLOT_MS / 1000, tz).date()
    days = [today + timedelta(days=n) for n in range(-2, 4)]
    month = _begun_in(today, anchor)
    months = [_months_later(month, n) for n in range(-1, 3)]
    return (
        ("day", _between([(f"d{day:%Y%m%d}", _midnight_ms(day, tz)) for day in days])),
        ("month", _between([(_month_id(m, anchor), _midnight_ms(_anchored(m, anchor), tz)) for m in months])),
    )


def _between(starts: list[tuple[str, int]]) -> tuple[Bounds, ...]:
    """Each window ends where the next starts; a day that a zone skipped is empty and left out."""
    return tuple(Bounds(name, start, end) for (name, start), (_, end) in pairwise(starts) if start < end)


def _anchored(month: date, anchor: int) -> date:
    """The day on which the month that begins in `month` (any day of it) begins."""
    last = (_months_later(month, 1) - timedelta(days=1)).day
    return month.replace(day=min(anchor, last))


def _begun_in(day: date, anchor: int) -> date:
    """The first of the calendar month in which the month that holds `day` begins."""
    return _months_later(day, 0 if day >= _anchored(day, anchor) else -1)


def _month_id(month: date, anchor: int) -> str:
    return f"m{month:%Y%m}" if anchor == FIRST_OF_MONTH else f"m{month:%Y%m}a{anchor:02}"


def month_of_day(day: str, anchor: int) -> str:
    """The id of the month that a brand day (YYYYMMDD) counts in."""
    return _month_id(_begun_in(date.fromisoformat(day), anchor), anchor)


def days_of(window_id: str) -> tuple[date, date]:
    """The brand days that count in a day, month or lifetime: from the first, until before the second."""
    if window_id == LIFETIME_ID:
        return date.min, date.max
    found = _ID.fullmatch(window_id)
    if found is None or found["minute"] is not None:
        raise ValueError(f"no window of days: {window_id}")
    if found["day"] is not None:
        day = date.fromisoformat(found["day"])
        return day, day + timedelta(days=1)
    anchor = int(found["anchor"] or FIRST_OF_MONTH)
    month = date(int(found["month"][:4]), int(found["month"][4:]), 1)
    if not FIRST_OF_MONTH <= anchor <= ANCHOR_MAX or _month_id(month, anchor) != window_id:
        raise ValueError(f"no window of days: {window_id}")
    return _anchored(month, anchor), _anchored(_months_later(month, 1), anchor)


def _months_later(first: date, months: int) -> date:
    years, month = divmod(first.month - 1 + months, 12)
    return date(first.year + years, month + 1, 1)


def _midnight_ms(day: date, tz: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=tz).timestamp()) * 1000


def window_at(now_ms: int, kind: str, zone: str, anchor: int = FIRST_OF_MONTH) -> Bounds:
    """The one window of a kind that holds the instant."""
    if kind not in _KINDS:
        raise ValueError(f"no such window: {kind}")
    for bounds in dict(windows(now_ms, zone, anchor))[kind]:
        if bounds.start_ms <= now_ms < bounds.end_ms:
            return bounds
    raise ValueError(f"no {kind} window of {zone} holds {now_ms}")  # pragma: no cover - neighbours touch


def resets_at_ms(now_ms: int, kind: str, zone: str, anchor: int = FIRST_OF_MONTH) -> int | None:
    """When the window ends; None for a lifetime, which never does."""
    return None if kind == "lifetime" else window_at(now_ms, kind, zone, anchor).end_ms


def day_of(now_ms: int, zone: str) -> str:
    """YYYYMMDD of the brand's day."""
    return window_at(now_ms, "day", zone).id[1:]


def bounds_of(window_id: str, zone: str) -> Bounds:
    """The bounds of a window by its id ("d20261121", "m202611", "m202611a15", "life", "i29000000")."""
    if window_id == LIFETIME_ID:
        return Bounds(LIFETIME_ID, 0, LIFETIME_END_MS)
    found = _ID.fullmatch(window_id)
    if found is None:
        raise ValueError(f"no such window id: {window_id}")
    if found["minute"] is not None:
        minute = int(found["minute"])
        return Bounds(window_id, minute * MINUTE_MS, (minute + 1) * MINUTE_MS)
    tz = ZoneInfo(zone)
    first, after = days_of(window_id)
    return Bounds(window_id, _midnight_ms(first, tz), _midnight_ms(after, tz))
