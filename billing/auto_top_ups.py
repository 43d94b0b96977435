"""The only writer of AutoTopUp: an organization below its threshold is charged, once, up to its cap of the month.

One attempt is open at a time: a partial unique index says so, not a lock, so any number of triggers make one charge. A
card that is declined is tried again later and ever more rarely; one whose bank asks for its holder is not tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Sum
from django.db.models.functions import Coalesce

from billing import balances, cards, currencies, ledger, notices, stripe_accounts, stripe_gateway, top_ups
from billing.payment_models import AutoTopUp, TopUp
from keys import audit
from keys.audit import Actor
from keys.models import Organization

PAUSES = (timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=3))
"""After the first, second, … decline in a row; after the last it stops."""
ASKS_HOLDER = "authentication_required"
BATCH = 500
log = logging.getLogger(__name__)


def put(
    *,
    organization: Organization,
    threshold_nanos: int,
    amount_nanos: int,
    monthly_cap_nanos: int,
    actor: Actor,
    address: str | None = None,
) -> AutoTopUp:
    """Turn it on, or change it; a try that was waiting is due at once. ValidationError names the field."""
    currency = organization.brand.currency
    problems = {
        "amount": currencies.charge_problem(amount_nanos, currency),
        "threshold": None if threshold_nanos >= 0 else "Nought or more.",
        "monthly_cap": None if monthly_cap_nanos >= amount_nanos else "At least one top-up a month, or turn it off.",
    }
    if any(problems.values()):
        raise ValidationError({name: problem for name, problem in problems.items() if problem})
    if cards.kept(organization) is None:
        raise ValidationError("Keep a card first: it is what would be charged.")
    values = {
        "is_on": True,
        "threshold_nanos": threshold_nanos,
        "amount_nanos": amount_nanos,
        "monthly_cap_nanos": monthly_cap_nanos,
    }
    fresh = {"failures": 0, "not_before": None, "stopped_because": ""}
    with transaction.atomic():
        row, _ = AutoTopUp.objects.update_or_create(organization=organization, defaults=values | fresh)
        audit.note(
            *("auto_top_up.set", organization.public_id),
            actor=actor,
            organization=organization,
            after=values,
            address=address,
        )
    return row


def turn_off(*, organization: Organization, actor: Actor, address: str | None = None) -> None:
    with transaction.atomic():
        if AutoTopUp.objects.filter(organization=organization, is_on=True).update(is_on=False):
            audit.note(
                *("auto_top_up.off", organization.public_id), actor=actor, organization=organization, address=address
            )


# Charging


def run(now: datetime, limit: int = 100) -> int:
    """Charge organizations that are below their thresholds, `limit` of them in a pass: whoever was tried is not wanted
    in the next one. How many attempts were begun."""
    begun = tried = 0
    for wish in _wanting(now):
        if tried == limit:
            break
        try:
            is_begun = trigger(wish.organization, now) is not None
            begun, tried = begun + is_begun, tried + is_begun
        except stripe_gateway.Unknown as error:
            tried += 1
            log.warning("the automatic top-up of %s waits for Stripe: %s", wish.organization, error)
    return begun


def _wanting(now: datetime) -> Iterator[AutoTopUp]:
    """All who are below: none is left out because others, who have enough, come before."""
    under_way = TopUp.objects.filter(
        organization=OuterRef("organization"), kind=TopUp.Kind.AUTO, state__in=[TopUp.State.CREATED, TopUp.State.OPEN]
    )
    rows = AutoTopUp.objects.filter(~Exists(under_way), is_on=True).exclude(not_before__gt=now)
    rows, last = rows.select_related("organization__brand").order_by("pk"), 0
    while batch := list(rows.filter(pk__gt=last)[:BATCH]):
        found = balances.of_all([wish.organization for wish in batch])
        yield from (wish for wish in batch if found[wish.pk].available_nanos < wish.threshold_nanos)
        last = batch[-1].pk


def trigger(organization: Organization, now: datetime) -> TopUp | None:
    """One attempt, if one is wanted and none is open. Raises stripe_gateway.Unknown: then the attempt stays open, and
    the poller finds out."""
    wish = AutoTopUp.objects.filter(organization=organization, is_on=True).exclude(not_before__gt=now).first()
    if wish is None or balances.of(organization).available_nanos >= wish.threshold_nanos:
        return None
    if spent_this_month(organization, now) + wish.amount_nanos > wish.monthly_cap_nanos:
        _tell_of_cap(wish, now)
        return None
    row = _open(organization, now)
    if row is None:
        return None
    try:
        top_ups.charge(row)
    finally:
        row.refresh_from_db()
        settle(row, now)
    return row


class _NotWanted(Exception):
    """Takes the new row back."""


def _open(organization: Organization, now: datetime) -> TopUp | None:
    """The row that allows one charge. It is inserted before anything is looked at: the index waits for an attempt that
    is just being paid, and whoever gets in then sees its credit."""
    try:
        account = stripe_accounts.active(organization.brand)
        with transaction.atomic():
            row = TopUp.objects.create(
                account=account,
                organization=organization,
                kind=TopUp.Kind.AUTO,
                amount_nanos=AutoTopUp.objects.get(organization=organization).amount_nanos,
                currency=organization.brand.currency,
                next_look_at=now + top_ups.LOOK_AFTER,
            )
            wish = AutoTopUp.objects.select_for_update().get(organization=organization)
            if not _is_wanted(wish, row, now):
                raise _NotWanted
    except (IntegrityError, _NotWanted, stripe_accounts.NotConnected):
        return None
    return row


def _is_wanted(wish: AutoTopUp, row: TopUp, now: datetime) -> bool:
    waits = wish.not_before is not None and wish.not_before > now
    changed = wish.amount_nanos != row.amount_nanos
    if not wish.is_on or waits or changed or _available(wish.organization) >= wish.threshold_nanos:
        return False
    return spent_this_month(wish.organization, now) <= wish.monthly_cap_nanos  # the row itself included


def _available(organization: Organization) -> int:
    """Redis may not know yet of a credit that the books have: the larger of both, less what runs now."""
    found = balances.of(organization)
    return max(found.available_nanos, ledger.balance_nanos(organization) - found.held_nanos)


def spent_this_month(organization: Organization, now: datetime) -> int:
    """What automatic top-ups of the brand's month have charged, or may still charge: nanos of credit."""
    zone = ZoneInfo(organization.brand.timezone)
    month = now.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    rows = TopUp.objects.filter(organization=organization, kind=TopUp.Kind.AUTO, created_at__gte=month)
    rows = rows.filter(state__in=[TopUp.State.CREATED, TopUp.State.OPEN, TopUp.State.PAID])
    return int(rows.aggregate(sum=Coalesce(Sum("amount_nanos"), 0))["sum"])


# What became of an attempt


def settle(row: TopUp, now: datetime) -> None:
    """Once per attempt that has ended: the next try, or the end of trying, and a mail about it."""
    if row.kind != TopUp.Kind.AUTO or row.state not in (TopUp.State.PAID, TopUp.State.FAILED):
        return
    with transaction.atomic():
        wish = AutoTopUp.objects.select_for_update().filter(organization=row.organization).first()
        if wish is None:
            return
        if row.state == TopUp.State.PAID:
            if _is_overtaken(row):
                return
            wish.failures, wish.not_before, wish.stopped_because = 0, None, ""
            wish.save(update_fields=["failures", "not_before", "stopped_because"])
        elif notices.tell(
            organization=row.organization,
            kind="auto_top_up_failed",
            once=f"auto_top_up_failed:{row.public_id}",
            payload=_failure(row, wish),
        ):
            _back_off(wish, row.failure.partition(":")[0], now)


def _is_overtaken(row: TopUp) -> bool:
    """What an older attempt came to says nothing of the card that a later one tried."""
    later = TopUp.objects.filter(organization=row.organization, kind=TopUp.Kind.AUTO, pk__gt=row.pk)
    return later.exists()


def _back_off(wish: AutoTopUp, code: str, now: datetime) -> None:
    wish.failures += 1
    if code in (ASKS_HOLDER, "no_card") or wish.failures > len(PAUSES):
        wish.is_on, wish.stopped_because = False, code[:40]
    else:
        wish.not_before = now + PAUSES[wish.failures - 1]
    wish.save(update_fields=["failures", "not_before", "is_on", "stopped_because"])


def _failure(row: TopUp, wish: AutoTopUp) -> dict[str, object]:
    code, _, words = row.failure.partition(": ")
    stops = code in (ASKS_HOLDER, "no_card") or wish.failures >= len(PAUSES)
    return {
        "amount_nanos": row.amount_nanos,
        "currency": row.currency,
        "why": words,
        "asks_holder": code == ASKS_HOLDER,
        "stops": stops,
    }


def _tell_of_cap(wish: AutoTopUp, now: datetime) -> None:
    organization = wish.organization
    month = now.astimezone(ZoneInfo(organization.brand.timezone)).strftime("%Y%m")
    notices.tell(
        organization=organization,
        kind="auto_top_up_capped",
        once=f"auto_top_up_capped:{organization.public_id}:{month}:{wish.monthly_cap_nanos}",
        payload={"cap_nanos": wish.monthly_cap_nanos, "currency": organization.brand.currency},
    )
