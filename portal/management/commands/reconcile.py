"""`manage.py reconcile`: prints every difference between books and counters; exit status 1 when there is one."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from billing import rebuild
from billing.reconcile import reconcile
from keys.connections import redis_client
from portal.checks import OF_SETTINGS
from portal.engine_audit import all_that_differs


class Command(BaseCommand):
    help = "Compares Redis, events, rollups, postings and balances. May run under traffic."
    requires_system_checks = OF_SETTINGS

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deep", action="store_true", help="every call, every hold and the demo engine's own log")

    def handle(self, *args: Any, **options: Any) -> None:
        # A Redis that has just started, perhaps for this command, is closed: open it as the journal does.
        store = redis_client()
        rebuild.ensure_epochs(store)
        found = 0
        for difference in all_that_differs(store, now=timezone.now()) if options["deep"] else reconcile(store):
            found += 1
            self.stdout.write(str(difference))
        if found:
            self.stderr.write(f"{found} differences.")
            sys.exit(1)
        self.stdout.write("The books agree.")
