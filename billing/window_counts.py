"""What Redis' window counters say, for people who look: the figures that the gateway judges by, read in one go for any
number of organizations. What Redis does not know, or cannot be asked, the rollups say, a few seconds behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import redis
from django.db.models import Sum
from django.db.models.expressions import RawSQL

from billing import script, windows
from billing.events import COUNTED_SQL
from billing.limits import CONCURRENT
from billing.models import UsageDay
from keys.caller import shard_of
from keys.connections import redis_client

UNITS = tuple(COUNTED_SQL)


class Counter(NamedTuple):
    """Fields as Redis spells them. The window CONCURRENT means calls at once, which have no unit."""

    window_id: str
    scope: str
    unit: str

    @property
    def is_minute(self) -> bool:
        return self.window_id[0] == "i"


class Wanted(NamedTuple):
    organization_id: int
    counters: frozenset[Counter]


@dataclass(slots=True)
class Counts:
    """`posted` lacks a minute, and calls at once, where `is_live` is False: only Redis knows them."""

    is_live: bool = False
    posted: dict[Counter, int] = field(default_factory=dict)
    held: dict[Counter, int] = field(default_factory=dict)


def read(wanted: Sequence[Wanted], now: datetime) -> list[Counts]:
    """In the order of `wanted`."""
    found = _from_redis(wanted, int(now.timestamp() * 1000))
    _from_the_books(wanted, found)
    return found


# Redis


class _Asked(NamedTuple):
    """The names of one hash's fields, and what stands in them."""

    window_id: str
    fields: list[str]


def _from_redis(wanted: Sequence[Wanted], now_ms: int) -> list[Counts]:
    """All in one pipeline. A closed shard (Redis is being rebuilt) is as good as no Redis."""
    pipe = redis_client().pipeline(transaction=False)
    asked: list[tuple[list[_Asked], list[Counter]]] = []
    for organization_id, counters in wanted:
        shard, hashes = shard_of(organization_id), list(_hashes(counters))
        pipe.get(script.name(shard, script.EPOCH))
        for window_id, fields in hashes:
            pipe.hmget(script.name(shard, f"w:{organization_id}:{window_id}"), fields)
        at_once = [counter for counter in counters if counter.window_id == CONCURRENT]
        for counter in at_once:
            pipe.zcount(script.name(shard, f"z:{organization_id}:{counter.scope}"), now_ms, "+inf")
        asked.append((hashes, at_once))
    try:
        answers = iter(pipe.execute())
    except redis.RedisError:
        return [Counts() for _ in wanted]
    return [_counts(hashes, at_once, answers, now_ms) for hashes, at_once in asked]


def _hashes(counters: Iterable[Counter]) -> Iterator[_Asked]:
    """A minute is asked of together with the one before."""
    wanted: dict[str, dict[str, None]] = defaultdict(dict)
    for counter in counters:
        if counter.window_id == CONCURRENT:
            continue
        name = f"{counter.scope}.{counter.unit}"
        wanted[counter.window_id] |= {f"{name}.p": None, f"{name}.h": None}
        if counter.is_minute:
            wanted[_minute_before(counter.window_id)] |= {f"{name}.p": None, f"{name}.h": None}
    for window_id, fields in wanted.items():
        yield _Asked(window_id, list(fields))


def _counts(hashes: list[_Asked], at_once: list[Counter], answers: Iterator[Any], now_ms: int) -> Counts:
    epoch = next(answers) or b""
    values: dict[tuple[str, str], int] = {}
    for window_id, fields in hashes:
        for name, value in zip(fields, next(answers), strict=True):
            if value is not None:
                values[window_id, name] = int(value)
    running = {counter: int(next(answers)) for counter in at_once}
    if not epoch[:1].isdigit():
        return Counts()
    counts = Counts(is_live=True, posted=running)
    for window_id, fields in hashes:
        for name in fields:
            scope, unit, kind = name.split(".")
            _take(counts.posted if kind == "p" else counts.held, Counter(window_id, scope, unit), name, values, now_ms)
    return counts


def _take(
    into: dict[Counter, int], counter: Counter, name: str, values: dict[tuple[str, str], int], now_ms: int
) -> None:
    """As the scripts count a minute: of the one before, the part within the last sixty seconds (lua/reserve.lua)."""
    value = values.get((counter.window_id, name))
    if counter.is_minute:
        left_ms = windows.MINUTE_MS - now_ms % windows.MINUTE_MS
        before = values.get((_minute_before(counter.window_id), name), 0)
        into[counter] = (value or 0) + -(-before * left_ms // windows.MINUTE_MS)
    elif value is not None:
        into[counter] = value


def _minute_before(window_id: str) -> str:
    return f"i{int(window_id[1:]) - 1}"


# PostgreSQL


def _from_the_books(wanted: Sequence[Wanted], found: Sequence[Counts]) -> None:
    """Fill in what Redis did not tell: one question per window."""
    missing: dict[str, list[tuple[int, Counts, Counter]]] = defaultdict(list)
    for (organization_id, counters), counts in zip(wanted, found, strict=True):
        for counter in counters:
            if counter.window_id != CONCURRENT and not counter.is_minute and counter not in counts.posted:
                missing[counter.window_id].append((organization_id, counts, counter))
    for window_id, lacking in missing.items():
        sums = _sums({organization_id for organization_id, _, _ in lacking}, window_id)
        for organization_id, counts, counter in lacking:
            counts.posted[counter] = sums[organization_id, counter.scope, counter.unit]


def _sums(ids: Iterable[int], window_id: str) -> dict[tuple[int, str, str], int]:
    """By organization, scope field and unit field."""
    rows = UsageDay.objects.filter(organization_id__in=list(ids))
    if window_id != windows.LIFETIME_ID:
        first, after = windows.days_of(window_id)
        rows = rows.filter(day__gte=first, day__lt=after)
    counted: dict[str, Any] = {unit: Sum(RawSQL(sql, ())) for unit, sql in COUNTED_SQL.items()}  # noqa: S611 - constants
    sums: dict[tuple[int, str, str], int] = defaultdict(int)
    names = ("organization_id", "key_id", "model_id", *(f"sum_{unit}" for unit in UNITS))
    grouped = rows.values(*names[:3]).annotate(**{f"sum_{unit}": counted[unit] for unit in UNITS})
    for organization_id, key_id, model_id, *amounts in grouped.values_list(*names):
        for scope in ("o", f"k{key_id}", f"m{model_id}"):
            for unit, amount in zip(UNITS, amounts, strict=True):
                sums[organization_id, scope, unit] += int(amount)
    return sums
