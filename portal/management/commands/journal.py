"""`manage.py journal`: the process that takes settled calls into PostgreSQL, and does what must be done every second.

Any number may run; they share the shards. SIGTERM finishes the batch at hand and gives the shards up.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from billing import crash, leases, outbox, partitions, rebuild, replay
from billing.journal import Journal
from keys import publication
from keys.connections import redis_client
from portal.checks import OF_SETTINGS
from portal.chores import Chore, Chores
from proxy import refusal_records

SECOND = 1.0
REPLAY_SECONDS = 3.0
HOUR = 3_600.0


class Command(BaseCommand):
    help = "Drains the journal of settled calls into PostgreSQL until it is stopped."
    requires_system_checks = OF_SETTINGS

    def handle(self, *args: Any, **options: Any) -> None:
        crash.arm(settings.CRASH_AT)
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        name = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        chores = Chores(CHORES, stopping=stopping, notify=self._tell)
        chores.start()
        self._tell(f"draining as {name}")
        Journal(redis_client(), name=name, notify=self._tell).run(stopping)
        chores.join(10)
        self._tell("stopped")

    def _tell(self, line: str) -> None:
        self.stdout.write(f"journal: {line}")
        self.stdout.flush()


def _open_epochs() -> str:
    opened = rebuild.ensure_epochs(redis_client())
    return f"opened {len(opened)} shards" if opened else ""


def _settle_lapsed_holds() -> str:
    settled = leases.sweep(redis_client())
    return f"settled {settled} calls whose worker is gone" if settled else ""


def _replay_dead_workers() -> str:
    done = replay.run(redis_client(), settings.WAL_DIR)
    return f"settled {done.settled} calls of dead workers, {done.retired} files retired" if any(done[::2]) else ""


def _apply_publications() -> str:
    done = publication.apply_pending()
    return f"applied {done} that were left" if done else ""


def _apply_counter_changes() -> str:
    done = outbox.apply_pending()
    return f"applied {done} that were left" if done else ""


def _make_partitions() -> str:
    made = partitions.create_ahead(datetime.now(UTC))
    return f"made {made[0]} to {made[-1]}" if made else ""


def _move_refusals() -> str:
    refusal_records.move(redis_client())
    return ""


def _keep_refusals() -> str:
    dropped = refusal_records.keep(datetime.now(UTC))
    return f"dropped {', '.join(dropped)}" if dropped else ""


CHORES = (
    Chore("epochs", SECOND, _open_epochs),
    Chore("publications", SECOND, _apply_publications),
    Chore("counter changes", SECOND, _apply_counter_changes),
    Chore("dead workers", REPLAY_SECONDS, _replay_dead_workers),
    Chore("lapsed holds", SECOND, _settle_lapsed_holds),
    Chore("refusals", SECOND, _move_refusals),
    Chore("partitions", HOUR, _make_partitions),
    Chore("old refusals", HOUR, _keep_refusals),
)
"""In this order: what opens a shard comes first."""
