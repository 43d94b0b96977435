"""The audit log of an account as its members read it: in words, filtered, without the names of operators."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Q, QuerySet

from billing import money
from keys.models import AuditEvent, Organization, User

ACTIONS = {
    "balance.moved": "moved the balance",
    "grant.given": "gave credit",
    "invitation.accepted": "accepted an invitation",
    "invitation.revoked": "took back an invitation",
    "invitation.sent": "invited somebody",
    "key.changed": "changed a key",
    "key.imported": "imported a key",
    "key.issued": "created a key",
    "key.revoked": "revoked a key",
    "key.rotated": "rotated a key",
    "limit.override_ended": "ended an exception to a limit",
    "limit.override_put": "made an exception to a limit",
    "member.added": "became a member",
    "member.removed": "removed a member",
    "member.role_changed": "changed a role",
    "organization.changed": "changed the account",
    "organization.created": "opened the account",
    "organization.resumed": "resumed the account",
    "organization.suspended": "suspended the account",
    "organization.tier_changed": "changed the tier",
    "organization.alerts_chosen": "changed at which shares of a limit to be written to",
    "webhook.added": "added a webhook endpoint",
    "webhook.changed": "changed a webhook endpoint",
    "webhook.removed": "removed a webhook endpoint",
    "webhook.rotated": "rotated a webhook's secret",
    "webhook.sent_again": "sent an event to a webhook endpoint again",
    "webhook.tested": "sent a test to a webhook endpoint",
    "webhook.turned_off": "turned a webhook endpoint off",
    "webhook.turned_on": "turned a webhook endpoint on",
}
SUBJECTS = {
    "balance": "Balance",
    "grant": "Credit",
    "invitation": "Invitations",
    "key": "API keys",
    "limit": "Limits",
    "member": "Members",
    "organization": "Account",
    "webhook": "Webhooks",
}
"""What events are about, by the first word of their action."""
PAGE = 500


@dataclass(frozen=True, slots=True)
class Filter:
    """`about` is one of SUBJECTS; `who` part of an address, or of a management key's name; days are the
    brand's, both included."""

    about: str = ""
    who: str = ""
    since: date | None = None
    until: date | None = None

    @classmethod
    def read(cls, given: dict[str, str]) -> Filter:
        """From a query string; what makes no sense filters nothing."""
        about = given.get("about", "")
        return cls(
            about=about if about in SUBJECTS else "",
            who=given.get("who", "").replace("\0", "").strip()[:254],
            since=_day(given.get("since", "")),
            until=_day(given.get("until", "")),
        )

    @property
    def query(self) -> dict[str, str]:
        """The filter as the query string has it, without what filters nothing."""
        named = {"about": self.about, "who": self.who, "since": self.since, "until": self.until}
        return {name: str(value) for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Change:
    """One field as people read it: nothing is empty text."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Line:
    at: datetime
    who: str
    what: str
    action: str
    subject: str
    changes: list[Change]
    address: str | None


def events(organization: Organization, chosen: Filter) -> QuerySet[AuditEvent]:
    """Newest first."""
    rows = AuditEvent.objects.filter(organization=organization)
    if chosen.about:
        rows = rows.filter(action__startswith=f"{chosen.about}.")
    if chosen.who:
        people = User.objects.filter(email__icontains=chosen.who, is_staff=False)
        by_key = Q(actor_key__isnull=False, actor_name__icontains=chosen.who)
        rows = rows.filter(Q(actor__in=people) | by_key)
    zone = ZoneInfo(organization.brand.timezone)
    if chosen.since:
        rows = rows.filter(at__gte=datetime.combine(chosen.since, time.min, zone))
    if chosen.until:
        rows = rows.filter(at__lt=datetime.combine(chosen.until + timedelta(days=1), time.min, zone))
    return rows.order_by("-at", "-pk")


def lines(rows: list[AuditEvent], organization: Organization) -> list[Line]:
    """An operator is named by the brand: who of its staff acted is no customer's business."""
    people = {row.actor_id for row in rows if row.actor_id}
    staff = set(User.objects.filter(pk__in=people, is_staff=True).values_list("pk", flat=True))
    house, currency = organization.brand.name, organization.brand.currency
    return [_line(row, currency, "" if _is_theirs(row, staff) else house) for row in rows]


def _is_theirs(row: AuditEvent, staff: set[int]) -> bool:
    """Done by a member, or by a management key of the account."""
    return row.actor_key_id is not None or (row.actor_id is not None and row.actor_id not in staff)


def every_line(organization: Organization, chosen: Filter) -> Iterator[Line]:
    """All of them, a page at a time, by position in the order rather than by offset."""
    rows, last = events(organization, chosen), None
    while True:
        part = rows if last is None else rows.filter(at__lte=last.at).exclude(at=last.at, pk__gte=last.pk)
        found = list(part[:PAGE])
        yield from lines(found, organization)
        if len(found) < PAGE:
            return
        last = found[-1]


def _line(row: AuditEvent, currency: str, stands_for: str) -> Line:
    changes = [
        Change(
            name.removesuffix("_nanos").replace("_", " "),
            _text(name, row.before.get(name), currency),
            _text(name, row.after.get(name), currency),
        )
        for name in {**row.before, **row.after}
    ]
    return Line(
        at=row.at,
        who=stands_for or row.actor_name,
        what=ACTIONS.get(row.action, row.action),
        action=row.action,
        subject=row.subject,
        changes=[change for change in changes if change.before or change.after],
        address=None if stands_for else row.address,
    )


def _text(name: str, value: Any, currency: str) -> str:
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_nanos") and isinstance(value, int):
        return money.display(value, currency)
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if "1970" < text[:4] < "9999" else None
    except ValueError:
        return None
