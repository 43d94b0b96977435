"""The journal: takes settled calls from the shards' streams into PostgreSQL, each exactly once.

One turn: read a page of every shard (entries delivered before and not acknowledged first, then new ones), book them in
batches of one transaction each, acknowledge and delete after the commit. The order makes every crash harmless: before
the commit nothing happened; after it the entries come again and are known.

  PostgreSQL or Redis away, deadlock, lease lost   everything unacknowledged is read again, with growing pauses
  an entry that fails                              the batch is halved until the entry stands alone; after
                                                   TRIES_MAX tries it goes to the dead letters, and the others go on

Redis owns nothing here: it may lose the streams, the group and its consumers at any time.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, NamedTuple

import redis
from django.db import DatabaseError, InterfaceError, connection, transaction
from redis.exceptions import RedisError, ResponseError

from billing import counters, crash, dead_letters, recording, script, shard_leases
from billing.entries import Entry, EntryRefused, order, parse
from billing.recording import SecondWriter
from billing.shard_leases import LeaseLost, ShardLeases
from keys.caller import SHARDS

GROUP = "books"
READ_MAX = 500
"""Entries read of one shard at a time: more than a busy one gathers between turns."""
BATCH_MAX = 1_000
"""Entries booked in one transaction."""
TRIES_MAX = 3
GATHER_SECONDS = 0.1
"""Between turns while less than a page waits: entries gather, so that a batch is worth its statements and commit. At
two thousand calls a second 0.02 took twice the CPU per call (tests/speed)."""
PAUSE_SECONDS_MAX = 5.0
CLAIM_MAX = 1_000

_ENTRY_CLASSES = frozenset({"22", "23", "P0"})
"""SQLSTATE classes that blame the data (and triggers that refuse it); all others blame the moment."""

Notify = Callable[[str], None]


def stream_of(shard: int) -> str:
    return script.name(shard, script.JOURNAL)


class Lag(NamedTuple):
    """What waits to be booked, and since when (Unix ms; None when nothing waits)."""

    entries: int
    oldest_ms: int | None


def lag(store: redis.Redis) -> Lag:
    """For metrics and doctor."""
    pipeline = store.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.xlen(stream_of(shard))
        pipeline.xrange(stream_of(shard), count=1)
    answers = pipeline.execute()
    oldest = [order(_text(first[0][0]))[0] for first in answers[1::2] if first]
    return Lag(sum(answers[::2]), min(oldest, default=None))


@dataclass(slots=True)
class Delivery:
    """One entry as it was read: parsed, or with the reason why it cannot be booked."""

    shard: int
    stream_id: str
    fields: Mapping[bytes, bytes]
    entry: Entry | None = None
    error: str = ""
    tries: int = 0


class Journal:
    """`store` answers in bytes. `name` is this process among the others; no two share one. `notify` gets one line per
    notable event."""

    def __init__(self, store: redis.Redis, *, name: str, notify: Notify) -> None:
        self.name = name
        self._store = store
        self._notify = notify
        self._leases = ShardLeases(name)
        self._renew_at = 0.0
        self._behind: set[int] = set()  # shards with entries delivered to us and not acknowledged

    def run(self, stopping: threading.Event) -> None:
        """Until `stopping` is set; the batch at hand is finished. Outages are waited for, however long."""
        pause = 0.0
        while not stopping.is_set():
            try:
                read = self.turn()
            except _WAITED_FOR as error:
                pause = min(max(pause * 2, 0.05), PAUSE_SECONDS_MAX)
                self._notify(f"waiting {pause:.2f} s: {_one_line(error)}")
                self._start_over()
                stopping.wait(pause)
                continue
            if pause:
                pause = 0.0
                self._notify("going on")
            if read < READ_MAX:
                stopping.wait(GATHER_SECONDS)
        self._stop()

    def turn(self) -> int:
        """Reads and books one page of every shard we hold; the entries read. Raises what `run` waits for."""
        if monotonic() >= self._renew_at:
            self._renew()
        deliveries = self._read()
        for start in range(0, len(deliveries), BATCH_MAX):
            self._book(deliveries[start : start + BATCH_MAX])
        return len(deliveries)

    def _renew(self) -> None:
        turn = self._leases.renew()
        self._renew_at = monotonic() + shard_leases.RENEW_SECONDS
        if turn.gained or turn.lost:
            self._notify(f"holds {len(turn.held)} shards (+{len(turn.gained)}, -{len(turn.lost)})")
        self._behind = (self._behind | turn.gained) & turn.held
        for shard in sorted(turn.gained):
            self._take_over(shard)
        self._passed_by(dict.fromkeys(turn.held - turn.gained, 0))

    def _take_over(self, shard: int) -> None:
        """What a former writer read and never acknowledged becomes ours to read again; its name is forgotten."""
        stream = stream_of(shard)
        self._make_group(stream)
        start = "0-0"
        while True:
            start = _text(self._store.xautoclaim(stream, GROUP, self.name, 0, start, count=CLAIM_MAX)[0])
            if start == "0-0":
                break
        for consumer in self._store.xinfo_consumers(stream, GROUP):
            if _text(consumer["name"]) != self.name and not consumer["pending"]:
                self._store.xgroup_delconsumer(stream, GROUP, consumer["name"])

    def _make_group(self, stream: str) -> None:
        try:
            self._store.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _read(self) -> list[Delivery]:
        shards = sorted(self._leases.held)
        pipeline = self._store.pipeline(transaction=False)
        for shard in shards:
            unread = "0" if shard in self._behind else ">"
            pipeline.xreadgroup(GROUP, self.name, {stream_of(shard): unread}, count=READ_MAX)
        pages: dict[int, list[Delivery]] = {}
        for shard, answer in zip(shards, pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(answer, ResponseError) and "NOGROUP" in str(answer):
                self._take_over(shard)  # Redis has lost the stream
            elif isinstance(answer, Exception):
                raise answer
            else:
                page = [_delivery(shard, stream_id, fields) for stream_id, fields in _messages(answer)]
                if page:
                    pages[shard] = page
                else:
                    self._behind.discard(shard)
        for shard in self._passed_by({shard: len(page) for shard, page in pages.items() if shard not in self._behind}):
            del pages[shard]  # read again with what is before it: the books go forward in the stream's order
        return [delivery for page in pages.values() for delivery in page]

    def _passed_by(self, read: Mapping[int, int]) -> list[int]:
        """The shards of which more was delivered, and never acknowledged, than the so many entries just read: to us, by
        an answer that was lost (the client then asks again, and is told what comes after it), or to a writer that read
        on when its lease had run out. They are ours to read again, from the beginning."""
        if not read:
            return []
        pipeline = self._store.pipeline(transaction=False)
        for shard in read:
            pipeline.xpending(stream_of(shard), GROUP)
        found = []
        for (shard, count), answer in zip(read.items(), pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(answer, Exception):
                if "NOGROUP" in str(answer):
                    continue  # Redis has lost the stream: seen when it is read
                raise answer
            if answer["pending"] > count:
                found.append(shard)
                self._behind.add(shard)
                self._take_over(shard)
        return found

    def _book(self, batch: Sequence[Delivery]) -> None:
        """Halves a batch that fails until the culprit stands alone; halves keep the stream's order."""
        try:
            self._commit(batch)
        except _WAITED_FOR as error:
            if not _blames_the_entry(error):
                raise
            self._part(batch, error)
        except Exception as error:
            self._part(batch, error)

    def _part(self, batch: Sequence[Delivery], error: Exception) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            self._book(batch[:middle])
            self._book(batch[middle:])
            return
        delivery = batch[0]
        if delivery.entry is None:
            raise error  # what fails is keeping a dead letter, and that must not be given up
        delivery.tries += 1
        if delivery.tries >= TRIES_MAX:
            delivery.entry, delivery.error = None, _one_line(error)
        self._book(batch)

    def _commit(self, batch: Sequence[Delivery]) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            last_ids = self._leases.lock(cursor, {delivery.shard for delivery in batch})
            recording.record(cursor, [delivery.entry for delivery in batch if delivery.entry], last_ids)
            for delivery in batch:
                if delivery.error:
                    self._bury(cursor, delivery)
            shard_leases.advance(cursor, _advanced(last_ids, batch))
            crash.at("before_commit")
        crash.at("after_commit")
        self._acknowledge(batch)

    def _bury(self, cursor: Any, delivery: Delivery) -> None:
        self._notify(f"dead letter {stream_of(delivery.shard)} {delivery.stream_id}: {delivery.error}")
        dead_letters.write(
            cursor,
            shard=delivery.shard,
            stream_id=delivery.stream_id,
            fields=delivery.fields,
            error=delivery.error,
            tries=delivery.tries,
        )

    def _acknowledge(self, batch: Sequence[Delivery]) -> None:
        """After the commit only: a seed folds what the stream has past the committed id."""
        by_shard: dict[int, list[str]] = defaultdict(list)
        for delivery in batch:
            by_shard[delivery.shard].append(delivery.stream_id)
        for shard, ids in by_shard.items():
            counters.forget_journaled(self._store, shard, GROUP, ids)

    def _start_over(self) -> None:
        """After an outage: nothing that was read and not acknowledged may be passed by."""
        self._behind |= self._leases.held
        self._renew_at = 0.0
        connection.close()

    def _stop(self) -> None:
        try:
            self._leases.release()
        except (DatabaseError, InterfaceError) as error:
            self._notify(f"leases run out by themselves: {_one_line(error)}")
        connection.close()


_WAITED_FOR = (DatabaseError, InterfaceError, RedisError, LeaseLost, SecondWriter)


def _blames_the_entry(error: Exception) -> bool:
    return str(getattr(error.__cause__, "sqlstate", None) or "")[:2] in _ENTRY_CLASSES


def _delivery(shard: int, stream_id: bytes, fields: Mapping[bytes, bytes] | None) -> Delivery:
    delivery = Delivery(shard, _text(stream_id), fields or {})
    if not fields:
        return delivery  # deleted from the stream by hand: only to be acknowledged
    try:
        delivery.entry = parse(shard, delivery.stream_id, fields)
    except EntryRefused as error:
        delivery.error, delivery.tries = _one_line(error), 1
    return delivery


def _messages(answer: Any) -> Iterator[tuple[bytes, Mapping[bytes, bytes] | None]]:
    """RESP2 answers with a list of (stream, messages), RESP3 with a mapping."""
    if not answer:
        return
    if isinstance(answer, dict):
        for pages in answer.values():
            for page in pages:
                yield from page
    else:
        for _, page in answer:
            yield from page


def _advanced(last_ids: Mapping[int, str], batch: Sequence[Delivery]) -> dict[int, str]:
    advanced = dict(last_ids)
    for delivery in batch:
        advanced[delivery.shard] = max(advanced[delivery.shard], delivery.stream_id, key=order)
    return advanced


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
