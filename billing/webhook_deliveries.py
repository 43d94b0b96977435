"""The only writer of WebhookDelivery: events on their way to endpoints.

`record` writes a row per endpoint that chose the event, in the transaction of what happened: it is told of exactly when
it happened. `send_due` claims rows under their locks, sends outside of any transaction, and writes down what came of
it. A sender that dies is replaced after CLAIM, so an event may come twice but never not at all; its id stays the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from django.db import connection, transaction
from django.db.models import Min
from django.utils import timezone

from billing import webhook_endpoints, webhook_sending, webhook_signing
from billing.webhook_models import TEST, WebhookDelivery, WebhookEndpoint
from billing.webhook_sending import Answer
from keys import audit
from keys.audit import Actor
from keys.models import ApiKey, Organization, public_id
from keys.sealing import SealBroken

PAUSES = tuple(timedelta(seconds=seconds) for seconds in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400))
"""After the first, second, … attempt that failed; after the last it is given up: three days and two hours in all."""
CLAIM = timedelta(seconds=60)
AT_ONCE = 16
"""Endpoints that are sent to at the same time, one event each: a slow one delays nobody's but its own."""
WORK_SECONDS = 4.0
"""A job begins no round after that: it is called every five seconds, and other jobs want their turn."""
KEPT = timedelta(days=30)
FORGET_MAX = 5_000
GONE = 410
WAITING, SENDING = WebhookDelivery.State.WAITING, WebhookDelivery.State.SENDING
DELIVERED, FAILED = WebhookDelivery.State.DELIVERED, WebhookDelivery.State.FAILED
Clock = Callable[[], datetime]
Post = Callable[[str, dict[str, str], bytes], Answer]
log = logging.getLogger(__name__)


# Events


def record(organization: Organization, event: str, data: dict[str, Any]) -> None:
    """Inside the transaction of what it tells of."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("an event belongs into the transaction of what it tells of")
    wanted = WebhookEndpoint.objects.filter(organization=organization, is_enabled=True, events__contains=[event])
    write(wanted, organization, event, data)


def write(
    endpoints: Iterable[WebhookEndpoint], organization: Organization, event: str, data: dict[str, Any]
) -> list[WebhookDelivery]:
    """The same event for each of them."""
    found = list(endpoints)
    if not found:
        return []
    told = {"organization": organization.public_id, **data}
    at = timezone.now().isoformat(timespec="seconds").replace("+00:00", "Z")
    body = orjson.dumps({"type": event, "timestamp": at, "data": told}).decode()
    event_id = public_id("evt_")
    rows = [WebhookDelivery(endpoint=one, event_id=event_id, event=event, body=body) for one in found]
    return WebhookDelivery.objects.bulk_create(rows)


def key_revoked(key: ApiKey) -> None:
    """For keys.issuing, which calls it in the transaction of the revocation."""
    at = key.revoked_at.isoformat() if key.revoked_at else None
    data = {"key": key.public_id, "name": key.name, "hint": key.hint, "revoked_at": at}
    record(key.organization, "key.revoked", data)


def send_test(endpoint: WebhookEndpoint, *, actor: Actor, address: str | None = None) -> WebhookDelivery:
    with transaction.atomic():
        (row,) = write([endpoint], endpoint.organization, TEST, {"message": "This is a test. Nothing happened."})
        _note("webhook.tested", endpoint, row, actor, address)
    return row


def send_again(delivery: WebhookDelivery, *, actor: Actor, address: str | None = None) -> bool:
    """The same event, id and body, with a new signature and all its tries. False while it is just being sent."""
    with transaction.atomic():
        rows = WebhookDelivery.objects.select_for_update(of=("self",)).select_related("endpoint__organization")
        row = rows.filter(pk=delivery.pk).exclude(state=SENDING).first()
        if row is None:
            return False
        row.state, row.next_at, row.attempts_before, row.ended_at = WAITING, timezone.now(), row.attempts, None
        row.save(update_fields=["state", "next_at", "attempts_before", "ended_at"])
        _note("webhook.sent_again", row.endpoint, row, actor, address)
    return True


def _note(action: str, endpoint: WebhookEndpoint, row: WebhookDelivery, actor: Actor, address: str | None) -> None:
    audit.note(
        *(action, endpoint.public_id),
        actor=actor,
        organization=endpoint.organization,
        after={"event": row.event_id},
        address=address,
    )


def forget(now: datetime) -> int:
    """The log is KEPT long; of an endpoint that is off, also what waits since then."""
    old = WebhookDelivery.objects.filter(created_at__lt=now - KEPT).exclude(endpoint__is_enabled=True, ended_at=None)
    done, _ = WebhookDelivery.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:FORGET_MAX])).delete()
    return done


# Sending


class Claimed(NamedTuple):
    """What a sender needs to know while it holds no lock. `attempt` says whether the claim is still its own."""

    delivery: WebhookDelivery
    attempt: int
    headers: dict[str, str]


def send_due(*, clock: Clock = timezone.now, post: Post = webhook_sending.post) -> int:
    """Send what is due, by rounds of one event per endpoint, until nothing is or the time is up; how many were tried.
    Any number of workers may send at once."""
    ends, tried = time.monotonic() + WORK_SECONDS, 0
    while time.monotonic() < ends:
        claimed = claim(clock())
        if not claimed:
            break
        with ThreadPoolExecutor(AT_ONCE) as pool:  # these threads touch no database
            answers = list(pool.map(lambda one: _posted(one, post), claimed))
        for one, answer in zip(claimed, answers, strict=True):
            finish(one, answer, clock())
        tried += len(claimed)
    return tried


def claim(now: datetime) -> list[Claimed]:
    """Up to AT_ONCE deliveries of as many endpoints, marked as being sent by the caller until now + CLAIM."""
    due = WebhookDelivery.objects.filter(state__in=[WAITING, SENDING], next_at__lte=now, endpoint__is_enabled=True)
    first = due.values("endpoint").annotate(first=Min("next_at")).order_by("first")[:AT_ONCE]
    found = [_claim_one(row["endpoint"], now) for row in first]
    return [one for one in found if one is not None]


def _claim_one(endpoint_id: int, now: datetime) -> Claimed | None:
    with transaction.atomic():
        rows = WebhookDelivery.objects.select_for_update(skip_locked=True, of=("self",))
        rows = rows.filter(endpoint_id=endpoint_id, endpoint__is_enabled=True)
        rows = rows.filter(state__in=[WAITING, SENDING], next_at__lte=now).select_related("endpoint__organization")
        row = rows.order_by("next_at", "pk").first()
        if row is None:
            return None
        row.state, row.attempts, row.next_at = SENDING, row.attempts + 1, now + CLAIM
        row.save(update_fields=["state", "attempts", "next_at"])
    try:
        secrets_now = webhook_endpoints.secrets_of(row.endpoint, now)
    except SealBroken as error:
        log.error("webhooks to %s cannot be signed: %s", row.endpoint, error)
        return None  # it is due again after CLAIM, for when the key is back
    headers = webhook_signing.headers(secrets_now, row.event_id, int(now.timestamp()), row.body.encode())
    return Claimed(row, row.attempts, headers)


def _posted(one: Claimed, post: Post) -> Answer:
    try:
        return post(one.delivery.endpoint.url, one.headers, one.delivery.body.encode())
    except Exception:
        log.exception("a webhook to %s could not be sent", one.delivery.endpoint)
        return Answer(None, "It could not be sent.")


def finish(one: Claimed, answer: Answer, now: datetime) -> bool:
    """Write down what came of it; False when somebody else has claimed it since, or it was removed."""
    row = one.delivery
    tries = one.attempt - row.attempts_before
    values: dict[str, Any] = {"answer_status": answer.status, "answer": answer.text}
    if answer.is_good:
        values |= {"state": DELIVERED, "ended_at": now}
    elif tries > len(PAUSES) or row.event == TEST:
        values |= {"state": FAILED, "ended_at": now}
    else:
        values |= {"state": WAITING, "next_at": now + PAUSES[tries - 1]}
    mine = WebhookDelivery.objects.filter(pk=row.pk, state=SENDING, attempts=one.attempt)
    if not mine.update(**values):
        return False
    try:
        if answer.is_good:
            webhook_endpoints.answered(row.endpoint)
        elif row.event != TEST:
            why = f"HTTP {answer.status}" if answer.status else answer.text
            webhook_endpoints.failed(row.endpoint, why, now, for_good=answer.status == GONE)
    except WebhookEndpoint.DoesNotExist:
        return False
    return True
