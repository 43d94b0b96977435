"""Other upgrade rules over the days that were: what the command and the operators' page both ask and tell."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from billing import ladder, upgrade_facts, upgrade_simulation
from billing.models import Tier, Unit
from billing.upgrade_rules import Rule, RuleInvalid, read
from billing.upgrade_simulation import DAYS_MAX, Move, Simulation
from keys.models import Brand, Organization
from proxy import refusal_records
from proxy.refusal_log import USED_UP

EXAMPLE = '[tier-2] with all = [{fact = "verified"}]'


class RulesWrong(ValueError):
    """The rules given cannot be read; the text says which part and why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`organizations`: how many the brand has; fewer may have been judged. `spared` of `refused`: refusals, of those
    that were judged, for a used-up daily limit of the whole organization. `kept`: tiers whose rules in force were
    not among those given; `given`: those that were."""

    first: date
    last: date
    simulation: Simulation
    organizations: int
    refused: int
    spared: int
    given: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def movers(self) -> int:
        return len({move.organization.pk for move in self.simulation.moves})


def run(
    brand: Brand,
    given: Mapping[str, Rule],
    *,
    days: int,
    now: datetime,
    at_most: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Outcome:
    """The last `days` nights by the rules given, and for tiers not among them by those in force; of the first `at_most`
    organizations where that is given."""
    kept = rules_in_force(brand, besides=given)
    rules = {**kept, **given}
    if not rules:
        raise RulesWrong("No tier has a rule: give some.")
    if not 1 <= days <= DAYS_MAX:
        raise RulesWrong(f"Days are from 1 to {DAYS_MAX}.")
    last = upgrade_facts.day_before(now, brand)
    first = last - timedelta(days=days - 1)
    found = upgrade_simulation.simulate(brand, rules, first=first, last=last, at_most=at_most, progress=progress)
    counted = _refusals_of(brand, first, last)
    refusals = {place: count for place, count in counted.items() if place[0] in found.seen}
    total = Organization.objects.filter(brand=brand).count()
    refused, spared = sum(refusals.values()), found.spared(refusals)
    return Outcome(first, last, found, total, refused, spared, tuple(given), tuple(kept))


def rules_in_force(brand: Brand, *, besides: Collection[str] = ()) -> dict[str, Rule]:
    tiers = Tier.objects.filter(brand=brand, upgrade_rule__isnull=False).exclude(slug__in=besides).order_by("rank")
    return {tier.slug: read(tier.upgrade_rule) for tier in tiers}


def as_text(rules: dict[str, Rule]) -> str:
    return json.dumps({slug: msgspec.to_builtins(rule) for slug, rule in rules.items()}, indent=2)


def rules_of(text: str, brand: Brand, *, is_json: bool) -> dict[str, Rule]:
    """Tier slug → rule. Raises RulesWrong."""
    try:
        given: Any = json.loads(text) if is_json else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesWrong(str(error)) from error
    tiers = {tier.slug: tier for tier in Tier.objects.filter(brand=brand)}
    if not isinstance(given, dict) or not given:
        raise RulesWrong(f"a table per tier is expected, e.g. {EXAMPLE}.")
    found = {}
    for slug, rule in given.items():
        if slug not in tiers:
            raise RulesWrong(f"{brand.slug} has no tier {slug!r}; there are: {', '.join(sorted(tiers))}.")
        try:
            found[slug] = read(rule)
        except RuleInvalid as error:
            raise RulesWrong(f"{slug}: {error}") from error
        tiers[slug].upgrade_rule = rule
        problem = ladder.rule_problem(tiers[slug])
        if problem:
            raise RulesWrong(f"{slug}: {problem}")
    return found


def rules_said(found: Outcome) -> str:
    """Which rules were judged by."""
    parts = [("as given", found.given), ("as in force", found.kept)]
    return "Rules: " + "; ".join(f"{', '.join(slugs)} {how}" for how, slugs in parts if slugs) + "."


def reasons_of(move: Move) -> str:
    return "; ".join(f"{met.text}: {met.have} of {met.need}" for met in move.judgement.conditions)


def _refusals_of(brand: Brand, first: date, last: date) -> dict[tuple[int, date], int]:
    """Refusals for a used-up daily limit of the whole organization, by organization and brand day: not those for a
    key's or a model's own limits, months, or an empty balance, which no higher tier need have spared."""
    return refusal_records.counted(
        brand_id=brand.pk,
        reasons=[f"{USED_UP}organization.{unit}.day" for unit in (Unit.REQUESTS, Unit.TOKENS, Unit.CREDITS)],
        since=upgrade_facts.moment_after(first - timedelta(days=1), brand),
        until=upgrade_facts.moment_after(last, brand),
        zone=brand.timezone,
    )
