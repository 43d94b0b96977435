"""Which of an account's requests are looked for: words of an address or a query as the rows that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from billing import call_ids, calls
from billing.models import EndReason, Model
from keys.models import ApiKey, Organization

SUCCEEDED = frozenset({EndReason.STOP, EndReason.LENGTH, EndReason.TOOL_CALLS})
FAILED = frozenset({EndReason.UPSTREAM_ERROR, EndReason.UPSTREAM_CUT, EndReason.TIMEOUT, EndReason.LAPSED})
"""Ends that neither the model nor the client wanted."""
ENDS: dict[str, frozenset[str]] = {
    "succeeded": frozenset(SUCCEEDED),
    "failed": frozenset(FAILED),
    **{end.value: frozenset({end.value}) for end in EndReason},
}
"""What `end` may ask for: a group of ends, or one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """`since` and `until` are days of the brand in `zone`, both included."""

    key: ApiKey | None = None
    model: Model | None = None
    end: str = ""
    since: date | None = None
    until: date | None = None
    marks: calls.Marks = calls.NO_MARKS
    zone: str = "UTC"

    @property
    def is_sparse(self) -> bool:
        """Whether what it finds may lie far apart in the log: no index knows more than whose a call is, and when."""
        return bool(self.key or self.model or self.end or self.marks)

    @property
    def end_reasons(self) -> frozenset[str]:
        return ENDS.get(self.end, frozenset())

    @property
    def down_to(self) -> UUID | None:
        """The oldest call id of the days: ids are in the order of time."""
        return self._midnight(self.since) if self.since else None

    def before(self, place: UUID | None) -> UUID | None:
        """An id that all that is looked for is below, from `place` on."""
        end = self._midnight(self.until + timedelta(days=1)) if self.until else None
        return min((bound for bound in (place, end) if bound), default=None)

    def words(self) -> dict[str, str]:
        """As an address says it, without the marks."""
        said = {
            "key": self.key.public_id if self.key else "",
            "model": self.model.slug if self.model else "",
            "end": self.end,
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        }
        return {name: word for name, word in said.items() if word}

    def _midnight(self, day: date) -> UUID:
        at = datetime.combine(day, time.min, ZoneInfo(self.zone))
        return call_ids.lowest_of(round(at.timestamp() * 1000))


EVERYTHING = Filter()


def read(organization: Organization, words: Mapping[str, str], marks: calls.Marks = calls.NO_MARKS) -> Filter:
    """`words`: key, model, end, since, until, or day for both. What is not known is not asked for."""
    said = {name: word.replace("\0", "") for name, word in words.items()}
    day = _day(said.get("day"))
    return Filter(
        key=organization.keys.filter(manages_as="", public_id=said["key"]).first() if said.get("key") else None,
        model=Model.objects.filter(brand=organization.brand, slug=said["model"]).first() if said.get("model") else None,
        end=said.get("end", "") if said.get("end") in ENDS else "",
        since=day or _day(said.get("since")),
        until=day or _day(said.get("until")),
        marks=marks,
        zone=organization.brand.timezone,
    )


def query(**words: Any) -> str:
    """The address of what is looked for: "?key=…&since=…"."""
    return "?" + urlencode({name: str(word) for name, word in words.items() if word})


def _day(text: str | None) -> date | None:
    try:
        found = date.fromisoformat(text or "")
    except ValueError:
        return None
    return found if 2000 <= found.year <= 9000 else None
