"""A shard's epoch: how Redis becomes fit to decide after its first start, a restart, a fail-over or a loss.

While a shard's epoch names no counter, or another run id than the server's, its scripts decide nothing. Opening it
takes STEPS in order, each guarded by the rebuilder's token in the epoch's place, so that one that slept and was
replaced changes nothing more. Counters are not copied: they are forgotten, and seeded from PostgreSQL on demand
(seeds.py), exact as long as what Redis lost of settled calls comes back through WALs.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from billing import script
from billing.models import JournalShard
from billing.script import SyncRedis
from keys import publication
from keys.caller import SHARDS

log = logging.getLogger(__name__)

ABANDONED_MS: Final = 60_000
"""A rebuild whose token is older than this has lost its process; another begins again."""
NAMES_PER_STEP: Final = 500
HOLDS_PER_STEP: Final = 100

_COUNTERS: Final = re.compile(rb"\{s(\d+)\}:[awz]:")


class RebuildLost(Exception):
    """Another process took the shard over; what it does counts."""


@dataclass(slots=True)
class Shard:
    """A shard under rebuild."""

    client: SyncRedis
    number: int
    token: str
    counters: list[str] = field(default_factory=list)

    def step(self, word: str, *values: Any) -> list[Any]:
        (verdict,) = script.run(self.client, [(word, self.number, 0, *values)])
        if verdict[0] != "OK":
            raise RebuildLost(f"shard {self.number} is {verdict[2]!r}")
        return verdict


def ensure_epochs(client: SyncRedis, *, shards: Iterable[int] = range(SHARDS)) -> list[int]:
    """Open every shard that is closed; returns those that were opened. Cheap when all are open: called at the start of
    `manage.py journal` and every second. Raises redis.RedisError. Any number of processes may call it at once."""
    claimed = _claimed(client, list(shards))
    if not claimed:
        return []
    _find_counters(client, claimed)
    opened = []
    for shard in claimed:
        try:
            for step in STEPS:
                step(shard)
        except RebuildLost as lost:
            log.warning("another process rebuilds: %s", lost)
        else:
            opened.append(shard.number)
    log.warning("opened an epoch of shards %s", opened)
    return opened


def _claimed(client: SyncRedis, numbers: Sequence[int]) -> list[Shard]:
    """The shards that are closed and that nobody else is opening, taken."""
    found = []
    states = script.run(client, [("epoch", number) for number in numbers])
    for number, (_, now_ms, epoch, is_open) in zip(numbers, states, strict=True):
        if is_open or _is_under_way(epoch, now_ms):
            continue
        token = f"{now_ms}-{secrets.token_hex(8)}"
        (verdict,) = script.run(client, [("begin", number, 0, epoch, token)])
        if verdict[0] == "OK" or verdict[2] == f"~{token}":  # the client may have sent it twice
            found.append(Shard(client, number, token))
    return found


def _is_under_way(epoch: str, now_ms: int) -> bool:
    return epoch.startswith("~") and now_ms - int(epoch[1:].partition("-")[0]) < ABANDONED_MS


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


def forget_counters(shard: Shard) -> None:
    for part in _parts(shard.counters, NAMES_PER_STEP):
        shard.step("clear", shard.token, part)


def assert_holds(shard: Shard) -> None:
    """What surviving holds froze is frozen again, so that their calls may go on."""
    names = shard.client.hscan_iter(script.name(shard.number, script.HOLDS))
    call_ids = sorted({name.decode() for name, _ in names if not name.endswith(b":u")})
    for part in _parts(call_ids, HOLDS_PER_STEP):
        shard.step("assert", shard.token, part)


def publish_records(shard: Shard) -> None:
    """A Redis that lost its last seconds may hold a key's record from before its revocation."""
    publication.apply_everything(shard.number)


def open_epoch(shard: Shard) -> None:
    place = JournalShard.objects.filter(shard=shard.number).values_list("last_stream_id", flat=True).first()
    shard.step("finish", shard.token, place or "0-0")


STEPS: Final[tuple[Callable[[Shard], None], ...]] = (
    forget_counters,
    assert_holds,
    publish_records,
    open_epoch,
)
"""The replay of WALs and the re-assertion of live workers' holds belong between assert_holds and publish_records. Until
they are here, the settlement of a hold that Redis lost comes late and through the journal."""


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
