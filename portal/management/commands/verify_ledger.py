"""`manage.py verify_ledger`: are the books as they were sealed, night by night; exit status 1 when they are not."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from billing import seals
from billing.models import LedgerSeal
from keys.models import Brand
from portal.management.choosing import brand_named


class Command(BaseCommand):
    help = "Finds postings that were edited, deleted or put in after their day was sealed, and names them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--brand", help="the brand's slug; all of them when not given")
        parser.add_argument(
            "--expect", metavar="DIGEST", help="a digest you kept (the log has each night's): it must still be there"
        )

    def handle(self, *, brand: str | None, expect: str | None, **_: Any) -> None:
        brands = [brand_named(brand)] if brand else list(Brand.objects.order_by("slug"))
        wrong = 0
        for each in brands:
            for problem in seals.verify(each):
                wrong += 1
                self.stdout.write(str(problem))
            last = LedgerSeal.objects.filter(brand=each).order_by("number").last()
            if last is not None:
                self.stdout.write(f"{each.slug}: {last.number} days sealed, the last {last.day}, digest {last.digest}")
        if expect and not LedgerSeal.objects.filter(brand__in=brands, digest=expect).exists():
            wrong += 1
            self.stdout.write(f"There is no seal with the digest {expect} any more.")
        if wrong:
            self.stderr.write(f"{wrong} things are not as they were sealed.")
            sys.exit(1)
        self.stdout.write("The books are as they were sealed.")
