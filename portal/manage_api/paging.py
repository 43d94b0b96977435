"""Lists, a page at a time, by position in their order: what is added meanwhile shifts nothing.

A cursor is sealed: it says where to go on, for one list of one account, and tells its reader nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, QuerySet

from keys.sealing import SealBroken, open_text, seal_text
from portal.manage_api.fields import Asked, Number, Word
from portal.manage_api.problems import Problem

LIMIT, LIMIT_MAX = 20, 100
CURSOR_MAX = 1_000
Row = TypeVar("Row")
Item = TypeVar("Item", bound=Model)


class Paged(Asked):
    limit = Number(min_value=1, max_value=LIMIT_MAX, default=LIMIT, help_text="How many at most on a page")
    cursor = Word(max_length=CURSOR_MAX, help_text="`next_cursor` of the page before; leave it out for the first")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    rows: Sequence[Row]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: `after` is the position of the last row before it, None at the beginning. `scope` names the
    list and the account."""

    scope: str
    limit: int
    after: Any

    @classmethod
    def of(cls, query: dict[str, Any], scope: str) -> Place:
        cursor = query.get("cursor")
        return cls(scope, query["limit"], None if cursor is None else _opened(cursor, scope))

    def next(self, position: Any) -> str:
        return seal_text(json.dumps([self.scope, position]))


def newest_first(rows: QuerySet[Item], place: Place) -> Page[Item]:
    """By primary key, which grows with time."""
    if place.after is not None:
        rows = rows.filter(pk__lt=place.after)
    found = list(rows.order_by("-pk")[: place.limit + 1])
    return cut(found, place, lambda row: row.pk)


def cut(found: Sequence[Row], place: Place, position: Callable[[Row], Any]) -> Page[Row]:
    """A page of what was read from the place on, one more than fits."""
    rows = found[: place.limit]
    return Page(rows, place.next(position(rows[-1])) if len(found) > place.limit else None)


def _opened(cursor: str, scope: str) -> Any:
    try:
        known, position = json.loads(open_text(cursor))
    except (SealBroken, ValueError, TypeError):
        known = position = None
    if known != scope:
        pointer = {"pointer": "cursor", "detail": "Not a cursor of this list."}
        raise Problem(422, "invalid_cursor", "Use `next_cursor` of a page of this list.", errors=[pointer])
    return position
