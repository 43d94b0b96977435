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
from keys.models import ApiKey, AuditEvent, Organization, User
from portal.templatetags.portal import key_limit

KEY = ("name", "scopes", "model_slugs", "cidrs", "limits", "expires_at", "manages_as", "mode", "service_account")
OVERRIDE = ("unit", "window", "scope", "amount", "reason", "expires_at")
PLAN = ("plan", "ends_at")
PRICE = ("is_free", "effective_from")
WEBHOOK = ("url", "events", "low_balance_nanos")
ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "auto_top_up.off": ("turned automatic top-ups off", ()),
    "auto_top_up.set": ("set automatic top-ups", ("threshold_nanos", "amount_nanos", "monthly_cap_nanos")),
    "balance.moved": ("moved the balance", ("amount_nanos", "kind")),
    "card.forgotten": ("removed the card", ("card",)),
    "card.kept": ("kept a card", ("card",)),
    "grant.given": ("gave credit", ("amount_nanos", "kind", "reason")),
    "invitation.accepted": ("accepted an invitation", ("email", "role")),
    "invitation.revoked": ("took back an invitation", ("email", "role")),
    "invitation.sent": ("invited somebody", ("email", "role")),
    "key.changed": ("changed a key", KEY),
    "key.imported": ("imported a key", KEY),
    "key.issued": ("created a key", KEY),
    "key.revoked": ("revoked a key", ()),
    "key.rotated": ("rotated a key", KEY),
    "limit.override_ended": ("ended an exception to a limit", OVERRIDE),
    "limit.override_put": ("made an exception to a limit", OVERRIDE),
    "member.added": ("became a member", ("member", "role")),
    "member.removed": ("removed a member", ("member", "role")),
    "member.role_changed": ("changed a role", ("member", "role")),
    "organization.alerts_chosen": ("changed at which shares of a limit to be written to", ("percents", "limits")),
    "organization.changed": ("changed the account", ("name", "slug")),
    "organization.created": ("opened the account", ("name", "slug")),
    "organization.resumed": ("resumed the account", ("state", "suspended_reason")),
    "organization.suspended": ("suspended the account", ("state", "suspended_reason")),
    "organization.tier_changed": ("changed the tier", ("tier", "reason")),
    "payment.decided": ("decided about a payment that was not what was asked for", ("decision", "credited_nanos")),
    "plan.begun": ("began to subscribe to a plan", PLAN),
    "plan.cancelled": ("ended the plan with its month", PLAN),
    "plan.changed": ("changed the plan", PLAN),
    "plan.resumed": ("resumed the plan", PLAN),
    "price.ended": ("ended a price of this account's own", PRICE),
    "price.set": ("set a price of this account's own", PRICE),
    "price.withdrawn": ("withdrew a price of this account's own", PRICE),
    "service_account.created": ("created a service account", ("name", "role")),
    "service_account.disabled": ("disabled a service account", ("name", "role")),
    "service_account.role_changed": ("changed the role of a service account", ("name", "role")),
    "webhook.added": ("added a webhook endpoint", WEBHOOK),
    "webhook.changed": ("changed a webhook endpoint", WEBHOOK),
    "webhook.removed": ("removed a webhook endpoint", WEBHOOK),
    "webhook.rotated": ("rotated a webhook's secret", ("overlap_hours",)),
    "webhook.sent_again": ("sent an event to a webhook endpoint again", ("event",)),
    "webhook.tested": ("sent a test to a webhook endpoint", ("event",)),
    "webhook.turned_off": ("turned a webhook endpoint off", ("because",)),
    "webhook.turned_on": ("turned a webhook endpoint on", ()),
}
"""What members read: an action in words, and which of its fields. What is not here is for staff: it is not listed, and
nobody has to remember that a new field is read by customers."""
FOR_STAFF = frozenset({"note", "brand", "engine", "model", "promo_code", "staff", "stripe", "terms", "tier"})
"""First words of actions that are noted of a brand, and of no account."""
PLAYGROUND = "playground"
SUBJECTS = {
    "organization": "Account",
    "key": "API keys",
    "auto_top_up": "Automatic top-ups",
    "balance": "Balance",
    "card": "Card",
    "grant": "Credit",
    "invitation": "Invitations",
    "limit": "Limits",
    "member": "Members",
    "payment": "Payments",
    "plan": "Plan",
    PLAYGROUND: "Playground",
    "price": "Prices",
    "service_account": "Service accounts",
    "webhook": "Webhooks",
}
"""What events are about: the first word of their action, but the short-lived keys that visits to the playground make,
which are listed only when asked for."""
MOMENTS = frozenset({"effective_from", "ends_at", "expires_at"})
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
    """One field as people read it: nothing is empty text, a moment is one of RFC 3339."""

    name: str
    before: str
    after: str
    is_moment: bool


@dataclass(frozen=True, slots=True)
class Line:
    at: datetime
    who: str
    what: str
    action: str
    subject: str
    named: str  # the subject as people know it, "" where that is its id
    changes: list[Change]
    address: str | None


def events(organization: Organization, chosen: Filter) -> QuerySet[AuditEvent]:
    """Newest first."""
    rows = AuditEvent.objects.filter(organization=organization, action__in=ACTIONS)
    visits = organization.keys.filter(purpose=ApiKey.Purpose.PLAYGROUND).values("public_id")
    if chosen.about == PLAYGROUND:
        rows = rows.filter(action__startswith="key.", subject__in=visits)
    elif chosen.about in {"", "key"}:
        rows = rows.exclude(action__startswith="key.", subject__in=visits)
    if chosen.about not in {"", PLAYGROUND}:
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
    keys = organization.keys.filter(public_id__in={row.subject for row in rows if row.action.startswith("key.")})
    named = {key.public_id: f"{key.name} ({key.hint})" for key in keys}
    return [_line(row, currency, "" if _is_theirs(row, staff) else house, named.get(row.subject, "")) for row in rows]


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


def _line(row: AuditEvent, currency: str, stands_for: str, named: str) -> Line:
    words, fields = ACTIONS[row.action]
    changes = [
        Change(
            name.removesuffix("_nanos").replace("_", " "),
            _text(name, row.before.get(name), currency),
            _text(name, row.after.get(name), currency),
            is_moment=name in MOMENTS,
        )
        for name in fields
    ]
    return Line(
        at=row.at,
        who=stands_for or row.actor_name,
        what=words,
        action=row.action,
        subject=row.subject,
        named=named,
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
    if name == "limits" and all(isinstance(limit, dict) for limit in value):
        return ", ".join(key_limit(limit, currency) for limit in value)
    if isinstance(value, list) and not any(isinstance(part, dict | list) for part in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if 2000 <= day.year <= 9000 else None
