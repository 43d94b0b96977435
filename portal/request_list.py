"""An account's calls and refusals in one list, newest first, a page at a time. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from django.db.models import Q, QuerySet

from billing import calls
from billing.calls import reach
from billing.models import Model, UsageEvent
from keys.models import ApiKey
from portal.request_filter import EVERYTHING, Filter
from proxy.models import RefusalRecord, TestCall
from proxy.sandbox import calls as test_calls

PER_PAGE = 30
SHOWS = {"": "All", "served": "Served", "refused": "Refused", "test": "Test"}
"""What `show` may ask for, in words. What test keys did stands under the last and nowhere else."""


class Bounds(TypedDict):
    before: UUID | None
    down_to: UUID | None


@dataclass(frozen=True, slots=True)
class Row:
    """A settled or a test call, a refusal, or both: a call whose engine failed. `model` and `key` are what a reader
    knows them by, empty when they are gone or were never known; `api_key` is the row of one that is there."""

    call_id: UUID
    call: calls.Call | None
    refusal: RefusalRecord | None
    test: TestCall | None = None
    model: str = ""
    key: str = ""
    api_key: ApiKey | None = None
    is_test: bool = False

    @property
    def at(self) -> datetime:
        if self.test:
            return self.test.at
        return self.call.event.started_at if self.call else self.refusal.at  # type: ignore[union-attr]

    @property
    def status(self) -> int:
        if self.refusal:
            return self.refusal.status
        return self.test.http_status if self.test else self.call.event.http_status  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Page:
    """`older` is the call id to go on before, None when there is nothing more. A search ends at its bound, and goes on
    there."""

    rows: tuple[Row, ...]
    older: UUID | None

    @property
    def places(self) -> int:
        """Decimals that show every cost of the list exactly."""
        costs = [row.call.cost_nanos for row in self.rows if row.call]
        return next((places for places in range(2, 9) if not any(cost % 10 ** (9 - places) for cost in costs)), 9)

    @property
    def tag(self) -> str:
        """Differs when what the page shows differs: rows come, and corrections change what is there."""
        seen = [f"{row.call_id}:{row.status}:{row.call.cost_nanos if row.call else ''}" for row in self.rows]
        return f'"{hashlib.sha256(" ".join(seen).encode()).hexdigest()[:32]}"'


def listed(
    organization_id: int,
    *,
    show: str = "",
    before: UUID | None = None,
    only: Filter = EVERYTHING,
    limit: int | None = None,
) -> Page:
    """At most `limit` (a page) in the order of their call ids. What was refused carries no marks and never ended: a
    search by either lists calls only, with what became of them."""
    limit = limit or PER_PAGE
    before = only.before(before)
    of_tests = show == "test" and not only.marks
    with_calls = not of_tests and (show != "refused" or bool(only.marks or only.end))
    with_refused = show != "served" and not only.marks and not only.end
    stop = _stop(organization_id, only, before, calls=with_calls, tests=of_tests, refused=with_refused)
    bounds: Bounds = {"before": before, "down_to": stop or only.down_to}
    shared: dict[str, Any] = {**bounds, "key_id": only.key.pk if only.key else None, "end_reasons": only.end_reasons}
    served: list[calls.Call] = []
    tests: list[TestCall] = []
    refused: list[RefusalRecord] = []
    if of_tests:
        model = only.model.slug if only.model else ""
        tests = test_calls.latest(organization_id, model=model, limit=limit + 1, **shared)
    if with_calls:
        model_id = only.model.pk if only.model else None
        served = calls.latest(organization_id, model_id=model_id, marks=only.marks, limit=limit + 1, **shared)
    if with_refused:
        refused = list(_refused(organization_id, only, of_tests=of_tests, **bounds)[: limit + 1])
    elif only.end:
        ended = [*(call.event.call_id for call in served), *(test.call_id for test in tests)]
        refused = list(RefusalRecord.objects.filter(organization_id=organization_id, call_id__in=ended))
    rows = _merged(served, tests, refused)
    older = rows[limit - 1].call_id if len(rows) > limit else stop
    return Page(tuple(rows[:limit]), older)


def _stop(
    organization_id: int, only: Filter, before: UUID | None, *, calls: bool, tests: bool, refused: bool
) -> UUID | None:
    """Where one page of a sparse search ends, of the logs that it reads; None where it reads to the end."""
    if not only.is_sparse:
        return None
    logs: list[QuerySet[Any]] = [
        *([UsageEvent.objects.all()] if calls else []),
        *([TestCall.objects.all()] if tests else []),
        *([RefusalRecord.objects.all()] if refused else []),
    ]
    reached = [reach(log, organization_id, before=before, down_to=only.down_to) for log in logs]
    return max((found for found in reached if found), default=None)


def named(found: Sequence[Row]) -> list[Row]:
    """With the names of models, and what there is to know of keys."""
    events = [row.call.event for row in found if row.call]
    models = dict(Model.objects.filter(pk__in={e.model_id for e in events}).values_list("pk", "slug"))
    keys = ApiKey.objects.in_bulk({key_id for row in found if (key_id := _key_id(row))})

    def told(row: Row) -> Row:
        known = row.test or row.refusal
        api_key = keys.get(_key_id(row) or 0)
        if row.call:
            model, key = models.get(row.call.event.model_id, ""), api_key.hint if api_key else ""
        else:
            assert known is not None
            model, key = known.model, known.key_hint
        is_test = row.test is not None or (api_key is not None and api_key.mode == ApiKey.Mode.TEST)
        return replace(row, model=model, key=key, api_key=api_key, is_test=is_test)

    return [told(row) for row in found]


def of_call(call: calls.Call) -> Row:
    (row,) = named([Row(call.event.call_id, call, None)])
    return row


def _key_id(row: Row) -> int | None:
    known = row.call.event if row.call else row.test or row.refusal
    return known.key_id if known else None


def _refused(
    organization_id: int, only: Filter, *, before: UUID | None, down_to: UUID | None, of_tests: bool
) -> QuerySet[RefusalRecord]:
    """Newest first: of test keys, or of all others."""
    found = RefusalRecord.objects.filter(organization_id=organization_id)
    found = found.filter(call_id__lt=before) if before else found
    found = found.filter(call_id__gte=down_to) if down_to else found
    found = found.filter(key_id=only.key.pk) if only.key else found
    found = found.filter(model=only.model.slug) if only.model else found
    tests = Q(key_id__in=ApiKey.objects.filter(organization_id=organization_id, mode=ApiKey.Mode.TEST).values("pk"))
    return found.filter(tests if of_tests else ~tests).order_by("-call_id")


def _merged(served: list[calls.Call], tests: list[TestCall], refused: Iterable[RefusalRecord]) -> list[Row]:
    settled = {call.event.call_id: call for call in served}
    tried = {call.call_id: call for call in tests}
    failed = {record.call_id: record for record in refused}
    ids = sorted(settled.keys() | tried.keys() | failed.keys(), reverse=True)
    return [Row(call_id, settled.get(call_id), failed.get(call_id), tried.get(call_id)) for call_id in ids]
