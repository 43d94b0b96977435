"""Celery's tasks: three lines each, ids by keyword, unknown arguments accepted, safe to run twice or never."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.core.management import call_command


@shared_task
def forget_old_sessions(**_: Any) -> None:
    call_command("clearsessions")
