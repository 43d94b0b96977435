"""The only writer of Notice and NoticesSeen: what an organization should hear, once. portal.notify sends it, and some
kinds stand on its pages until each of its people has put them away."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from billing.models import Notice, NoticesSeen
from keys.models import Organization, User

BANNERS = ("tier_changed",)
BANNER_FOR = timedelta(days=30)


def tell(*, organization: Organization, kind: str, once: str, payload: dict[str, Any]) -> bool:
    """`once` names the occasion among all of this installation: telling it again tells nothing. Whether it was news."""
    notice = Notice(organization=organization, kind=kind, unique_key=once, payload=payload)
    known = Notice.objects.filter(unique_key=once).exists()
    Notice.objects.bulk_create([notice], ignore_conflicts=True)
    return not known


def banner(organization: Organization, user: User, now: datetime) -> Notice | None:
    """The newest of BANNERS that this person has not put away."""
    recent = Notice.objects.filter(organization=organization, kind__in=BANNERS, created_at__gt=now - BANNER_FOR)
    notice = recent.order_by("-pk").first()
    if notice is None:
        return None
    seen = NoticesSeen.objects.filter(organization=organization, user=user, last_notice_id__gte=notice.pk)
    return None if seen.exists() else notice


def put_away(organization: Organization, user: User, notice_id: int) -> None:
    """That notice and all before it, for this person only."""
    if not Notice.objects.filter(organization=organization, pk=notice_id).exists():
        return
    row, is_new = NoticesSeen.objects.get_or_create(
        organization=organization, user=user, defaults={"last_notice_id": notice_id}
    )
    if not is_new and row.last_notice_id < notice_id:
        NoticesSeen.objects.filter(pk=row.pk, last_notice_id__lt=notice_id).update(last_notice_id=notice_id)
