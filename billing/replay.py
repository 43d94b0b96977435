"""Replay: the calls of dead workers, from their WAL into Redis and the books, each once; and when a file may go.

  booked, with the amounts of the S line    nothing to do
  booked as lapsed, with less than P says   settles at the P line, late: the books are corrected
  on its way through the stream             wait
  S line                                    settles with the line's event: with its hold as ever, without it late
  D line without S                          settles at the last P line, end_reason lapsed; without a P at no cost
  reserved only                             no line: the lease runs out, and the sweeper ends the hold at no cost

The same may be done twice, by anybody, at any time: a hold settles once, and the journal drops a late entry that says
what is booked. Where both the lease's sweeper and a line know a call, the line knows more, and corrects.

A file goes when every call in it is booked with what the file says of it, or kept as a dead letter: PostgreSQL has
committed it, so Redis may be lost from then on. A full segment of a living worker goes when its calls are over as well:
later lines of a call may stand in other segments, and its worker may yet write more.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from django.db import connection

from billing import event_rows, events, remains, script, worker_leases
from billing.admission import settle_entry
from billing.dead_letters import payload_of
from billing.event_rows import Booked
from billing.events import Event, EventMalformed
from billing.models import DeadLetter
from billing.remains import Told
from billing.script import SyncRedis
from keys.caller import shard_of

log = logging.getLogger(__name__)

IDS_PER_QUERY: Final = 2_000
ENTRIES_PER_PAGE: Final = 1_000
SETTLES_PER_STEP: Final = 50
BRING_IN_SECONDS_MAX: Final = 10.0

LAPSED: Final = "lapsed"
_CALL_ID: Final = re.compile(r"^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")
_T = TypeVar("_T")


class ReplayBusy(Exception):
    """Another process of this host is at the dead workers' files, and does not end: busy, or stopped. What they left is
    not known to be in Redis, so no shard may open on it."""


class Replayed(NamedTuple):
    """`settled`: calls sent to Redis in this turn; `left`: calls that are not booked yet; `retired`: files."""

    settled: int = 0
    left: int = 0
    retired: int = 0

    def plus(self, other: Replayed) -> Replayed:
        return Replayed(self.settled + other.settled, self.left + other.left, self.retired + other.retired)


class _Named(msgspec.Struct):
    call_id: str


_named: Final = msgspec.json.Decoder(_Named).decode


def run(client: SyncRedis, folder: Path) -> Replayed:
    """Everything that can be done now for the dead workers of this host. One process per host is at it at a time, the
    others return at once. Raises redis.RedisError and what the database says: to be tried again."""
    with remains.alone(folder) as is_ours:
        if not is_ours:
            return Replayed()
        total = Replayed(retired=_retire_full_segments(folder))
        with remains.dead(folder) as found:
            for each in found:
                total = total.plus(_replayed(client, each))
    return total


def _replayed(client: SyncRedis, dead: remains.Remains) -> Replayed:
    calls = dead.calls()
    open_ids = unbooked(calls)
    if not open_ids:
        worker_leases.forget(dead.worker)
        return Replayed(retired=len(dead.paths) if _deleted(dead) else 0)
    settled = settle(client, [event for event in missing(client, calls, open_ids) if event is not None])
    return Replayed(settled=settled, left=len(open_ids))


def _deleted(dead: remains.Remains) -> bool:
    """Where the folder cannot be written the files stay, and harm nobody: everything in them is booked."""
    try:
        dead.delete()
    except OSError as error:
        log.warning("the files of dead worker %s cannot be deleted: %s", dead.worker, error)
        return False
    return True


def bring_in(client: SyncRedis, folder: Path, tokens: Mapping[int, str]) -> int:
    """During a rebuild: what dead workers of this host settled or sent to engines, and Redis lost, back into the shards
    that wait with these tokens. How many calls were brought in. When another process of this host is at it, this waits
    for that one. ReplayBusy: in vain, and nothing can be said of those files; to be tried again before an opening."""
    with remains.alone(folder, BRING_IN_SECONDS_MAX) as is_ours:
        if not is_ours:
            raise ReplayBusy(f"process {remains.replayer(folder, 0) or 'unknown'} is at the files in {folder}")
        with remains.dead(folder) as found:
            return sum(_brought_in(client, each.calls(), tokens) for each in found)


def _brought_in(client: SyncRedis, calls: Mapping[str, Told], tokens: Mapping[int, str]) -> int:
    known = booked(calls)
    now_ms, entries = int(time.time() * 1000), []
    for call_id, call in calls.items():
        try:
            event = None if call_id in known or call.shard() not in tokens else call.event(now_ms)
        except (EventMalformed, msgspec.DecodeError):
            continue  # `run` tells
        if event is not None:
            entries.append(bring_entry(event, tokens[shard_of(event.organization_id)]))
    taken = 0
    for part in _parts(entries, SETTLES_PER_STEP):
        taken += sum(verdict[0] == "OK" for verdict in script.run(client, part))
    return taken


def bring_entry(event: Event, token: str) -> tuple[Any, ...]:
    """The script's replay of a settled call, into a shard that waits with this token."""
    return ("replay", *settle_entry(event, events.encode(event))[1:], token)


def _is_told(call_id: str, call: Told, there: Booked | None) -> bool:
    if there is None:
        if not (call.settled or call.dispatched):
            log.warning("call %s has progress and no beginning in the WAL: nothing can be said of it", call_id)
            return True
        return False
    try:
        if call.settled:
            return event_rows.amounts_of(events.decode(call.settled)) == there.total
        return there.end_reason != LAPSED or not _progressed_past(call, there)
    except (EventMalformed, msgspec.DecodeError):
        return True


def _is_over(call_id: str, call: Told, there: Booked | None) -> bool:
    """The same of a worker that lives: what is not booked may have its beginning in another segment, and more may come
    of a call that lapsed, until its worker has settled and thereby corrected it."""
    if there is None:
        return False
    if there.end_reason == LAPSED and not call.settled:
        return there.total != there.first
    return _is_told(call_id, call, there)


def unbooked(calls: Mapping[str, Told], is_told: Callable[[str, Told, Booked | None], bool] = _is_told) -> list[str]:
    """The calls of which the books do not have what their lines say."""
    found = booked(calls)
    kept = dead_lettered() if len(found) < len(calls) else frozenset()
    return [
        call_id
        for call_id, call in calls.items()
        if call_id not in kept and not is_told(call_id, call, found.get(call_id))
    ]


def _progressed_past(call: Told, there: Booked) -> bool:
    """Whether the lease's sweeper knew less of a lapsed call than its last P line: a worker that slept past its leases,
    woke up, delivered more, and was killed."""
    event = call.event(0) if call.progress else None
    if event is None:
        return False
    said, known = event_rows.amounts_of(event), there.total
    return said.output_tokens > known.output_tokens or said.list_cost_nanos > known.list_cost_nanos


def missing(client: SyncRedis, calls: Mapping[str, Told], open_ids: Sequence[str]) -> Iterator[Event | None]:
    """What must be settled: neither on a stream nor booked. The streams are read before the books, because the journal
    deletes an entry after its commit: what is in neither is lost, or was never settled. None: cannot be read."""
    shards = {shard for shard in (calls[call_id].shard() for call_id in open_ids) if shard is not None}
    on_the_way = {call_id for shard in shards for call_id in streamed(client, shard)}
    waiting = {call_id: calls[call_id] for call_id in open_ids if call_id not in on_the_way}
    now_ms = int(time.time() * 1000)
    for call_id in unbooked(waiting):
        try:
            yield calls[call_id].event(now_ms)
        except (EventMalformed, msgspec.DecodeError):
            log.exception("what the WAL says of call %s cannot be read; its file is kept", call_id)
            yield None


def streamed(client: SyncRedis, shard: int) -> Iterator[str]:
    """The call ids of all entries of a shard's stream."""
    stream, start = script.name(shard, script.JOURNAL), "-"
    while page := client.xrange(stream, start, "+", count=ENTRIES_PER_PAGE):
        for _, fields in page:
            try:
                yield _named(fields[b"e"]).call_id
            except (KeyError, msgspec.DecodeError):
                continue  # the journal's to judge
        start = f"({page[-1][0].decode()}"


def settle(client: SyncRedis, settled: Sequence[Event]) -> int:
    """Sends the events to Redis; how many it took. A shard that is being rebuilt takes none."""
    taken = 0
    for part in _parts(settled, SETTLES_PER_STEP):
        verdicts = script.run(client, [settle_entry(event, events.encode(event)) for event in part])
        taken += sum(verdict[0] == "OK" for verdict in verdicts)
    if taken:
        log.warning("settled %d calls from a worker's WAL", taken)
    return taken


def settle_again(client: SyncRedis, calls: Mapping[str, Told]) -> dict[str, Told]:
    """What a living worker charged, in shards that were opened since: sent again, late, unless it is on a stream, and
    twice does no harm. Returns the calls of which the books do not have what the lines say: to be looked at again."""
    open_ids = unbooked(calls)
    settle(client, [event for event in missing(client, calls, open_ids) if event is not None])
    return {call_id: calls[call_id] for call_id in open_ids}


def booked(call_ids: Iterable[str]) -> dict[str, Booked]:
    """Those of the calls that are in the books; what is no id of ours is not."""
    found: dict[str, Booked] = {}
    with connection.cursor() as cursor:
        for part in _parts(sorted(filter(_CALL_ID.match, call_ids)), IDS_PER_QUERY):
            found |= event_rows.booked_among(cursor, part)
    return found


def dead_lettered() -> frozenset[str]:
    """Calls that are kept whole, though not booked."""
    found = set()
    for letter in DeadLetter.objects.filter(resolved_at=None).iterator():
        try:
            found.add(_named(payload_of(letter)[b"e"]).call_id)
        except (KeyError, msgspec.DecodeError):
            continue
    return frozenset(found)


def _retire_full_segments(folder: Path) -> int:
    """Segments of living workers that nothing is written to, and whose calls are all over."""
    retired = 0
    for path in remains.full_segments(folder):
        if _may_go(path):
            path.unlink(missing_ok=True)
            retired += 1
    return retired


def _may_go(path: Path) -> bool:
    """The worker's other segments are read only where they can decide: of lapsed calls, which end elsewhere."""
    open_ids = unbooked(remains.told([path]), _is_over)
    if not open_ids or len(booked(open_ids)) < len(open_ids):
        return not open_ids
    calls = remains.told(remains.segments(path.parent, remains.worker_of(path)))
    return not unbooked({call_id: calls[call_id] for call_id in open_ids}, _is_over)


def _parts(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
