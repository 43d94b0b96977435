"""Do Redis' counters agree with the books? Under traffic, and exactly.

Of a few organizations of one shard Redis is read in one MULTI: accounts, windows, holds, and the whole stream with its
last id. Then PostgreSQL is read in one snapshot that knows the shard's `last_stream_id`. Entries past that id are in
Redis' counters and not yet in the books; changes numbered past an account's `seq` are in the books and not in Redis.
Both are known, so both are taken into account. Only when the journal has booked something newer than the reading of
Redis (its id is past the stream's last one then) is the pair of readings useless and made again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
import redis
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing import script
from billing.entries import order
from billing.events import COUNTED_SQL
from billing.reconcile_books import Difference
from billing.script import HoldRecord
from billing.windows import FIRST_OF_MONTH, LIFETIME_ID, month_of_day
from keys.caller import SHARDS, shard_of

ORGANIZATIONS_MAX = 50
"""Read in one MULTI."""
ENTRIES_MAX = 50_000
"""Of a stream; with a longer backlog the journal has to catch up first."""
READINGS_MAX = 50
PAUSE_SECONDS = 0.02
UNITS = tuple(COUNTED_SQL)

Field = tuple[int, str, str, str]
"""Organization, window id (d…, m…, life), scope field (o, k…, m…), unit field: one counter."""


@dataclass(slots=True)
class _Counters:
    """One reading of Redis."""

    last_generated_id: str
    accounts: dict[int, dict[str, int]] = field(default_factory=dict)
    posted: dict[Field, int] = field(default_factory=dict)
    held: dict[Field, int] = field(default_factory=dict)
    entries: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    holds: list[HoldRecord] = field(default_factory=list)
    leases: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Books:
    """One reading of PostgreSQL, without the changes that Redis has not taken over at the time of its own reading."""

    last_stream_id: str
    balances: Counter[int] = field(default_factory=Counter)
    numbers: dict[int, int] = field(default_factory=dict)
    posted: Counter[Field] = field(default_factory=Counter)
    anchors: dict[int, int] = field(default_factory=dict)
    """On which day of the month an organization's months begin."""

    def add(self, organization_id: int, day: str, key_id: str, model_id: str, amounts: Mapping[str, int]) -> None:
        """To the organization's, the key's and the model's counters of the day, its month and the lifetime."""
        month = month_of_day(day, self.anchors.get(organization_id, FIRST_OF_MONTH))
        for window in (f"d{day}", month, LIFETIME_ID):
            for scope in ("o", f"k{key_id}", f"m{model_id}"):
                for unit, amount in amounts.items():
                    self.posted[organization_id, window, scope, unit] += amount


def differences(store: redis.Redis) -> Iterator[Difference]:
    """Every counter of an open shard that the books contradict. Closed shards are named: nobody is served from them."""
    run_id = _text(store.info("server")["run_id"])
    for shard, organizations in sorted(_organizations(store).items()):
        epoch = _text(store.get(script.name(shard, script.EPOCH)) or b"")
        if not epoch.endswith(f":{run_id}"):
            yield Difference("epoch", f"shard {shard}", "open", epoch or "closed")
            continue
        for start in range(0, len(organizations), ORGANIZATIONS_MAX):
            yield from _compared(store, shard, organizations[start : start + ORGANIZATIONS_MAX])


def _organizations(store: redis.Redis) -> dict[int, list[int]]:
    """By shard, those that Redis keeps an account or a window of."""
    found: dict[int, set[int]] = defaultdict(set)
    for kind in ("a", "w"):
        for key in store.scan_iter(match=f"{{s*}}:{kind}:*", count=1_000):
            organization_id = int(_text(key).split(":")[2])
            found[shard_of(organization_id)].add(organization_id)
    return {shard: sorted(ids) for shard, ids in found.items() if shard < SHARDS}


def _compared(store: redis.Redis, shard: int, organizations: Sequence[int]) -> list[Difference]:
    for _ in range(READINGS_MAX):
        counters = _read_counters(store, shard, organizations)
        if len(counters.entries) > ENTRIES_MAX:
            return [Difference("backlog", f"shard {shard}", f"at most {ENTRIES_MAX} entries", "more: not compared")]
        books = _read_books(shard, counters)
        if order(books.last_stream_id) <= order(counters.last_generated_id):
            _add_unread(books, counters)
            return [*_balances(counters, books), *_posted(counters, books), *_held(counters), *_leased(counters)]
        time.sleep(PAUSE_SECONDS)
    return [Difference("reading", f"shard {shard}", "a moment of rest", f"none in {READINGS_MAX} readings")]


# Redis


def _read_counters(store: redis.Redis, shard: int, organizations: Sequence[int]) -> _Counters:
    windows = sorted(
        _text(key) for each in organizations for key in store.scan_iter(match=script.name(shard, f"w:{each}:[dml]*"))
    )
    pipe = store.pipeline(transaction=True)
    pipe.xinfo_stream(script.name(shard, script.JOURNAL))
    pipe.xrange(script.name(shard, script.JOURNAL), count=ENTRIES_MAX + 1)
    pipe.hgetall(script.name(shard, script.HOLDS))
    pipe.zrange(script.name(shard, script.LEASES), 0, -1, withscores=True)
    for organization_id in organizations:
        pipe.hgetall(script.name(shard, f"a:{organization_id}"))
    for key in windows:
        pipe.hgetall(key)
    stream, entries, holds, leases, *hashes = pipe.execute(raise_on_error=False)
    last_id = "0-0" if isinstance(stream, redis.ResponseError) else _text(stream["last-generated-id"])
    counters = _Counters(last_id)
    counters.entries = [(_text(entry_id), _texts(fields)) for entry_id, fields in entries if fields]
    counters.holds = script.hold_records(holds, dict(leases))
    counters.leases = {_text(call_id) for call_id, _ in leases}
    for organization_id, fields in zip(organizations, hashes, strict=False):
        counters.accounts[organization_id] = {name: int(value) for name, value in _texts(fields).items()}
    for key, fields in zip(windows, hashes[len(organizations) :], strict=True):
        _add_window(counters, key, _texts(fields))
    return counters


def _add_window(counters: _Counters, key: str, fields: Mapping[str, str]) -> None:
    _, _, organization_id, window = key.split(":")
    for name, value in fields.items():
        scope, _, rest = name.partition(".")
        unit, _, kind = rest.partition(".")
        if kind in ("p", "h"):
            kept = counters.posted if kind == "p" else counters.held
            kept[int(organization_id), window, scope, unit] = int(value)


# PostgreSQL


def _read_books(shard: int, counters: _Counters) -> _Books:
    seeded = {each: account["seq"] for each, account in counters.accounts.items() if "seq" in account}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SELECT last_stream_id FROM billing_journalshard WHERE shard = %s", [shard])
        row = cursor.fetchone()
        books = _Books(row[0] if row else "0-0")
        cursor.execute("SELECT id, month_anchor FROM keys_organization WHERE id = ANY(%s)", [list(seeded)])
        books.anchors.update(cursor.fetchall())
        _read_wallets(cursor, books, list(seeded))
        _read_rollups(cursor, books, list(seeded))
        _take_off_changes(cursor, books, seeded)
    return books


def _read_wallets(cursor: CursorWrapper, books: _Books, organizations: list[int]) -> None:
    cursor.execute(
        "SELECT organization_id, balance_nanos, changes FROM billing_ledgeraccount"
        " WHERE kind = 'wallet' AND organization_id = ANY(%s)",
        [organizations],
    )
    for organization_id, balance_nanos, changes in cursor.fetchall():
        books.balances[organization_id] = balance_nanos
        books.numbers[organization_id] = changes


def _read_rollups(cursor: CursorWrapper, books: _Books, organizations: list[int]) -> None:
    sums = ", ".join(f"sum({columns})::bigint" for columns in COUNTED_SQL.values())
    cursor.execute(
        f"SELECT organization_id, to_char(day, 'YYYYMMDD'), key_id, model_id, {sums} FROM billing_usageday"  # noqa: S608
        " WHERE organization_id = ANY(%s) GROUP BY 1, 2, 3, 4",
        [organizations],
    )
    for organization_id, day, key_id, model_id, *amounts in cursor.fetchall():
        books.add(organization_id, day, key_id, model_id, dict(zip(UNITS, amounts, strict=True)))


def _take_off_changes(cursor: CursorWrapper, books: _Books, seeded: Mapping[int, int]) -> None:
    """What is numbered past an account's `seq` is on its way to Redis."""
    cursor.execute(
        "SELECT change.organization_id, balance_nanos, day, key_id, model_id, amounts::text"
        " FROM billing_counterchange change JOIN unnest(%s::bigint[], %s::bigint[]) AS taken (organization_id, seq)"
        " ON change.organization_id = taken.organization_id AND change.seq > taken.seq",
        [list(seeded), list(seeded.values())],
    )
    for organization_id, balance_nanos, day, key_id, model_id, amounts in cursor.fetchall():
        books.balances[organization_id] -= balance_nanos
        if day:
            taken_off = {unit: -amount for unit, amount in orjson.loads(amounts).items()}
            books.add(organization_id, day, key_id, model_id, taken_off)


# Between them


def _add_unread(books: _Books, counters: _Counters) -> None:
    """What settle did to the counters and the journal has not booked yet."""
    for entry_id, of in counters.entries:
        if order(entry_id) > order(books.last_stream_id) and of.get("late") == "0":
            organization_id = int(of["o"])
            books.balances[organization_id] -= int(of["bal"])
            books.add(organization_id, of["d"], of["k"], of["m"], {unit: int(of[unit]) for unit in UNITS})


def _balances(counters: _Counters, books: _Books) -> Iterator[Difference]:
    for organization_id, account in counters.accounts.items():
        if "seq" not in account:
            continue  # not seeded: nobody is served from it
        subject = f"organization {organization_id}"
        if account["seq"] > books.numbers.get(organization_id, 0):
            yield Difference("change number", subject, books.numbers.get(organization_id, 0), account["seq"])
        if account.get("bal", 0) != books.balances[organization_id]:
            yield Difference("counter balance", subject, books.balances[organization_id], account.get("bal"))


def _posted(counters: _Counters, books: _Books) -> Iterator[Difference]:
    for place, found in counters.posted.items():
        if "seq" in counters.accounts[place[0]] and found != books.posted[place]:
            yield Difference("counter", _named(place), books.posted[place], found)


def _held(counters: _Counters) -> Iterator[Difference]:
    """What is held is the sum of the holds. An expired window keeps nothing, so only those that exist are compared."""
    money: Counter[int] = Counter()
    amounts: Counter[Field] = Counter()
    for hold in counters.holds:
        money[hold.organization_id] += hold.held_nanos
        for window, scope, unit, amount in hold.held:
            amounts[hold.organization_id, window, scope, unit] += amount
    for organization_id, account in counters.accounts.items():
        if account.get("held", 0) != money[organization_id]:
            subject = f"organization {organization_id}"
            yield Difference("held balance", subject, money[organization_id], account.get("held", 0))
    for place, found in counters.held.items():
        if found != amounts[place]:
            yield Difference("held counter", _named(place), amounts[place], found)


def _leased(counters: _Counters) -> Iterator[Difference]:
    held = {hold.call_id for hold in counters.holds}
    for call_id in sorted(held - counters.leases):
        yield Difference("lease", f"call {call_id}", "a lease that ends", "a hold without one")
    for call_id in sorted(counters.leases - held):
        yield Difference("lease", f"call {call_id}", "a hold", "a lease without one")


def _named(place: Field) -> str:
    organization_id, window, scope, unit = place
    return f"organization {organization_id}, window {window}, {scope}.{unit}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {_text(name): value.decode(errors="replace") for name, value in fields.items()}
