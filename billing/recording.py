"""One batch of journal entries into the books: events, postings, rollups, last use of keys, counter changes.

The caller owns the transaction and the leased rows of the shards (one writer per shard), so what is new is decided by
looking, postings are made first, and every event is inserted with its posting. `ON CONFLICT DO NOTHING` stands behind
that: if a call that was new a moment ago is not new any more, somebody else writes and the batch is given up.

  entry              call is not booked        booked with equal amounts    booked with other amounts
  from a hold        event                     dropped                      refused (two settles of one hold)
  late               event + counter change    dropped                      correction + posting + counter change
  late, of a lapse   the same                  dropped                      dropped where it says no more than is booked

Delivered again after its commit, an entry is dropped: its call is booked and its id is not past the shard's last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson
from django.db.backends.utils import CursorWrapper

from billing import event_rows, events, ledger, rollups
from billing.entries import Entry, EntryRefused, order
from billing.event_rows import Amounts, Booked, Row
from billing.models import Posting

LAPSED: Final = "lapsed"


class SecondWriter(Exception):
    """Another process wrote to a shard whose lease we hold; the batch is rolled back and read again."""


class Recorded(NamedTuple):
    """What became of a batch's entries."""

    new: int
    corrected: int
    dropped: int


class _Correction(NamedTuple):
    id: str
    late: Entry
    booked: Booked


@dataclass(slots=True)
class _Plan:
    new: list[Entry] = field(default_factory=list)
    corrections: list[_Correction] = field(default_factory=list)
    dropped: int = 0


def record(cursor: CursorWrapper, entries: Sequence[Entry], last_ids: Mapping[int, str]) -> Recorded:
    """Books the entries, which are in stream order per shard. Raises EntryRefused for an entry that contradicts the
    books, SecondWriter, and whatever the database says."""
    plan = _plan(entries, event_rows.booked_among(cursor, [entry.event.call_id for entry in entries]), last_ids)
    rows = _rows(plan)
    inserted = event_rows.insert(cursor, rows)
    if len(inserted) != len(rows):
        raise SecondWriter(f"{len(rows) - len(inserted)} of {len(rows)} events were there already")
    rollups.add(cursor, rows)
    _note_use(cursor, plan.new)
    return Recorded(len(plan.new), len(plan.corrections), plan.dropped)


def _plan(entries: Sequence[Entry], booked: dict[str, Booked], last_ids: Mapping[int, str]) -> _Plan:
    plan = _Plan()
    for entry in entries:
        call_id = entry.event.call_id
        before = booked.get(call_id)
        if before is None:
            plan.new.append(entry)
            booked[call_id] = event_rows.booked_as(entry.event)
        elif before.organization_id != entry.event.organization_id:
            raise EntryRefused(f"call {call_id} is booked for organization {before.organization_id}")
        elif _is_known(entry, before, last_ids):
            plan.dropped += 1
        elif entry.late:
            correction_id = event_rows.correction_id(call_id, entry.stream_id)
            plan.corrections.append(_Correction(correction_id, entry, before))
            booked[call_id] = before._replace(total=event_rows.amounts_of(entry.event))
        else:
            raise EntryRefused(f"call {call_id} is booked with other amounts, and this entry is not late")
    return plan


def _is_known(entry: Entry, before: Booked, last_ids: Mapping[int, str]) -> bool:
    amounts = event_rows.amounts_of(entry.event)
    if amounts == before.total or (amounts == before.first and not entry.late):
        return True
    if entry.late and entry.event.end_reason == LAPSED and _says_no_more(amounts, before.total):
        return True  # who ended it for its dead worker had not heard yet that its charge was posted
    return order(entry.stream_id) <= order(last_ids[entry.shard])


def _says_no_more(said: Amounts, known: Amounts) -> bool:
    return said.output_tokens <= known.output_tokens and said.list_cost_nanos <= known.list_cost_nanos


def _rows(plan: _Plan) -> list[Row]:
    """Posts what the plan costs and numbers the counter changes, then makes the rows that name those postings."""
    usage = _usage_postings(plan.new)
    corrections = {fix.id: _correction_posting(fix) for fix in plan.corrections if _difference(fix).cost_nanos}
    posted = ledger.post_all([*usage.values(), *corrections.values()], _counter_changes(plan))
    stale = [each.posting.reference for each in posted if not each.is_new]
    if stale:
        raise SecondWriter(f"posted already: {', '.join(stale)}")
    ids = dict(zip([*usage, *corrections], (each.posting.id for each in posted), strict=True))
    rows = [
        event_rows.call_row(entry.event, ids[_payer(entry)] if entry.event.cost_nanos else None) for entry in plan.new
    ]
    for fix in plan.corrections:
        rows.append(event_rows.correction_row(fix.id, fix.late.event, fix.booked, ids.get(fix.id)))
    return rows


def _payer(entry: Entry) -> tuple[int, int]:
    return entry.event.brand_id, entry.event.organization_id


def _usage_postings(entries: Sequence[Entry]) -> dict[tuple[int, int] | str, ledger.Entry]:
    """One posting per organization that owes something, named by the first call it pays for."""
    costs: dict[tuple[int, int], int] = {}
    first: dict[tuple[int, int], str] = {}
    for entry in entries:
        if entry.event.cost_nanos:
            costs[_payer(entry)] = costs.get(_payer(entry), 0) + entry.event.cost_nanos
            first.setdefault(_payer(entry), entry.event.call_id)
    return {payer: _posting(payer, "usage", first[payer], cost) for payer, cost in sorted(costs.items())}


def _correction_posting(fix: _Correction) -> ledger.Entry:
    payer = (fix.booked.brand_id, fix.booked.organization_id)
    return _posting(payer, "correction", fix.id, _difference(fix).cost_nanos)


def _posting(payer: tuple[int, int], kind: str, name: str, cost_nanos: int) -> ledger.Entry:
    brand_id, organization_id = payer
    return ledger.Entry(
        brand_id=brand_id,
        organization_id=organization_id,
        kind=Posting.Kind(kind),
        reference=f"{kind}:{name}",
        lines=ledger.charge_lines(organization_id, cost_nanos),
    )


def _difference(fix: _Correction) -> Amounts:
    return event_rows.amounts_of(fix.late.event).minus(fix.booked.total)


def _counter_changes(plan: _Plan) -> list[ledger.Change]:
    """Late entries left Redis alone: it takes over what they say through the outbox."""
    changes = [
        _change(event_rows.booked_as(entry.event), entry.event.cost_nanos, events.counted(entry.event).by_unit())
        for entry in plan.new
        if entry.late
    ]
    for fix in plan.corrections:
        difference = _difference(fix)
        changes.append(_change(fix.booked, difference.cost_nanos, _counted_difference(difference)))
    return changes


def _change(place: Booked, cost_nanos: int, amounts: dict[str, int]) -> ledger.Change:
    return ledger.Change(
        brand_id=place.brand_id,
        organization_id=place.organization_id,
        balance_nanos=-cost_nanos,
        day=place.day,
        key_id=place.key_id,
        model_id=place.model_id,
        amounts=amounts,
    )


def _counted_difference(difference: Amounts) -> dict[str, int]:
    prompt = difference.uncached_input_tokens + difference.cache_read_tokens + difference.cache_write_tokens
    return {
        "req": 0,
        "in": prompt,
        "out": difference.output_tokens,
        "tok": prompt + difference.output_tokens,
        "cred": difference.credits,
        "nano": difference.cost_nanos,
    }


_NOTE_USE = """
INSERT INTO keys_keyuse AS known (key_id, last_used_at, address, agent)
SELECT use.key_id, to_timestamp(use.started_at_ms / 1000.0), use.address, use.agent
FROM json_to_recordset(%s::json) AS use (key_id bigint, started_at_ms bigint, address inet, agent text)
WHERE EXISTS (SELECT FROM keys_apikey WHERE id = use.key_id)
ON CONFLICT (key_id) DO UPDATE
SET last_used_at = excluded.last_used_at, address = excluded.address, agent = excluded.agent
WHERE known.last_used_at < excluded.last_used_at
"""


def _note_use(cursor: CursorWrapper, entries: Sequence[Entry]) -> None:
    """When each key was last used, in key order. A key that is gone is no reason to lose the event."""
    latest: dict[int, events.Event] = {}
    for entry in entries:
        seen = latest.get(entry.event.key_id)
        if seen is None or seen.started_at_ms < entry.event.started_at_ms:
            latest[entry.event.key_id] = entry.event
    if latest:
        uses = [
            {
                "key_id": event.key_id,
                "started_at_ms": event.started_at_ms,
                "address": event.address,
                "agent": event.agent,
            }
            for _, event in sorted(latest.items())
        ]
        write_uses(cursor, uses)


def write_uses(cursor: CursorWrapper, uses: Sequence[Mapping[str, object]]) -> None:
    """Each with key_id, started_at_ms, address and agent, in the order of their keys."""
    cursor.execute(_NOTE_USE, [orjson.dumps(uses).decode()])
