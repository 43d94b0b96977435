"""Tells customers of prices that are to begin, and again when one is withdrawn.

A pass asks what is to begin and who is concerned: of everybody's price those who used the model in the last 30 days and
have no price of their own for it then; of a customer's own price that customer. Each hears of each price once; prices
set in one sitting are one notice, since a price waits SETTLED before it is told (or until it is near). Whoever begins
to use the model later is told by a later pass. A scheduled price that has begun before any pass came by is told all the
same, in words that say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import F, Q, QuerySet

from billing import notices, prices
from billing.models import Notice, Rate, UsageDay
from keys.models import Organization

USED_WITHIN = timedelta(days=30)
SETTLED = timedelta(minutes=10)
"""A slip that is withdrawn within it is told to nobody."""
PASS_MAX = 1_000
LATE_MAX = timedelta(days=7)
"""Longer ago than this nobody is told any more that a price has begun."""
AT_ONCE = timedelta(minutes=1)
"""What was set to begin within it holds from now on: nobody meant to announce it."""
SLACK = timedelta(days=1)
"""By how much a pass may come too late to hear of a withdrawal."""
INSTANT = timedelta(microseconds=1)


def run(now: datetime) -> int:
    """One pass; how many notices were made."""
    return take_back(now) + announce(now) + announce_late(now)


def announce(now: datetime) -> int:
    near = Q(effective_from__lte=now + 2 * SETTLED)
    rates = Rate.objects.filter(near | Q(created_at__lte=now - SETTLED), effective_from__gt=now)
    return _announce(notices.PRICES, rates, now)


def announce_late(now: datetime) -> int:
    begun = Rate.objects.filter(effective_from__lte=now, effective_from__gt=now - LATE_MAX)
    scheduled = begun.filter(effective_from__gt=F("created_at") + AT_ONCE)
    return _announce(notices.PRICES_LATE, prices.in_force(scheduled, now), now)


def _announce(kind: str, rates: QuerySet[Rate], now: datetime) -> int:
    concerned: dict[int, list[Rate]] = defaultdict(list)
    for rate in rates.select_related("model__brand").order_by("effective_from", "pk"):
        for organization_id in _concerned(rate, min(now, rate.effective_from)):
            concerned[organization_id].append(rate)
    told = _told(concerned)
    news = {id: [rate for rate in found if rate.pk not in told[id]] for id, found in concerned.items()}
    waiting = sorted(id for id, found in news.items() if found)[:PASS_MAX]
    organizations = Organization.objects.in_bulk(waiting)
    said: dict[int, dict[str, str]] = {}
    return sum(_tell(kind, organizations[id], news[id], said) for id in waiting if id in organizations)


def take_back(now: datetime) -> int:
    """Prices that were told and are withdrawn: a notice that has not been sent is changed, else another follows."""
    rows = Notice.objects.filter(notices.prices_ahead(now - SLACK)).order_by("pk").values_list("pk", "payload")
    ids = {pk: {entry["id"] for entry in payload["rates"]} for pk, payload in rows}
    there = set(Rate.objects.filter(pk__in=set().union(*ids.values())).values_list("pk", flat=True))
    return sum(_take_back(pk) for pk, said in ids.items() if not said <= there)


def _concerned(rate: Rate, at: datetime) -> Iterable[int]:
    """Who had used the model by then: who began under the price was told of no other."""
    if rate.organization_id is not None:
        return [rate.organization_id]
    day = at.astimezone(ZoneInfo(rate.model.brand.timezone)).date()
    days = UsageDay.objects.filter(model_id=rate.model_id, day__gte=day - USED_WITHIN, day__lte=day)
    users = days.values_list("organization_id", flat=True)
    own = prices.in_force(Rate.objects.filter(model=rate.model, organization__isnull=False), rate.effective_from)
    return set(users.distinct()) - set(own.values_list("organization_id", flat=True))


def _told(organization_ids: Iterable[int]) -> dict[int, set[int]]:
    told: dict[int, set[int]] = defaultdict(set)
    rows = Notice.objects.filter(organization_id__in=list(organization_ids), kind__in=notices.OF_PRICES)
    for organization_id, payload in rows.values_list("organization_id", "payload"):
        told[organization_id] |= {entry["id"] for entry in payload["rates"]}
    return told


def _tell(kind: str, organization: Organization, rates: list[Rate], said: dict[int, dict[str, str]]) -> int:
    payload = {
        "rates": [{"id": rate.pk, **_said(rate, said)} for rate in rates],
        "until": notices.stamp(max(rate.effective_from for rate in rates)),
    }
    once = f"{kind}:{organization.pk}:{rates[0].pk}"
    return notices.tell(organization=organization, kind=kind, once=once, payload=payload)


def _said(rate: Rate, said: dict[int, dict[str, str]]) -> dict[str, str]:
    """In words, once for all who hear it."""
    if rate.pk not in said:
        before = _before(rate)
        said[rate.pk] = {
            "model": rate.model.slug,
            "at": notices.stamp(rate.effective_from),
            "before": prices.described(before) if before else "",
            "after": prices.described(rate),
        }
    return said[rate.pk]


def _before(rate: Rate) -> Rate | None:
    rates = prices.in_force(Rate.objects.filter(model=rate.model), rate.effective_from - INSTANT)
    own = rates.filter(organization=rate.organization_id).first()
    return own or rates.filter(organization=None).first()


def _take_back(notice_id: int) -> bool:
    with transaction.atomic():
        notice = (
            Notice.objects.select_for_update(of=("self",)).select_related("organization").filter(pk=notice_id).first()
        )
        stands = notices.standing(notice) if notice else []
        if notice is None or stands == notice.payload["rates"]:
            return False
        gone = [entry for entry in notice.payload["rates"] if entry not in stands]
        was_sent = notice.sent_at is not None
        notices.change(notice, stands)
        return was_sent and notices.tell(
            organization=notice.organization,
            kind=notices.WITHDRAWN,
            once=f"{notices.WITHDRAWN}:{notice_id}:{gone[0]['id']}",
            payload={"rates": gone},
        )
