"""What other upgrade rules would have done, before they go live."""

from __future__ import annotations

import json
import tomllib
from argparse import ArgumentParser
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import upgrade_facts, upgrade_simulation
from billing.models import Tier
from billing.upgrade_rules import Rule, RuleInvalid, read
from billing.upgrade_simulation import DAYS_MAX, Move
from keys.models import Brand
from portal.management.choosing import brand_named
from proxy import refusal_records

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
        wanted = rules_in_force(house) if rules is None else rules_of(rules, house)
        if not wanted:
            raise CommandError("No tier has a rule. Give some with --rules FILE.")
        last = upgrade_facts.day_before(timezone.now(), house)
        first = last - timedelta(days=days - 1)
        found = upgrade_simulation.simulate(house, wanted, first=first, last=last, progress=self._progress)
        for move in found.moves[:SHOWN_MAX]:
            self.stdout.write(line_of(move))
        if len(found.moves) > SHOWN_MAX:
            self.stdout.write(f"… and {len(found.moves) - SHOWN_MAX} more.")
        refusals = refusals_of(house, first, last)
        movers = len({move.organization.pk for move in found.moves})
        self.stdout.write(
            f"{first} to {last}: {movers} of {found.judged} organizations would have moved, {len(found.moves)} steps."
        )
        self.stdout.write(f"Refusals for a used-up quota: {sum(refusals.values())}; spared: {found.spared(refusals)}.")

    def _progress(self, done: int, total: int) -> None:
        if total > upgrade_simulation.BATCH:
            self.stderr.write(f"{done} of {total} organizations", ending="\r")


def rules_in_force(brand: Brand) -> dict[str, Rule]:
    tiers = Tier.objects.filter(brand=brand, upgrade_rule__isnull=False)
    return {tier.slug: read(tier.upgrade_rule) for tier in tiers}


def rules_of(path: Path, brand: Brand) -> dict[str, Rule]:
    """Tier slug → rule. CommandError says what is wrong and where."""
    try:
        raw = path.read_text()
        given = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: {error}") from error
    slugs = set(Tier.objects.filter(brand=brand).values_list("slug", flat=True))
    if not isinstance(given, dict) or not given:
        raise CommandError(f'{path}: a table per tier is expected, e.g. [tier-2] with all = [{{fact = "verified"}}].')
    found = {}
    for slug, rule in given.items():
        if slug not in slugs:
            raise CommandError(f"{path}: {brand.slug} has no tier {slug!r}; there are: {', '.join(sorted(slugs))}.")
        try:
            found[slug] = read(rule)
        except RuleInvalid as error:
            raise CommandError(f"{path}: {slug}: {error}") from error
    return found


def refusals_of(brand: Brand, first: date, last: date) -> dict[tuple[int, date], int]:
    """Refusals for a used-up quota by organization and brand day."""
    return refusal_records.counted(
        brand_id=brand.pk,
        reason="insufficient_quota",
        since=upgrade_facts.moment_after(first - timedelta(days=1), brand),
        until=upgrade_facts.moment_after(last, brand),
        zone=brand.timezone,
    )


def line_of(move: Move) -> str:
    reasons = "; ".join(f"{met.text}: {met.have} of {met.need}" for met in move.judgement.conditions)
    return f"{move.night}  {move.organization.slug:24} {move.from_tier.name} → {move.to_tier.name}  ({reasons})"
