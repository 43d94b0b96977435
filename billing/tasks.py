"""Celery's tasks of this room: three lines each, unknown arguments accepted, safe to run twice or never."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.utils import timezone

from billing import (
    alerts,
    auto_top_ups,
    expiry,
    price_announcements,
    reconcile,
    seals,
    stripe_events,
    upgrades,
    webhook_balances,
    webhook_deliveries,
)
from keys import publication
from keys.connections import redis_client

PUBLICATIONS_KEPT = timedelta(days=1)
log = logging.getLogger(__name__)


@shared_task
def compare_the_books(**_: Any) -> None:
    """What it finds is an alert: it is logged as an error, and metrics show the number."""
    for difference in reconcile.reconcile(redis_client()):
        log.error("the books differ: %s", difference)


@shared_task
def forget_old_publications(**_: Any) -> None:
    publication.forget_applied(timezone.now() - PUBLICATIONS_KEPT)


@shared_task
def judge_the_night(**_: Any) -> None:
    upgrades.run(timezone.now())


@shared_task
def expire_grants(**_: Any) -> None:
    expiry.expire(timezone.now())


@shared_task
def warn_of_expiry(**_: Any) -> None:
    expiry.warn(timezone.now())


@shared_task
def announce_prices(**_: Any) -> None:
    price_announcements.run(timezone.now())


@shared_task
def seal_the_books(**_: Any) -> None:
    seals.run(timezone.now())


@shared_task
def tell_of_limits(**_: Any) -> None:
    alerts.judge_all(timezone.now())


@shared_task
def forget_old_alerts(**_: Any) -> None:
    alerts.forget(timezone.now())


@shared_task
def work_on_stripe_events(**_: Any) -> None:
    stripe_events.work(timezone.now())


@shared_task
def ask_stripe(**_: Any) -> None:
    stripe_events.poll(timezone.now())
    stripe_events.look_around(timezone.now())


@shared_task
def top_up_automatically(**_: Any) -> None:
    auto_top_ups.run(timezone.now())


@shared_task
def send_webhooks(**_: Any) -> None:
    webhook_deliveries.send_due()


@shared_task
def look_at_balances(**_: Any) -> None:
    webhook_balances.look()


@shared_task
def forget_old_deliveries(**_: Any) -> None:
    webhook_deliveries.forget(timezone.now())
