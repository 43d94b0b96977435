"""`manage.py doctor`: what is wrong with a set-up and how to mend it. Exits 1 on a problem, 0 on mere warnings."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from portal import doctor
from portal.doctor import Level


class Command(BaseCommand):
    help = "Says what is wrong with this installation and how to mend it."
    requires_system_checks = ()  # doctor reports them itself

    def handle(self, *args: Any, **options: Any) -> None:
        found = doctor.examine()
        for finding in sorted(found, key=lambda finding: finding.level.value):
            self.stdout.write(f"{finding.level.value}: {finding.says}\n    {finding.mend}")
        if not found:
            self.stdout.write("Nothing found.")
        if any(finding.level is Level.PROBLEM for finding in found):
            sys.exit(1)
