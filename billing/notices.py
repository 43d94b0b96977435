"""The only writer of Notice and NoticesSeen: what an organization should hear, once. portal.notify sends it, and some
kinds stand on its pages until each of its people has put them away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, Subquery
from django.db.models.functions import Coalesce

from billing.models import Notice, NoticesSeen, Rate
from keys.models import Organization, User

BANNERS = ("tier_changed", "prices_changed")
BANNER_FOR = timedelta(days=30)
BANNERS_READ = 20
PRICES, WITHDRAWN = "prices_scheduled", "prices_withdrawn"
PRICES_LATE = "prices_changed"
OF_PRICES = (PRICES, PRICES_LATE)
"""Kinds of notice: prices that are to begin (payload {"rates": [{"id", "model", "at", "before", "after"}], "until"}),
those of them that will not, and such as have begun before they could be told (the same payload as the first)."""


def tell(*, organization: Organization, kind: str, once: str, payload: dict[str, Any]) -> bool:
    """`once` names the occasion among all of this installation: telling it again tells nothing. Whether it was news."""
    notice = Notice(organization=organization, kind=kind, unique_key=once, payload=payload)
    known = Notice.objects.filter(unique_key=once).exists()
    Notice.objects.bulk_create([notice], ignore_conflicts=True)
    return not known


def banner(organization: Organization, user: User, now: datetime) -> Notice | None:
    """What this person has not put away: the newest of BANNERS, and every notice of prices that are to begin, with
    those that still are. The oldest first, since putting one away puts away all before it."""
    seen = NoticesSeen.objects.filter(organization=organization, user=user).values("last_notice_id")
    stands = Q(kind__in=BANNERS, created_at__gt=now - BANNER_FOR) | prices_ahead(now)
    rows = Notice.objects.filter(stands, organization=organization, pk__gt=Coalesce(Subquery(seen), 0))
    recent = list(rows.order_by("-pk")[:BANNERS_READ])
    newest = next((notice for notice in recent if notice.kind != PRICES), None)
    for notice in reversed(recent):
        if notice.kind == PRICES and (rates := to_come(notice, now)):
            notice.payload["rates"] = rates
            return notice
        if notice is newest:
            return notice
    return None


def stamp(at: datetime) -> str:
    """Moments in payloads: ISO 8601, UTC, so that texts compare as moments do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def prices_ahead(now: datetime) -> Q:
    """Notices of which some price is still to begin, if it is not withdrawn."""
    return Q(kind=PRICES, payload__until__gt=stamp(now))


def standing(notice: Notice) -> list[dict[str, Any]]:
    """Of the prices that a notice announces, those that are not withdrawn."""
    said: list[dict[str, Any]] = notice.payload["rates"]
    there = set(Rate.objects.filter(pk__in=[entry["id"] for entry in said]).values_list("pk", flat=True))
    return [entry for entry in said if entry["id"] in there]


def to_come(notice: Notice, now: datetime) -> list[dict[str, Any]]:
    """Of those, what is still to begin."""
    return [entry for entry in standing(notice) if entry["at"] > stamp(now)]


def change(notice: Notice, rates: list[dict[str, Any]]) -> None:
    """What a notice of prices announces; one that announces none any more and was not sent is gone."""
    if not rates and notice.sent_at is None:
        notice.delete()
        return
    notice.payload = {"rates": rates, "until": max((entry["at"] for entry in rates), default="")}
    notice.save(update_fields=["payload"])


def put_away(organization: Organization, user: User, notice_id: int) -> None:
    """That notice and all before it, for this person only."""
    if not Notice.objects.filter(organization=organization, pk=notice_id).exists():
        return
    row, is_new = NoticesSeen.objects.get_or_create(
        organization=organization, user=user, defaults={"last_notice_id": notice_id}
    )
    if not is_new and row.last_notice_id < notice_id:
        NoticesSeen.objects.filter(pk=row.pk, last_notice_id__lt=notice_id).update(last_notice_id=notice_id)
