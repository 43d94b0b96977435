"""Celery: hints, never truth. Every job has a row; losing or doubling a task changes nothing."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery
from celery.signals import beat_embedded_init, worker_process_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

from django.conf import settings
from django.db import connections

from portal.environment import celery_transport
from portal.stores.children import die_with_parent

TASK_SECONDS_MAX = 300
VISIBILITY_SECONDS = 600  # an unacknowledged task returns after this; longer than any task may run, so none runs twice

# The beat schedule: task, every how many seconds. Nothing may depend on a beat being on time.
SCHEDULE: tuple[tuple[str, float], ...] = (
    ("portal.tasks.forget_old_sessions", 3600.0),
    ("portal.tasks.forget_kept_answers", 3600.0),
    ("portal.tasks.send_notices", 30.0),
    ("portal.tasks.compare_engine_counters", 120.0),
    ("portal.tasks.ask_models", 60.0),  # each model once in five minutes, whenever in them
    ("billing.tasks.compare_the_books", 3600.0),
    ("billing.tasks.judge_the_night", 300.0),
    ("billing.tasks.seal_the_books", 600.0),
    ("billing.tasks.tell_of_limits", 60.0),
    ("billing.tasks.forget_old_alerts", 3600.0),
    ("billing.tasks.work_on_stripe_events", 10.0),
    ("billing.tasks.ask_stripe", 60.0),
    ("billing.tasks.top_up_automatically", 15.0),
    ("billing.tasks.send_webhooks", 5.0),
    ("billing.tasks.look_at_balances", 15.0),
    ("billing.tasks.forget_old_deliveries", 3600.0),
    ("billing.tasks.expire_grants", 60.0),
    ("billing.tasks.warn_of_expiry", 3600.0),
    ("billing.tasks.announce_prices", 300.0),
    ("billing.tasks.forget_old_publications", 3600.0),
    ("proxy.tasks.forget_expired_conversations", 600.0),
)

app = Celery("portal")
app.conf.update(
    broker_url=celery_transport(settings.BROKER_URL),
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS, "socket_timeout": 60},
    result_backend_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
    visibility_timeout=VISIBILITY_SECONDS,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_time_limit=TASK_SECONDS_MAX,
    task_soft_time_limit=TASK_SECONDS_MAX - 30,
    task_serializer="json",
    accept_content=["json"],
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=20,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    worker_hijack_root_logger=False,
    timezone="UTC",
    beat_schedule={task: {"task": task, "schedule": seconds} for task, seconds in SCHEDULE},
    beat_schedule_filename=str(settings.VAR_DIR / "beat"),
)
app.autodiscover_tasks()

from portal import jobs  # noqa: E402, F401 (hears when each job ended)


@worker_process_init.connect
def _open_own_connections(**_: Any) -> None:
    """A pool that was opened before the fork belongs to the parent."""
    for connection in connections.all(initialized_only=True):
        close_pool = getattr(connection, "close_pool", None)
        if close_pool is not None:
            close_pool()


@worker_process_init.connect
@beat_embedded_init.connect
def _die_with_the_worker(**_: Any) -> None:
    die_with_parent(signal.SIGKILL, os.getppid())
