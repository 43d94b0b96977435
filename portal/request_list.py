"""An account's calls and refusals in one list, newest first, a page at a time. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from billing import calls
from billing.models import Model
from keys.models import ApiKey
from proxy.models import RefusalRecord, TestCall
from proxy.sandbox import calls as test_calls

PER_PAGE = 30
SHOWS = {"": "All", "served": "Served", "refused": "Refused", "test": "Test"}
"""What `show` may ask for, in words. What test keys did stands under the last and nowhere else."""


@dataclass(frozen=True, slots=True)
class Row:
    """A settled or a test call, a refusal, or both: a call whose engine failed. `model` and `key` are what a reader
    knows them by, empty when they are gone or were never known."""

    call_id: UUID
    call: calls.Call | None
    refusal: RefusalRecord | None
    test: TestCall | None = None
    model: str = ""
    key: str = ""
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
    marks: calls.Marks = calls.NO_MARKS,
    limit: int | None = None,
) -> Page:
    """At most `limit` (a page) in the order of their call ids. Refusals carry no marks: a search by them lists calls
    only."""
    limit = limit or PER_PAGE
    down_to = calls.reach(organization_id, before=before) if marks else None
    served: list[calls.Call] = []
    tests: list[TestCall] = []
    refused: Iterable[RefusalRecord] = ()
    of_tests = show == "test" and not marks
    if of_tests:
        tests = test_calls.latest(organization_id, before=before, limit=limit + 1)
    elif show != "refused":
        served = calls.latest(organization_id, before=before, marks=marks, down_to=down_to, limit=limit + 1)
    if show != "served" and not marks:
        refused = _refused(organization_id, before=before, of_tests=of_tests)[: limit + 1]
    rows = _merged(served, tests, refused)
    older = rows[limit - 1].call_id if len(rows) > limit else down_to
    return Page(tuple(rows[:limit]), older)


def named(found: Sequence[Row]) -> list[Row]:
    """With the names of models, and what there is to know of keys."""
    events = [row.call.event for row in found if row.call]
    models = dict(Model.objects.filter(pk__in={e.model_id for e in events}).values_list("pk", "slug"))
    refused = [row.refusal.key_id for row in found if row.refusal and row.refusal.key_id]
    testing = set(ApiKey.objects.filter(pk__in=refused, mode=ApiKey.Mode.TEST).values_list("pk", flat=True))
    hints = dict(ApiKey.objects.filter(pk__in={e.key_id for e in events}).values_list("pk", "hint"))

    def told(row: Row) -> Row:
        known = row.test or row.refusal
        if row.call:
            event = row.call.event
            model, key = models.get(event.model_id, ""), hints.get(event.key_id, "")
        else:
            assert known is not None
            model, key = known.model, known.key_hint
        is_test = row.test is not None or (row.refusal is not None and row.refusal.key_id in testing)
        return replace(row, model=model, key=key, is_test=is_test)

    return [told(row) for row in found]


def of_call(call: calls.Call) -> Row:
    (row,) = named([Row(call.event.call_id, call, None)])
    return row


def _refused(organization_id: int, *, before: UUID | None, of_tests: bool) -> QuerySet[RefusalRecord]:
    """Newest first: of test keys, or of all others."""
    found = RefusalRecord.objects.filter(organization_id=organization_id)
    found = found.filter(call_id__lt=before) if before else found
    tests = Q(key_id__in=ApiKey.objects.filter(organization_id=organization_id, mode=ApiKey.Mode.TEST).values("pk"))
    return found.filter(tests if of_tests else ~tests).order_by("-call_id")


def _merged(served: list[calls.Call], tests: list[TestCall], refused: Iterable[RefusalRecord]) -> list[Row]:
    settled = {call.event.call_id: call for call in served}
    tried = {call.call_id: call for call in tests}
    failed = {record.call_id: record for record in refused}
    ids = sorted(settled.keys() | tried.keys() | failed.keys(), reverse=True)
    return [Row(call_id, settled.get(call_id), failed.get(call_id), tried.get(call_id)) for call_id in ids]
