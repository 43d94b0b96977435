"""`manage.py tour`: shows the claims on the running demo, one by one, each with its proof."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.checks import OF_SETTINGS
from portal.tour import Claim, NotHere
from portal.tour.claims import CLAIMS
from portal.tour.demo import Demo


class Command(BaseCommand):
    help = "Show what this installation claims, on the running demo, with proofs. Exit status 1 when one fails."
    requires_system_checks = OF_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("names", nargs="*", metavar="claim", help=f"of {', '.join(c.name for c in CLAIMS)}; all")
        parser.add_argument("--brand", default="dialogix")
        parser.add_argument("--times", type=int, default=1, metavar="N", help="prove each claim N times")

    def handle(self, *, names: list[str], brand: str, times: int, **options: Any) -> None:
        path = settings.VAR_DIR / "demo.json"
        if not path.exists():
            raise CommandError(f"There is no {path}: start the demo first, in another terminal, with: make run")
        unknown = set(names) - {claim.name for claim in CLAIMS}
        if unknown:
            raise CommandError(f"No such claim: {', '.join(sorted(unknown))}.")
        chosen = [claim for claim in CLAIMS if not names or claim.name in names]
        if times < 1:
            raise CommandError("--times takes a number above 0.")
        brands = json.loads(path.read_text())["brands"]
        if brand not in brands:
            raise CommandError(f"The demo has no brand {brand}; it has {', '.join(brands)}.")
        failed, absent = asyncio.run(self._show(chosen, path, brand, times))
        each = "" if times == 1 else f", each {times} times"
        if failed:
            self.stdout.write(f"{failed} of {len(chosen)} claims did not hold{each}.")
            sys.exit(1)
        if not absent:
            self.stdout.write(f"All {len(chosen)} claims hold{each}.")
        else:
            held = len(chosen) - absent
            self.stdout.write(f"{held} of {len(chosen)} claims hold{each}; {absent} cannot be shown on {brand}.")

    async def _show(self, chosen: list[Claim], path: Path, brand: str, times: int) -> tuple[int, int]:
        """How many claims did not hold, and how many the brand has no use for."""
        demo, failed, absent = Demo.read(path, brand), 0, 0
        try:
            for number, claim in enumerate(chosen, start=1):
                self.stdout.write(f"{number}. {claim.sentence}")
                try:
                    held = [await self._prove(claim, demo) for _ in range(times)]
                except NotHere as reason:
                    self.stdout.write(f"     {reason}\n   not shown\n\n")
                    absent += 1
                    continue
                if times > 1:
                    self.stdout.write(f"   held {sum(held)} of {times} times\n\n")
                failed += not all(held)
        finally:
            await demo.pool.close()
        return failed, absent

    async def _prove(self, claim: Claim, demo: Demo) -> bool:
        started = time.monotonic()
        proof = await claim.prove(demo)
        for line in proof.lines:
            self.stdout.write(f"     {line}")
        verdict = "holds" if proof.holds else "DOES NOT HOLD"
        self.stdout.write(f"   {verdict} ({time.monotonic() - started:.1f} s)\n\n")
        return proof.holds
