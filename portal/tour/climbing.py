"""Axione's ladder over simulated days: who uses it climbs, step by step, by the rule and no further; and a change of
tier holds on the very next request."""

from __future__ import annotations

import asyncio
import time
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from asgiref.sync import sync_to_async

from billing import ladder, upgrade_facts, upgrades
from billing.models import Model, Notice, Tier, TierChange
from billing.upgrade_rules import Judgement
from keys import issuing, organizations
from keys.models import AuditEvent, Brand, Organization
from portal.tour import Proof, simulated
from portal.tour.customers import ACTOR
from portal.tour.demo import Demo, eventually

BRAND = "axione"
TOKENS_PER_CALL = 1_000_000
EARNED_ON = [4, 7, 10]
"""Numbers of the nights that move it up: after three days of use, the second of Tier 1's four having been too quiet."""
NIGHTS = 17
CHANGES = 20
CALLS_AT_ONCE = 8


class Rung(NamedTuple):
    tier: Tier
    requests: int
    tokens: int


def _rungs(brand: Brand) -> list[Rung]:
    """The ladder with its daily limits, lowest first."""
    tiers = list(Tier.objects.filter(brand=brand, is_listed=True).order_by("rank"))
    limits = upgrade_facts.daily_limits(tiers)
    return [Rung(tier, limits[tier.id]["requests"], limits[tier.id]["tokens"]) for tier in tiers]


async def a_ladder_is_climbed_by_its_rule(demo: Demo) -> Proof:
    axione = Demo(demo.brands[BRAND], pool=demo.pool, brands=demo.brands)
    brand = await sync_to_async(Brand.objects.get)(slug=BRAND)
    rungs = await sync_to_async(_rungs)(brand)
    parts = [await _climb(brand, rungs), await _judged_twice(brand, rungs), await _next_requests(axione, brand, rungs)]
    return Proof([line for part in parts for line in part.lines], all(part.holds for part in parts))


# the climb ------------------------------------------------------------------------------------------------------------


async def _climb(brand: Brand, rungs: list[Rung]) -> Proof:
    organization, key = await sync_to_async(simulated.customer)(brand, "Tour, climbing")
    model = await sync_to_async(_roomiest)(brand)
    lines, changes = [f"{'night':10}  {'stood on':8}    {'stands on':9}  rule  why"], {}
    for number in range(1, NIGHTS + 1):
        day = simulated.FIRST_DAY + timedelta(days=number - 1)
        before, _ = await sync_to_async(ladder.standing_of)(organization)
        rung = next(rung for rung in rungs if rung.tier == before)
        calls = _calls_of(number, rung)
        await sync_to_async(simulated.use)(key, model, day, calls)
        if not await _is_booked(organization, day, calls):
            return Proof([*lines, f"the use of {day} did not reach the books"], holds=False)
        judgement = await sync_to_async(_judgement)(organization, day)
        change = await sync_to_async(upgrades.judge_one)(organization, day)
        if change is not None:
            changes[number] = change
        lines.append(_night_line(day, rung.tier, change, judgement))
    lines.append(f"{rungs[-1].tier.name} ({rungs[-1].tier.label}) is not entered by use: people put customers there.")
    kept = await sync_to_async(_kept)(organization)
    lines += kept.lines
    climbed = [(change.from_tier, change.to_tier) for change in changes.values()]
    as_ruled = climbed == list(pairwise(rung.tier for rung in rungs[:-1])) and list(changes) == EARNED_ON
    return Proof(lines, as_ruled and kept.holds)


def _roomiest(brand: Brand) -> Model:
    return Model.objects.filter(brand=brand).order_by("-context_length")[0]


def _calls_of(number: int, rung: Rung) -> list[int]:
    """Tokens per call of a simulated day: 60 % of the day's requests on the first, half of its tokens on the second,
    60 % on all others; on the highest tier that is earned, all of them."""
    if number == 1:
        return [10] * (rung.requests * 60 // 100)
    percent = 50 if number == 2 else 100 if number > EARNED_ON[-1] else 60
    whole, rest = divmod(rung.tokens * percent // 100, TOKENS_PER_CALL)
    return [TOKENS_PER_CALL] * whole + [rest] * (rest > 0)


async def _is_booked(organization: Organization, day: date, calls: list[int]) -> bool:
    wanted = (len(calls), sum(calls))
    return await eventually(lambda: simulated.used(organization, day) == wanted or None) is not None


def _judgement(organization: Organization, day: date) -> Judgement | None:
    """As the customer's page shows it on the evening of that day."""
    found = upgrades.standing_judgement(organization, _evening(organization.brand, day))
    return found[1] if found else None


def _evening(brand: Brand, day: date) -> datetime:
    return upgrade_facts.moment_after(day, brand) - timedelta(minutes=1)


def _night_line(day: date, before: Tier, change: TierChange | None, judgement: Judgement | None) -> str:
    to = f"→ {change.to_tier.name:9}" if change else f"  {'stays':9}"
    rule = f"v{change.rule_version}" if change else ""
    why = "no rule leads on" if judgement is None else "; ".join(_words(judgement, whole=change is not None))
    return f"{day}  {before.name:8}  {to}  {rule:4}  {why}"


def _words(judgement: Judgement, whole: bool) -> list[str]:
    """The reasons in words; of a night without effect only what is missing."""
    return [
        f"{condition.text}: {'yes' if condition.unit == 'yes' else f'{condition.have} of {condition.need}'}"
        if condition.is_met
        else f"not yet: {condition.text} ({condition.have} of {condition.need})"
        for condition in judgement.conditions
        if whole or not condition.is_met
    ]


def _kept(organization: Organization) -> Proof:
    """What is kept with each change, and who is told."""
    changes = list(TierChange.objects.filter(organization=organization).select_related("to_tier").order_by("night"))
    explained = [
        change
        for change in changes
        if change.rule_version == change.to_tier.rule_version
        and change.night is not None
        and change.facts.get("night") == change.night.isoformat()
        and all(condition["is_met"] for condition in change.facts["conditions"])
    ]
    told = Notice.objects.filter(organization=organization, kind="tier_changed").count()
    audited = AuditEvent.objects.filter(organization=organization, action="organization.tier_changed").count()
    line = (
        f"{len(changes)} changes; kept with facts and rule version: {len(explained)};"
        f" in the audit trail: {audited}; mails: {told}"
    )
    return Proof([line], len(changes) == len(explained) == told == audited == len(EARNED_ON))


# one night, several judges --------------------------------------------------------------------------------------------


async def _judged_twice(brand: Brand, rungs: list[Rung]) -> Proof:
    """Three days of use that would be enough for two steps: two processes at once, then the same night once more."""
    organization, key = await sync_to_async(simulated.customer)(brand, "Tour, judged twice")
    model = await sync_to_async(_roomiest)(brand)
    days = [simulated.FIRST_DAY + timedelta(days=number) for number in range(3)]
    calls = [rungs[1].tokens]
    for day in days:
        await sync_to_async(simulated.use)(key, model, day, calls)
        if not await _is_booked(organization, day, calls):
            return Proof([f"the use of {day} did not reach the books"], holds=False)
    at_once = await sync_to_async(simulated.judged_at_once)(organization, days[-1], 2)
    again = await sync_to_async(upgrades.judge_one)(organization, days[-1])
    standing, _ = await sync_to_async(ladder.standing_of)(organization)
    changes = await TierChange.objects.filter(organization=organization).acount()
    name = standing.name if standing else "no tier"
    lines = [
        f"Use for two steps, its own night judged by 2 processes at once: {sum(at_once)} moved it;"
        f" judged once more: {int(again is not None)}; changes kept: {changes}, it stands on {name}"
    ]
    holds = sum(at_once) == 1 and again is None and changes == 1 and standing == rungs[1].tier
    return Proof(lines, holds)


# the next request -----------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    limit: str
    ended_at: float


async def _next_requests(demo: Demo, brand: Brand, rungs: list[Rung]) -> Proof:
    """Changes of tier by hand, each followed at once by calls, whose headers say by which limit they were judged."""
    organization, secret = await sync_to_async(_customer)(brand)
    firsts_ms, late = [], 0
    for number in range(1, CHANGES + 1):
        rung = rungs[number % len(rungs)]
        returned_at = await sync_to_async(_assigned)(organization, rung.tier)
        answers = await asyncio.gather(*(_asked(demo, secret) for _ in range(CALLS_AT_ONCE)))
        of_new = [answer.ended_at for answer in answers if answer.limit == str(rung.requests)]
        late += CALLS_AT_ONCE - len(of_new)
        firsts_ms += [(min(of_new) - returned_at) * 1000] if of_new else []
    if not firsts_ms:
        return Proof(["no call was judged by its new tier"], holds=False)
    line = (
        f"{CHANGES} changes of tier, {CALLS_AT_ONCE} calls at once after each: answered by the new tier"
        f" {median(firsts_ms):.1f} ms after the change returned (at most {max(firsts_ms):.1f} ms);"
        f" late: {late} of {CHANGES * CALLS_AT_ONCE}"
    )
    return Proof([line], holds=late == 0)


def _customer(brand: Brand) -> tuple[Organization, str]:
    """Nobody's: no mail goes out for its changes."""
    organization = organizations.create(brand=brand, name=f"Tour {time.time_ns()}", actor=ACTOR)
    return organization, issuing.issue(organization=organization, name="tour", actor=ACTOR).secret


def _assigned(organization: Organization, tier: Tier) -> float:
    """time.monotonic() when the writer has returned."""
    ladder.assign(organization=organization, tier=tier, reason="tour", actor=ACTOR)
    return time.monotonic()


async def _asked(demo: Demo, secret: str) -> Judged:
    answer = await demo.ask("On which tier am I?", key=secret, max_tokens=16)
    return Judged(answer.headers.get("x-ratelimit-limit-requests", f"status {answer.status}"), time.monotonic())
