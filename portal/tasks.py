"""Celery's tasks: three lines each, ids by keyword, unknown arguments accepted, safe to run twice or never."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.core.management import call_command
from django.utils import timezone

from portal import engine_audit, notify
from portal.canary import checks
from portal.manage_api import idempotency


@shared_task
def forget_old_sessions(**_: Any) -> None:
    call_command("clearsessions")


@shared_task
def forget_kept_answers(**_: Any) -> None:
    idempotency.forget(timezone.now())


@shared_task
def send_notices(**_: Any) -> None:
    notify.deliver(now=timezone.now())


@shared_task
def compare_engine_counters(**_: Any) -> None:
    engine_audit.compare(now=timezone.now())


@shared_task
def ask_models(**_: Any) -> None:
    checks.run(now=timezone.now())
