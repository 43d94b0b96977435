"""The one script of the counters, the names it uses in Redis, and how a synchronous process runs it.

Every name of an organization carries its shard's tag `{sN}`, so a step touches one slot of a cluster. What each step
takes, answers and keeps true stands at the head of its file in lua/. README.md has the table of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import redis

from keys.caller import shard_of

SyncRedis = Any
"""redis.Redis or redis.RedisCluster that answers in bytes (keys.connections.redis_client)."""

FILES: Final = (
    "prelude",
    "arithmetic",
    "counts",
    "asked",
    "reserve",
    "settle",
    "void",
    "renew",
    "seed",
    "apply",
    "check",
    "forget",
    "rebuild",
    "dispatch",
)
TEXT: Final = "".join((Path(__file__).parent / "lua" / f"{name}.lua").read_text() for name in FILES).encode()
SHA: Final = sha1(TEXT, usedforsecurity=False).hexdigest().encode()

FORGET_MAX: Final = 1_000
"""Ids per step: Lua unpacks them onto its stack."""

JOURNAL: Final = "journal"
DRAINED: Final = "drained"
HOLDS: Final = "holds"
LEASES: Final = "leases"
EPOCH: Final = "epoch"

Entry = Sequence[Any]
Verdict = list[Any]

encode: Final = msgspec.msgpack.Encoder().encode
"""One entry. Text only, no bytes: the script's msgpack knows no binary type."""
decode: Final = msgspec.msgpack.Decoder(list[list[Any]]).decode


def packed(encoded: Sequence[bytes]) -> bytes:
    """The script's argument: a msgpack list of entries that were encoded one by one."""
    count = len(encoded)
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return header + b"".join(encoded)


def embedded(value: Sequence[Any]) -> msgspec.Raw:
    """Part of an entry as text that a step unpacks itself, so that it need do so once for equal ones."""
    encoded = encode(value)
    return msgspec.Raw(b"\xdb" + len(encoded).to_bytes(4, "big") + encoded)


def name(shard: int, rest: str) -> str:
    return f"{{s{shard}}}:{rest}"


class CountersFailed(Exception):
    """A step failed inside the script; nothing of it was written. The text is Redis' own."""


def run(client: SyncRedis, entries: Sequence[Entry]) -> list[Verdict]:
    """The verdicts of entries, in order. On a single server they are one script call, in a cluster one per shard.
    Raises redis.RedisError when the outcome is unknown and CountersFailed when a step failed."""
    if not isinstance(client, redis.RedisCluster):
        return _called(client, entries)
    verdicts: dict[int, Verdict] = {}
    for shard in {entry[1] for entry in entries}:
        places = [place for place, entry in enumerate(entries) if entry[1] == shard]
        verdicts.update(zip(places, _called(client, [entries[place] for place in places]), strict=True))
    return [verdicts[place] for place in range(len(entries))]


def _called(client: SyncRedis, entries: Sequence[Entry]) -> list[Verdict]:
    keys = sorted({name(entry[1], EPOCH) for entry in entries})
    arguments = (len(keys), *keys, packed([encode(entry) for entry in entries]))
    try:
        reply = client.execute_command("EVALSHA", SHA, *arguments)
    except redis.exceptions.NoScriptError:
        reply = client.execute_command("EVAL", TEXT, *arguments)
    verdicts = decode(reply)
    for verdict in verdicts:
        if verdict[0] == "ERROR":
            raise CountersFailed(verdict[2])
    return verdicts


class Change(Protocol):
    """A billing.models.CounterChange. `day` is YYYYMMDD or empty, `month_id` the month it counts in. Amounts by unit
    field, signed."""

    @property
    def organization_id(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def balance_nanos(self) -> int: ...
    @property
    def day(self) -> str: ...
    @property
    def month_id(self) -> str: ...
    @property
    def key_id(self) -> int | None: ...
    @property
    def model_id(self) -> int | None: ...
    @property
    def amounts(self) -> Mapping[str, int]: ...


Applied = Literal["applied", "already", "unseeded", "gap", "closed"]
_APPLIED: Final[dict[str, Applied]] = {
    "OK": "applied",
    "ALREADY": "already",
    "UNSEEDED": "unseeded",
    "GAP": "gap",
    "EPOCH": "closed",
}
DONE: Final = frozenset({"applied", "already", "unseeded"})
"""Answers after which a change needs nothing more; the others are tried again later."""


def apply_change_sync(client: SyncRedis, change: Change) -> Applied:
    """Take over one change, in order of seq. "gap": an earlier one is missing; "closed": the shard is being rebuilt."""
    (verdict,) = run(client, [apply_entry(change)])
    if verdict[0] == "FULL":
        raise CountersFailed(f"change {change.seq} of organization {change.organization_id} passes int64: {verdict[2]}")
    return _APPLIED[verdict[0]]


def apply_entry(change: Change) -> Entry:
    amounts = [part for unit, amount in change.amounts.items() if amount for part in (unit, str(amount))]
    return (
        "apply",
        shard_of(change.organization_id),
        0,
        str(change.organization_id),
        str(change.seq),
        str(change.balance_nanos),
        change.day,
        "" if change.key_id is None else str(change.key_id),
        "" if change.model_id is None else str(change.model_id),
        amounts,
        change.month_id,
    )


def forget_journaled(client: SyncRedis, shard: int, group: str, ids: Iterable[str]) -> None:
    """Delete entries whose effect is committed, `ids` in order. In the same step Redis notes how far the stream is
    drained: a seed whose reading of PostgreSQL is older than that starts again (lua/seed.lua)."""
    done = list(ids)
    for start in range(0, len(done), FORGET_MAX):
        run(client, [("forget", shard, 0, group, done[start : start + FORGET_MAX])])


class HoldRecord(NamedTuple):
    """A hold as Redis keeps it. `held`: (window id, scope field, unit field, amount) of each counter."""

    call_id: str
    organization_id: int
    key_id: int
    model_id: int
    held_nanos: int
    granted: int
    payer: str
    held: tuple[tuple[str, str, str, int], ...]
    made_at_ms: int
    deadline_ms: int | None


def read_holds(client: SyncRedis, shard: int) -> list[HoldRecord]:
    """The running holds of a shard, for reconcile."""
    leases = dict(client.zrange(name(shard, LEASES), 0, -1, withscores=True))
    return hold_records(dict(client.hscan_iter(name(shard, HOLDS))), leases)


def hold_records(holds: Mapping[bytes, bytes], leases: Mapping[bytes, float]) -> list[HoldRecord]:
    """What the hash HOLDS and the sorted set LEASES of a shard say, however they were read."""
    return [
        _hold_record(call_id, blob, leases.get(call_id))
        for call_id, blob in holds.items()
        if not call_id.endswith(b":u")
    ]


UNITS: Final = ("req", "in", "out", "tok", "cred", "nano")
"""Unit fields in the script's order."""


def _hold_record(call_id: bytes, blob: bytes, deadline: float | None) -> HoldRecord:
    fields, _reply = msgspec.msgpack.decode(b"\x92" + blob)  # two values, read as a list of two
    ids = (fields[4], fields[5], "life", f"i{fields[6]}")
    flat = fields[8]
    held = tuple((ids[flat[n] - 1], flat[n + 1], UNITS[flat[n + 2] - 1], flat[n + 3]) for n in range(0, len(flat), 4))
    return HoldRecord(
        call_id=call_id.decode(),
        organization_id=int(fields[0]),
        key_id=int(fields[1]),
        model_id=int(fields[2]),
        held_nanos=fields[7],
        granted=fields[10],
        payer=fields[11],
        held=held,
        made_at_ms=fields[13],
        deadline_ms=None if deadline is None else int(deadline),
    )
