"""`manage.py reconcile`: prints every difference between books and counters; exit status 1 when there is one."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from billing import rebuild
from billing.reconcile import reconcile
from keys.connections import redis_client


class Command(BaseCommand):
    help = "Compares Redis, events, rollups, postings and balances. May run under traffic."

    def handle(self, *args: Any, **options: Any) -> None:
        # A Redis that has just started, perhaps for this command, is closed: open it as the journal does.
        rebuild.ensure_epochs(redis_client())
        found = 0
        for difference in reconcile(redis_client()):
            found += 1
            self.stdout.write(str(difference))
        if found:
            self.stderr.write(f"{found} differences.")
            sys.exit(1)
        self.stdout.write("The books agree.")
