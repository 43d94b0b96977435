"""Journal entries that could not be booked: kept whole, so that nothing is lost, and booked later by `retry`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models.functions import Now

from billing import recording
from billing.entries import parse
from billing.models import DeadLetter, JournalShard

ERROR_CHARS_MAX = 2_000


def write(
    cursor: CursorWrapper, *, shard: int, stream_id: str, fields: Mapping[bytes, bytes], error: str, tries: int
) -> None:
    """In the transaction that moves the shard past the entry. A second delivery writes nothing."""
    cursor.execute(
        "INSERT INTO billing_deadletter (shard, stream_id, payload, error, tries) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (shard, stream_id) DO NOTHING",
        [shard, stream_id, msgspec.msgpack.encode(dict(fields)), _storable(error), tries],
    )


def _storable(error: str) -> str:
    return error.replace("\x00", "")[:ERROR_CHARS_MAX]


def payload_of(letter: DeadLetter) -> dict[bytes, bytes]:
    """The entry's fields, as they stood on the stream."""
    return msgspec.msgpack.decode(bytes(letter.payload), type=dict[bytes, bytes])


def retry(letter_id: int) -> None:
    """Books a dead letter as the journal would have. Redis counted the call when it was settled, so the counters are
    left alone; if Redis was rebuilt in between, `reconcile` names the difference. A letter that is resolved already
    stays so. Raises EntryRefused or what the database says, and changes nothing then."""
    with transaction.atomic(), connection.cursor() as cursor:
        letter = DeadLetter.objects.select_for_update().get(pk=letter_id)
        if letter.resolved_at is not None:
            return
        shard = JournalShard.objects.select_for_update(no_key=True).get(shard=letter.shard)
        entry = parse(letter.shard, letter.stream_id, payload_of(letter))
        recording.record(cursor, [entry], {letter.shard: shard.last_stream_id})
        DeadLetter.objects.filter(pk=letter_id).update(resolved_at=Now())
