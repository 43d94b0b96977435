"""The only writer of WebhookEndpoint: where an organization wants to hear of its events, and by which secrets it knows
that it was us. A secret is shown once, sealed, and replaced with an overlap in which both sign."""

from __future__ import annotations

import secrets as randomness
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from billing import ledger, notices, webhook_sending, webhook_signing
from billing.webhook_models import WebhookEndpoint, WebhookEvent
from keys import audit
from keys.audit import Actor
from keys.models import Organization
from keys.sealing import open_text, seal_text

ENDPOINTS_MAX = 10
OVERLAPS_MAX = timedelta(days=7)
FAILING_FOR = timedelta(days=5)
"""After that long without one success an endpoint is turned off, and its people are written to."""
Level = WebhookEndpoint.Level


def add(
    *,
    organization: Organization,
    url: str,
    events: Iterable[str],
    actor: Actor,
    low_balance_nanos: int = 0,
    address: str | None = None,
) -> tuple[WebhookEndpoint, str]:
    """The endpoint and its secret, which nothing shows again. ValidationError names the field."""
    values = _checked(url, events, low_balance_nanos)
    secret = _new_secret()
    with transaction.atomic():
        _lock_account(organization)
        others = WebhookEndpoint.objects.filter(organization=organization)
        if others.count() >= ENDPOINTS_MAX:
            raise ValidationError(f"An account has at most {ENDPOINTS_MAX} endpoints.")
        _refuse_second(others, url)
        endpoint = WebhookEndpoint.objects.create(
            organization=organization,
            secret_sealed=seal_text(secret),
            balance_level=level_of(ledger.balance_nanos(organization), low_balance_nanos),
            **values,
        )
        _note("webhook.added", endpoint, (actor, address), after=values)
    return endpoint, secret


def change(
    *,
    endpoint: WebhookEndpoint,
    url: str,
    events: Iterable[str],
    actor: Actor,
    low_balance_nanos: int = 0,
    address: str | None = None,
) -> WebhookEndpoint:
    """What is on its way already goes to the new address."""
    values = _checked(url, events, low_balance_nanos)
    with transaction.atomic():
        _lock_account(endpoint.organization)
        row = _locked(endpoint)
        _refuse_second(WebhookEndpoint.objects.filter(organization=row.organization).exclude(pk=row.pk), url)
        before, after = audit.assign(row, values)
        if after:
            row.balance_level = _level_now(row)
            row.save(update_fields=[*after, "balance_level"])
            _note("webhook.changed", row, (actor, address), before=before, after=after)
    return row


def rotate(*, endpoint: WebhookEndpoint, overlap: timedelta, actor: Actor, address: str | None = None) -> str:
    """A new secret, shown by whoever asked. The one before signs too until `overlap` is over; one older than that ends
    now."""
    if not timedelta(0) <= overlap <= OVERLAPS_MAX:
        raise ValidationError({"overlap": f"From nought to {OVERLAPS_MAX.days} days."})
    secret = _new_secret()
    with transaction.atomic():
        row = _locked(endpoint)
        row.previous_secret_sealed = row.secret_sealed if overlap else ""
        row.previous_secret_until = timezone.now() + overlap if overlap else None
        row.secret_sealed = seal_text(secret)
        row.save(update_fields=["secret_sealed", "previous_secret_sealed", "previous_secret_until"])
        _note("webhook.rotated", row, (actor, address), after={"overlap_hours": int(overlap.total_seconds()) // 3600})
    return secret


def turn(*, endpoint: WebhookEndpoint, on: bool, actor: Actor, address: str | None = None) -> None:
    """Off: nothing new is recorded for it, and what waits goes on waiting. On: what waits is sent, and it has failed
    for no time."""
    with transaction.atomic():
        row = _locked(endpoint)
        if row.is_enabled == on:
            return
        row.is_enabled, row.failing_since, row.disabled_because = on, None, ""
        row.balance_level = _level_now(row)
        row.save(update_fields=["is_enabled", "failing_since", "disabled_because", "balance_level"])
        _note("webhook.turned_on" if on else "webhook.turned_off", row, (actor, address))


def remove(*, endpoint: WebhookEndpoint, actor: Actor, address: str | None = None) -> None:
    """With its log. The trail keeps that it was there."""
    with transaction.atomic():
        row = WebhookEndpoint.objects.select_for_update(of=("self",)).filter(pk=endpoint.pk).first()
        if row is not None:
            _note("webhook.removed", row, (actor, address), before={"url": row.url})
            row.delete()


def secrets_of(endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    """Those that sign now, the newest first."""
    sealed = [endpoint.secret_sealed]
    if endpoint.previous_secret_until is not None and now < endpoint.previous_secret_until:
        sealed.append(endpoint.previous_secret_sealed)
    return [open_text(text) for text in sealed]


def level_of(balance_nanos: int, low_balance_nanos: int) -> str:
    if balance_nanos <= 0:
        return Level.EXHAUSTED
    return Level.LOW if balance_nanos < low_balance_nanos else Level.ENOUGH


def stand(endpoint: WebhookEndpoint, level: str) -> None:
    """The balance was looked at for it; inside the transaction that holds its lock."""
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(balance_level=level)


# What became of sending to it


def answered(endpoint: WebhookEndpoint) -> None:
    WebhookEndpoint.objects.filter(pk=endpoint.pk).exclude(failing_since=None).update(failing_since=None)


def failed(endpoint: WebhookEndpoint, why: str, now: datetime, *, for_good: bool = False) -> None:
    """One more failure; turned off after FAILING_FOR of them, or at once where it says that it is gone for good."""
    with transaction.atomic():
        row = _locked(endpoint)
        if not row.is_enabled:
            return
        row.failing_since = row.failing_since or now
        if for_good or now - row.failing_since >= FAILING_FOR:
            row.is_enabled, row.disabled_because = False, why[:200]
            _note("webhook.turned_off", row, ("webhooks", None), after={"because": row.disabled_because})
            notices.tell(
                organization=row.organization,
                kind="webhook_disabled",
                once=f"webhook-disabled:{row.public_id}:{now.isoformat()}",
                payload={
                    "url": row.url,
                    "why": row.disabled_because,
                    "failing_since": row.failing_since.isoformat(),
                    "is_gone": for_good,
                },
            )
        row.save(update_fields=["failing_since", "is_enabled", "disabled_because"])


def _checked(url: str, events: Iterable[str], low_balance_nanos: int) -> dict[str, Any]:
    chosen = set(events)
    if not chosen or not chosen <= set(WebhookEvent.values):
        raise ValidationError({"events": "Choose one event or more."})
    if low_balance_nanos < 0:
        raise ValidationError({"low_balance": "Nought or more."})
    try:
        webhook_sending.checked_url(url)
    except webhook_sending.AddressRefused as error:
        raise ValidationError({"url": str(error)}) from None
    ordered = [event for event in WebhookEvent.values if event in chosen]
    return {"url": url, "events": ordered, "low_balance_nanos": low_balance_nanos}


def _refuse_second(others: QuerySet[WebhookEndpoint], url: str) -> None:
    if others.filter(url=url).exists():
        raise ValidationError({"url": "You have an endpoint at this address already."})


def _level_now(row: WebhookEndpoint) -> str:
    return level_of(ledger.balance_nanos(row.organization), row.low_balance_nanos)


def _new_secret() -> str:
    return webhook_signing.secret_of(randomness.token_bytes(webhook_signing.SECRET_BYTES))


def _lock_account(organization: Organization) -> None:
    """So that counting its endpoints, and finding none at an address, holds until the commit."""
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)


def _locked(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """WebhookEndpoint.DoesNotExist where it was removed meanwhile."""
    rows = WebhookEndpoint.objects.select_for_update(of=("self",), no_key=True).select_related("organization__brand")
    return rows.get(pk=endpoint.pk)


def _note(
    action: str,
    row: WebhookEndpoint,
    by: tuple[Actor, str | None],
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """`by`: who, and from which address."""
    actor, address = by
    organization = row.organization
    audit.note(
        *(action, row.public_id),
        actor=actor,
        organization=organization,
        before=before,
        after=after,
        address=address,
    )
