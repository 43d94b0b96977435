"""Celery's tasks of this room: three lines each, unknown arguments accepted, safe to run twice or never."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.utils import timezone

from proxy import conversation_rows


@shared_task
def forget_expired_conversations(**_: Any) -> None:
    conversation_rows.purge(timezone.now())
