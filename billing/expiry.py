"""The end of grants: what is left of an expired one is taken back, and its owner hears of it before. The only writer of
GrantEnd.

A pass may run late, twice, or in two processes at once: it judges behind the wallet's lock, so whoever comes second
finds nothing left. Running calls are not harmed: they began while the credit was good, so what they have set aside
stays until they are settled, and the rest is taken by a later pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import CharField, DateTimeField, Exists, ExpressionWrapper, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Cast, Concat

from billing import balances, ledger, money, notices, spending, wallets
from billing.models import CounterChange, Grant, GrantEnd, LedgerAccount, Notice, Posting
from keys.models import Organization

ACTOR = "expiry of credit"
PASS_MAX = 500
WARNED_BEFORE = timedelta(days=7)
NOTICE = "credit_expires"


def expire(now: datetime, limit: int = PASS_MAX) -> int:
    """Take what is left of the grants that have expired; how many were taken from. Those whose customer Redis cannot be
    asked about wait for the next pass."""
    due = Grant.objects.filter(expires_at__lte=now, end=None).order_by("expires_at", "pk")[:limit]
    by_owner: dict[int, list[int]] = {}
    for id, owner in due.values_list("pk", "organization_id"):
        by_owner.setdefault(owner, []).append(id)
    return sum(_expire_of(owner, ids) for owner, ids in by_owner.items())


def _expire_of(organization_id: int, ids: Iterable[int]) -> int:
    organization = Organization.objects.select_related("brand").get(pk=organization_id)
    with transaction.atomic():
        ledger.hold_still(organization)
        balance = balances.of(organization)
        if not balance.is_live or CounterChange.objects.filter(organization=organization, applied_at=None).exists():
            return 0
        wallet = wallets.of(organization)
        grants = {grant.id: grant for grant in Grant.objects.filter(pk__in=ids, end=None)}
        running = max(0, balance.posted_nanos - balance.available_nanos)
        taken = spending.takeable(wallet.left, map(wallets.credit, grants.values()), running)
        for id, nanos in taken.items():
            _take(organization, grants[id], nanos)
        over = [GrantEnd(grant_id=id) for id in grants if wallet.left.get(id, 0) == taken.get(id, 0)]
        GrantEnd.objects.bulk_create(over)
    return len(taken)


def _take(organization: Organization, grant: Grant, nanos: int) -> None:
    """In one posting, unless calls were running: then what they leave over is taken by one more."""
    reference = f"{wallets.EXPIRY_PREFIX}{grant.id}"
    before = Posting.objects.filter(Q(reference=reference) | Q(reference__startswith=f"{reference}:")).count()
    is_paid = grant.kind == Grant.Kind.PAID
    ledger.adjust(
        organization=organization,
        amount_nanos=-nanos,
        kind=Posting.Kind.EXPIRY,
        counterpart=LedgerAccount.Kind.REVENUE if is_paid else LedgerAccount.Kind.PROMOTION,
        reason=f"expired: {grant.reason}"[:200],
        reference=f"{reference}:{before + 1}" if before else reference,
        actor=ACTOR,
    )


def warn(now: datetime, limit: int = PASS_MAX) -> int:
    """Tell the owners of credit that expires within a week (of shorter credit: in the second half of its time); how
    many were told. Of credit that is used up nobody hears."""
    told = 0
    for grant in _ending(now)[:limit]:
        left = wallets.of(grant.organization).left.get(grant.id, 0)
        if left:
            payload = {
                "left": money.display_short(left, grant.organization.brand.currency),
                "until": f"{grant.expires_at:%-d %B %Y, %H:%M} UTC",
                "reason": grant.reason,
            }
            once = f"{NOTICE}:{grant.id}"
            notices.tell(organization=grant.organization, kind=NOTICE, once=once, payload=payload)
            told += 1
    return told


def _ending(now: datetime) -> QuerySet[Grant]:
    moment = Value(now, output_field=DateTimeField())
    mirrored = ExpressionWrapper(moment - (F("expires_at") - moment), DateTimeField())
    told = Notice.objects.filter(unique_key=Concat(Value(f"{NOTICE}:"), Cast(OuterRef("pk"), CharField())))
    return (
        Grant.objects.filter(expires_at__gt=now, expires_at__lte=now + WARNED_BEFORE, created_at__lte=mirrored)
        .exclude(Exists(told))
        .select_related("organization__brand")
        .order_by("expires_at", "pk")
    )
