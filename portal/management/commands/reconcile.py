"""`manage.py reconcile`: prints every difference between books and counters; exit status 1 when there is one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from billing import rebuild, reconcile_calls
from billing.reconcile import reconcile
from billing.reconcile_books import Difference
from keys.connections import redis_client
from portal import engine_audit


class Command(BaseCommand):
    help = "Compares Redis, events, rollups, postings and balances. May run under traffic."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deep", action="store_true", help="every call, every hold and the demo engine's own log")

    def handle(self, *args: Any, **options: Any) -> None:
        # A Redis that has just started, perhaps for this command, is closed: open it as the journal does.
        rebuild.ensure_epochs(redis_client())
        found = 0
        for difference in self._differences(deep=options["deep"]):
            found += 1
            self.stdout.write(str(difference))
        if found:
            self.stderr.write(f"{found} differences.")
            sys.exit(1)
        self.stdout.write("The books agree.")

    def _differences(self, *, deep: bool) -> Iterator[Difference]:
        store = redis_client()
        yield from reconcile(store)
        if deep:
            yield from reconcile_calls.differences(store)
            yield from engine_audit.logs_that_differ(now=timezone.now())
