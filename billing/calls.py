"""Settled calls as people and programs read them: the call's own event with its corrections folded in. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from billing.events import METADATA_CHARS_MAX, USER_CHARS_MAX, storable_text
from billing.models import UsageEvent

PAGE_MAX = 1_000
SEARCHED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Marks:
    """What a customer wrote on its calls, to find them by: `user` exactly, and metadata pairs that are all there (a
    name alone, with whatever value). Compared as events store them: without NUL, and cut at the same length."""

    user: str | None = None
    metadata: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def read(cls, user: str | None = None, metadata: Iterable[str] = ()) -> Marks:
        """`metadata`: texts like "name" or "name=value"."""
        pairs = [text.partition("=") for text in metadata]
        return cls(
            None if user is None else storable_text(user, USER_CHARS_MAX),
            tuple((storable_text(n), storable_text(v, METADATA_CHARS_MAX) if given else None) for n, given, v in pairs),
        )

    def __bool__(self) -> bool:
        return self.user is not None or bool(self.metadata)

    @property
    def condition(self) -> Q:
        found = Q() if self.user is None else Q(user=self.user)
        for name, value in self.metadata:
            found &= Q(metadata__has_key=name) if value is None else Q(metadata__contains={name: value})
        return found


NO_MARKS = Marks()


@dataclass(frozen=True)
class Call:
    """`event` is what was first booked; amounts, `usage_source` and `settled_at` are what holds now."""

    event: UsageEvent
    corrections: tuple[UsageEvent, ...] = ()

    def total(self, name: str) -> int | None:
        """The sum of an amount column; None when no row knows it."""
        known = [value for row in (self.event, *self.corrections) if (value := getattr(row, name)) is not None]
        return sum(known) if known else None

    @property
    def cost_nanos(self) -> int:
        return self.total("cost_nanos") or 0

    @cached_property
    def latest(self) -> UsageEvent:
        return max((self.event, *self.corrections), key=_settled)

    @property
    def usage_source(self) -> str:
        return self.latest.usage_source

    @property
    def settled_at(self) -> datetime:
        return self.latest.settled_at


def call_of(call_id: UUID | str, *, organization_id: int | None = None) -> Call | None:
    """The call, if it is settled (and the organization's, where one is given)."""
    try:
        wanted = call_id if isinstance(call_id, UUID) else UUID(call_id)
    except ValueError:
        return None
    events = UsageEvent.objects.filter(call_id=wanted, kind=UsageEvent.Kind.CALL)
    if organization_id is not None:
        events = events.filter(organization_id=organization_id)
    return next(iter(_folded(events)), None)


def latest(
    organization_id: int,
    *,
    before: UUID | str | None = None,
    key_id: int | None = None,
    model_id: int | None = None,
    end_reasons: Collection[str] = (),
    marks: Marks = NO_MARKS,
    down_to: UUID | None = None,
    limit: int = 50,
) -> list[Call]:
    """The organization's calls, newest first; `before` is the last call id of the page before, `down_to` the oldest one
    to look at (see `reach`)."""
    events = UsageEvent.objects.filter(organization_id=organization_id, kind=UsageEvent.Kind.CALL)
    if before is not None:
        events = events.filter(call_id__lt=before)
    if key_id is not None:
        events = events.filter(key_id=key_id)
    if model_id is not None:
        events = events.filter(model_id=model_id)
    if end_reasons:
        events = events.filter(end_reason__in=end_reasons)
    if down_to is not None:
        events = events.filter(call_id__gte=down_to)
    return _folded(events.filter(marks.condition).order_by("-call_id")[:limit])


def reach(
    log: QuerySet[Any], organization_id: int, *, before: UUID | None = None, down_to: UUID | None = None
) -> UUID | None:
    """How far back one search of a log looks: its SEARCHED_MAX-th call id before `before`, None when there are fewer
    from `down_to` on. Logs have an index by organization and call id and no other, so what is rare (of a key, a model,
    an end, some marks) would else read all that an organization ever called for one page."""
    rows = log.filter(organization_id=organization_id)
    if before is not None:
        rows = rows.filter(call_id__lt=before)
    if down_to is not None:
        rows = rows.filter(call_id__gte=down_to)
    ids = rows.order_by("-call_id").values_list("call_id", flat=True)
    return next(iter(ids[SEARCHED_MAX - 1 : SEARCHED_MAX]), None)


def settled(
    *,
    since: datetime | None = None,
    brand_id: int | None = None,
    organization_ids: Sequence[int] | None = None,
    marks: Marks = NO_MARKS,
) -> Iterator[Call]:
    """Every call that was settled or corrected since then, once, by the time of its latest settlement. Read in pages by
    key, so that any number of calls needs neither memory nor a cursor. A correction goes with its call."""
    events = UsageEvent.objects.order_by("settled_at", "call_id")
    if since is not None:
        events = events.filter(settled_at__gte=since)
    if brand_id is not None:
        events = events.filter(brand_id=brand_id)
    if organization_ids is not None:
        events = events.filter(organization_id__in=organization_ids)
    if marks:
        events = events.filter(marks.condition | Q(kind=UsageEvent.Kind.CORRECTION))
    marked = UsageEvent.objects.filter(marks.condition)
    page = list(events[:PAGE_MAX])
    while page:
        calls = _families(marked, (row.corrects or row.call_id for row in page))
        for row in page:
            call = calls.get(row.corrects or row.call_id)
            if call is not None and call.latest.call_id == row.call_id:
                yield call
        last = page[-1]
        after = Q(settled_at__gt=last.settled_at) | Q(settled_at=last.settled_at, call_id__gt=last.call_id)
        page = list(events.filter(after, settled_at__gte=last.settled_at)[:PAGE_MAX])


def _settled(row: UsageEvent) -> tuple[datetime, UUID]:
    return row.settled_at, row.call_id


def _families(events: QuerySet[UsageEvent], ids: Iterable[UUID]) -> dict[UUID, Call]:
    return {call.event.call_id: call for call in _folded(events.filter(call_id__in=set(ids)))}


def _folded(events: Iterable[UsageEvent]) -> list[Call]:
    calls = list(events)
    corrections: dict[UUID, list[UsageEvent]] = defaultdict(list)
    for row in UsageEvent.objects.filter(corrects__in=[event.call_id for event in calls]):
        corrections[row.corrects or row.call_id].append(row)
    return [Call(event, tuple(sorted(corrections[event.call_id], key=_settled))) for event in calls]
