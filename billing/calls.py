"""Settled calls as people and programs read them: the call's own event with its corrections folded in. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

from django.db.models import Q

from billing.models import UsageEvent

PAGE_MAX = 1_000


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
    limit: int = 50,
) -> list[Call]:
    """The organization's calls, newest first; `before` is the last call id of the page before."""
    events = UsageEvent.objects.filter(organization_id=organization_id, kind=UsageEvent.Kind.CALL)
    if before is not None:
        events = events.filter(call_id__lt=before)
    if key_id is not None:
        events = events.filter(key_id=key_id)
    if model_id is not None:
        events = events.filter(model_id=model_id)
    return _folded(events.order_by("-call_id")[:limit])


def settled(
    *, since: datetime | None = None, brand_id: int | None = None, organization_ids: Sequence[int] | None = None
) -> Iterator[Call]:
    """Every call that was settled or corrected since then, once, by the time of its latest settlement. Read in pages by
    key, so that any number of calls needs neither memory nor a cursor."""
    events = UsageEvent.objects.order_by("settled_at", "call_id")
    if since is not None:
        events = events.filter(settled_at__gte=since)
    if brand_id is not None:
        events = events.filter(brand_id=brand_id)
    if organization_ids is not None:
        events = events.filter(organization_id__in=organization_ids)
    page = list(events[:PAGE_MAX])
    while page:
        calls = _families(row.corrects or row.call_id for row in page)
        for row in page:
            call = calls[row.corrects or row.call_id]
            if call.latest.call_id == row.call_id:
                yield call
        last = page[-1]
        after = Q(settled_at__gt=last.settled_at) | Q(settled_at=last.settled_at, call_id__gt=last.call_id)
        page = list(events.filter(after, settled_at__gte=last.settled_at)[:PAGE_MAX])


def _settled(row: UsageEvent) -> tuple[datetime, UUID]:
    return row.settled_at, row.call_id


def _families(ids: Iterable[UUID]) -> dict[UUID, Call]:
    return {call.event.call_id: call for call in _folded(UsageEvent.objects.filter(call_id__in=set(ids)))}


def _folded(events: Iterable[UsageEvent]) -> list[Call]:
    calls = list(events)
    corrections: dict[UUID, list[UsageEvent]] = defaultdict(list)
    for row in UsageEvent.objects.filter(corrects__in=[event.call_id for event in calls]):
        corrections[row.corrects or row.call_id].append(row)
    return [Call(event, tuple(sorted(corrections[event.call_id], key=_settled))) for event in calls]
