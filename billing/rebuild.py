"""A shard's epoch: how Redis becomes fit to decide after its first start, a restart, a fail-over or a loss.

While a shard's epoch names no counter, or another run id than the server's, its scripts decide nothing. One process
takes the shard and prepares it (PREPARING), each step guarded by its token in the epoch's place, so that one that slept
and was replaced changes nothing more. Then the shard waits, for anybody to open (OPENING): dead workers' WALs of this
host are replayed into it, living workers bring in what Redis lost (assertion.py) and acknowledge. Who does not, holds
up the opening until its lease runs out, and for LATE_MS at least.

Counters are not copied: they are forgotten, and seeded from PostgreSQL and the stream on demand (seeds.py). So all that
matters is that every settled call is booked or on the stream, and every running call has its hold, before the opening.
What the books have is known for certain, because nothing that the journal read from the Redis before is booked after
`fence`.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from django.conf import settings
from django.db import connection, transaction

from billing import remains, replay, script, shard_leases, worker_leases
from billing.models import JournalShard
from billing.script import SyncRedis
from keys import publication
from keys.caller import SHARDS

log = logging.getLogger(__name__)

ABANDONED_MS: Final = 60_000
"""A rebuild whose token is older than this has lost its process; another begins again. On its own host that is seen at
once."""
LATE_MS: Final = 10_000
"""How long a rebuild waits for workers whose lease ran out lately: PostgreSQL may have been away, and then nobody could
renew. They acknowledge as soon as they have a connection to it again."""
HINDERED_SECONDS: Final = 1.0
NAMES_PER_STEP: Final = 500
HOLDS_PER_STEP: Final = 100

_TOKEN: Final = re.compile(r"~(?P<ms>\d+)-[0-9a-f]+-(?P<pid>\d+)@(?P<host>.*)")
_COUNTERS: Final = re.compile(rb"\{s(\d+)\}:[awz]:")


_at_work: Final[set[str]] = set()
"""Tokens of the shards that this process prepares now."""


class RebuildLost(Exception):
    """Another process took the shard over; what it does counts."""


@dataclass(slots=True)
class Shard:
    """A shard under rebuild."""

    client: SyncRedis
    number: int
    token: str
    counters: list[str] = field(default_factory=list)
    booked_id: str = "0-0"
    """The last stream id that is booked; no later one will be, of the Redis before."""

    @property
    def begun_ms(self) -> int:
        """By Redis' clock."""
        return int(self.token.partition("-")[0])

    def step(self, word: str, *values: Any) -> list[Any]:
        (verdict,) = script.run(self.client, [(word, self.number, 0, *values)])
        if verdict[0] != "OK":
            raise RebuildLost(f"shard {self.number} is {verdict[2]!r}")
        return verdict


def ensure_epochs(client: SyncRedis, *, shards: Iterable[int] = range(SHARDS)) -> list[int]:
    """Open every shard that is closed, as far as that can be done now; returns those that were opened. Cheap when all
    are open: called at the start of `manage.py journal` and every second. Raises redis.RedisError and what the database
    says. Any number of processes may call it at once."""
    numbers = list(shards)
    _prepare(client, numbers)
    waiting = _waiting(client, numbers)
    if not waiting:
        return []
    try:
        _bring_in(client, waiting)
    except replay.ReplayBusy as busy:
        log.warning("no shard is opened before dead workers' calls are brought in: %s", busy)
        return []
    opened = _through(OPENING, _acknowledged(waiting))
    if opened:
        log.warning("opened an epoch of shards %s", opened)
    return opened


def _bring_in(client: SyncRedis, waiting: Sequence[Shard]) -> None:
    """What dead workers of this host left. Where there is no folder, nobody left anything. ReplayBusy."""
    if settings.WAL_DIR.is_dir():
        replay.bring_in(client, settings.WAL_DIR, {shard.number: shard.token for shard in waiting})


def awaited(client: SyncRedis) -> list[str]:
    """The living workers that the rebuild of any shard waits for."""
    workers = worker_leases.live(settings.WAL_DIR)
    silent: set[str] = set()
    for shard in _waiting(client, range(SHARDS)):
        with suppress(RebuildLost):  # opened meanwhile
            silent.update(shard.step("acks", shard.token, workers)[2])
    return sorted(silent)


def hindered_by(client: SyncRedis) -> str:
    """While shards wait: the process of this host that keeps dead workers' calls from being brought in, its id or
    "unknown". Empty: none does."""
    if not settings.WAL_DIR.is_dir() or not _waiting(client, range(SHARDS)):
        return ""
    return remains.replayer(settings.WAL_DIR, HINDERED_SECONDS)


def _prepare(client: SyncRedis, numbers: Sequence[int]) -> None:
    tokens: list[str] = []
    try:
        claimed = _claimed(client, numbers, tokens)
        if claimed:
            _find_counters(client, claimed)
            _through(PREPARING, claimed)
    finally:
        _at_work.difference_update(tokens)


def _through(steps: Sequence[Callable[[Shard], None]], shards: Iterable[Shard]) -> list[int]:
    done = []
    for shard in shards:
        try:
            for step in steps:
                step(shard)
        except RebuildLost as lost:
            log.warning("another process rebuilds: %s", lost)
        else:
            done.append(shard.number)
    return done


def _waiting(client: SyncRedis, numbers: Sequence[int]) -> list[Shard]:
    states = script.run(client, [("epoch", number) for number in numbers])
    return [
        Shard(client, number, epoch[1:])
        for number, (_, _, epoch, *_) in zip(numbers, states, strict=True)
        if is_waiting(epoch)
    ]


def is_waiting(epoch: str) -> bool:
    """Whether the shard waits for its living workers; else it is open, or being prepared."""
    return epoch.startswith("~") and epoch.endswith("!")


def _acknowledged(waiting: Sequence[Shard]) -> Iterator[Shard]:
    live, late = worker_leases.live(settings.WAL_DIR), worker_leases.late(settings.WAL_DIR)
    missed: set[str] = set()
    for shard in waiting:
        try:
            _, now_ms, silent = shard.step("acks", shard.token, [*live, *late])
        except RebuildLost:
            continue  # opened by somebody else
        if now_ms - shard.begun_ms >= LATE_MS:
            silent = [worker for worker in silent if worker in live]
        missed.update(silent)
        if not silent:
            yield shard
    if missed:
        log.warning("the rebuild waits for workers %s", ", ".join(sorted(missed)))


def _claimed(client: SyncRedis, numbers: Sequence[int], tokens: list[str]) -> list[Shard]:
    """The shards that are closed and that nobody else is opening, taken. `tokens` gets what this process is at from
    now on, whatever becomes of it here."""
    found = []
    states = script.run(client, [("epoch", number) for number in numbers])
    for number, (_, now_ms, epoch, is_open, run_id) in zip(numbers, states, strict=True):
        if is_open or _is_under_way(epoch, now_ms):
            continue
        token = f"{now_ms}-{run_id}{secrets.token_hex(8)}-{os.getpid()}@{socket.gethostname()}"
        tokens.append(token)
        _at_work.add(token)
        (verdict,) = script.run(client, [("begin", number, 0, epoch, token)])
        if verdict[0] == "OK" or verdict[2] == f"~{token}":  # the client may have sent it twice
            found.append(Shard(client, number, token))
    return found


def _is_under_way(epoch: str, now_ms: int) -> bool:
    if is_waiting(epoch):
        return True
    found = _TOKEN.fullmatch(epoch)
    if found is None or now_ms - int(found["ms"]) >= ABANDONED_MS:
        return False
    return found["host"] != socket.gethostname() or _is_working(int(found["pid"]), epoch[1:])


def _is_working(pid: int, token: str) -> bool:
    """Whether the process of this host that took a shard is still at it: neither dead, nor failed and this one."""
    if pid == os.getpid():
        return token in _at_work
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _find_counters(client: SyncRedis, claimed: Sequence[Shard]) -> None:
    """One walk over Redis for all shards: the names of accounts, windows and running calls."""
    by_number = {shard.number: shard for shard in claimed}
    for name in _scanned(client):
        found = _COUNTERS.match(name)
        if found is not None and (shard := by_number.get(int(found[1]))) is not None:
            shard.counters.append(name.decode())


def _scanned(client: SyncRedis) -> Iterator[bytes]:
    pattern = "{s*}:[awz]:*"
    if isinstance(client, redis.RedisCluster):
        for node in client.get_primaries():  # type: ignore[no-untyped-call]
            yield from client.scan_iter(pattern, count=1000, target_nodes=node)
    else:
        yield from client.scan_iter(pattern, count=1000)


def fence(shard: Shard) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        shard.booked_id = shard_leases.fence(cursor, shard.number)


def forget_counters(shard: Shard) -> None:
    for part in _parts(shard.counters, NAMES_PER_STEP):
        shard.step("clear", shard.token, part)


def mark_streamed(shard: Shard) -> None:
    """What the stream still has needs nobody to bring it."""
    for part in _parts(list(replay.streamed(shard.client, shard.number)), NAMES_PER_STEP):
        shard.step("mark", shard.token, part)


def assert_holds(shard: Shard) -> None:
    """What surviving holds froze is frozen again, so that their calls may go on. A hold whose call is booked had ended,
    and Redis forgot that."""
    names = shard.client.hscan_iter(script.name(shard.number, script.HOLDS))
    call_ids = sorted({name.decode() for name, _ in names if not name.endswith(b":u")})
    for part in _parts(call_ids, HOLDS_PER_STEP):
        booked = replay.booked(part)
        shard.step("drop", shard.token, sorted(booked))
        shard.step("assert", shard.token, [call_id for call_id in part if call_id not in booked])


def await_workers(shard: Shard) -> None:
    shard.step("await", shard.token, shard.booked_id)
    shard.token += "!"


def publish_records(shard: Shard) -> None:
    """A Redis that lost its last seconds may hold a key's record from before its revocation."""
    publication.apply_everything(shard.number)


def open_epoch(shard: Shard) -> None:
    place = JournalShard.objects.filter(shard=shard.number).values_list("last_stream_id", flat=True).first()
    shard.step("finish", shard.token, place or "0-0")


PREPARING: Final[tuple[Callable[[Shard], None], ...]] = (
    fence,
    forget_counters,
    mark_streamed,
    assert_holds,
    await_workers,
)
OPENING: Final[tuple[Callable[[Shard], None], ...]] = (publish_records, open_epoch)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
