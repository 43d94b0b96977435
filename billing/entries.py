"""What settle wrote on a shard's stream, read back and checked. Pure.

Fields of an entry: `o`, `k`, `m` (organization, key, model), `d` (brand day), `late` (1: the hold was gone, counters
were left alone), the amounts posted to the windows (`req`, `in`, `out`, `tok`, `cred`, `nano`), `bal` (taken off the
balance) and `e`, the event. Redis went by the fields, the books go by the event: an entry whose two halves differ is
refused, because either reading would make the two disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from billing import events
from billing.events import Event
from keys.caller import shard_of

_STATED = tuple((name, name.encode()) for name in ("o", "k", "m", "bal", *events.COUNTED_SQL))


class EntryRefused(Exception):
    """The entry cannot be booked, however often it is tried."""


class Entry(NamedTuple):
    shard: int
    stream_id: str
    late: bool
    event: Event


def parse(shard: int, stream_id: str, fields: Mapping[bytes, bytes]) -> Entry:
    """Raises EntryRefused."""
    try:
        event = events.decode(fields[b"e"])
        stated = {name: int(fields[field]) for name, field in _STATED}
        late = fields.get(b"late", b"0") == b"1"
        day = fields[b"d"].decode()
    except events.EventMalformed as error:
        raise EntryRefused(f"no event: {error}") from error
    except KeyError as error:
        raise EntryRefused(f"field {error} is missing") from error
    except ValueError as error:
        raise EntryRefused(str(error)) from error
    meant = {
        "o": event.organization_id,
        "k": event.key_id,
        "m": event.model_id,
        "bal": event.cost_nanos,
        **events.counted(event).by_unit(),
    }
    wrong = []
    if stated != meant:
        wrong = [
            f"{name} is {stated[name]}, the event says {due}" for name, due in meant.items() if stated[name] != due
        ]
    if day != event.day:
        wrong.append(f"d is {day}, the event says {event.day}")
    if shard_of(event.organization_id) != shard:
        wrong.append(f"organization {event.organization_id} is not of shard {shard}")
    if wrong:
        raise EntryRefused("; ".join(wrong))
    return Entry(shard, stream_id, late, events.storable(event))


def order(stream_id: str) -> tuple[int, int]:
    """Stream ids compare as two numbers."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)
