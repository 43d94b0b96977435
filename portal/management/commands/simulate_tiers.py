"""What other upgrade rules would have done, before they go live."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import upgrade_simulation
from billing.upgrade_rules import Rule
from billing.upgrade_simulation import DAYS_MAX
from keys.models import Brand
from portal import tier_simulation
from portal.management.choosing import brand_named
from portal.tier_simulation import RulesWrong

SHOWN_MAX = 200


class Command(BaseCommand):
    help = "Judge past nights by other upgrade rules: who would have moved when, and how many refusals it had spared."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand")
        parser.add_argument(
            "--rules",
            type=Path,
            help="TOML or JSON: a table per tier slug, as the tier's upgrade_rule; without it the rules in force",
        )
        parser.add_argument("--days", type=int, default=30, help=f"how many nights back, at most {DAYS_MAX} (30)")

    def handle(self, *, brand: str | None, rules: Path | None, days: int, **_: Any) -> None:
        if not 1 <= days <= DAYS_MAX:
            raise CommandError(f"--days is from 1 to {DAYS_MAX}.")
        house = brand_named(brand)
        wanted = tier_simulation.rules_in_force(house) if rules is None else rules_in(rules, house)
        if not wanted:
            raise CommandError("No tier has a rule. Give some with --rules FILE.")
        found = tier_simulation.run(house, wanted, days=days, now=timezone.now(), progress=self._progress)
        moves = found.simulation.moves
        self.stdout.write(tier_simulation.rules_said(found))
        for move in moves[:SHOWN_MAX]:
            self.stdout.write(
                f"{move.night}  {move.organization.slug:24} {move.from_tier.name} → {move.to_tier.name}"
                f"  ({tier_simulation.reasons_of(move)})"
            )
        if len(moves) > SHOWN_MAX:
            self.stdout.write(f"… and {len(moves) - SHOWN_MAX} more.")
        self.stdout.write(
            f"{found.first} to {found.last}: {found.movers} of {found.simulation.judged} organizations"
            f" would have moved, {len(moves)} steps."
        )
        self.stdout.write(
            f"Refusals for a used-up daily limit of the organization: {found.refused}; spared: {found.spared}."
        )

    def _progress(self, done: int, total: int) -> None:
        if total > upgrade_simulation.BATCH:
            self.stderr.write(f"{done} of {total} organizations", ending="\r")


def rules_in(path: Path, brand: Brand) -> dict[str, Rule]:
    """Tier slug → rule. CommandError says what is wrong and where."""
    try:
        return tier_simulation.rules_of(path.read_text(), brand, is_json=path.suffix == ".json")
    except (OSError, UnicodeDecodeError, RulesWrong) as error:
        raise CommandError(f"{path}: {error}") from error
