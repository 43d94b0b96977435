"""Where an account stands on its brand's ladder, in words: what it used, what leads further up, how it came here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from billing import money, upgrade_facts, upgrades
from billing.gauges import Gauge, Reading
from billing.limits import CONCURRENT
from billing.models import Payer, Tier, TierChange, TierLimit
from billing.upgrade_rules import COOL_DOWN, Progress, Utilisation, share_used
from keys.models import Brand, Organization

GROUPS_MAX = 10
"""Keys or models whose gauges are shown, the fullest first."""
CHANGES_MAX = 50


@dataclass(frozen=True, slots=True)
class Group:
    """Gauges of the whole account (`title` empty), or of one key or model."""

    title: str
    note: str
    gauges: list[Gauge]

    @property
    def percent(self) -> int:
        return max(gauge.percent for gauge in self.gauges)


@dataclass(frozen=True, slots=True)
class Board:
    """A reading as it is shown. `today` has (unit, amount) of what is used and no daily limit shows; `more` counts keys
    and models left out."""

    reading: Reading
    account: list[Gauge]
    groups: list[Group]
    more: int
    today: list[tuple[str, int]]


def board(reading: Reading, brand_units: frozenset[str]) -> Board:
    """`brand_units`: those that the brand's ladder counts in."""
    account = [gauge for gauge in reading.gauges if gauge.counter.scope == "o"]
    apart: dict[str, list[Gauge]] = {}
    for gauge in reading.gauges:
        if gauge.counter.scope != "o":
            apart.setdefault(gauge.counter.scope, []).append(gauge)
    groups = sorted((_group(own) for own in apart.values()), key=lambda group: -group.percent)
    shown = {gauge.limit.unit for gauge in account if gauge.limit.window == "day"}
    units = set(brand_units) | ({"nanos"} if _pays(reading.tier) else set()) or {"requests", "tokens"}
    today = [(unit, amount) for unit, amount in reading.today.items() if unit in units - shown]
    return Board(reading, account, groups[:GROUPS_MAX], max(0, len(groups) - GROUPS_MAX), today)


def units_of(tiers: Iterable[Tier]) -> frozenset[str]:
    """In which units a ladder's quotas count (Axione: requests and tokens; AImiChat: credits)."""
    limits = [limit for tier in tiers for limit in tier.limits.all() if not limit.is_shadow]
    return frozenset(limit.unit for limit in limits if limit.unit != CONCURRENT and limit.window != "minute")


def quota_name(gauge: Gauge) -> str:
    """What a member chooses to be told of: "Requests per day", "Tokens per month and model"."""
    limit = gauge.limit
    unit = {"nanos": "spend", "input": "input tokens", "output": "output tokens"}.get(limit.unit, limit.unit)
    window = "in all" if limit.window == "lifetime" else f"per {limit.window}"
    whose = "" if limit.scope == "organization" else f", each {limit.scope}"
    return f"{'Included ' + unit if limit.is_allotment else unit.capitalize()} {window}{whose}"


def _pays(tier: Tier | None) -> bool:
    return tier is None or tier.payer != Payer.INCLUDED


def _group(gauges: list[Gauge]) -> Group:
    first = gauges[0]
    if first.key is not None:
        return Group(first.key.name, first.key.hint, gauges)
    return Group(first.model.slug if first.model else "", "model", gauges)


# the ladder -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rung:
    tier: Tier
    limits: list[TierLimit]
    is_mine: bool
    how: str

    @property
    def payer(self) -> str:
        return PAYS[Payer(self.tier.payer)]


PAYS = {
    Payer.INCLUDED: "Nothing to pay per call",
    Payer.PREPAID: "Calls are paid from the balance",
    Payer.INCLUDED_THEN_PREPAID: "Calls are paid from the balance once the included part is used",
}


def ladder_of(brand: Brand) -> list[Tier]:
    """The tiers that customers are told of, lowest first, with their limits."""
    return list(Tier.objects.filter(brand=brand, is_listed=True).order_by("rank").prefetch_related("limits__model"))


def rungs(tiers: Sequence[Tier], mine: Tier | None, brand: Brand) -> list[Rung]:
    return [
        Rung(
            tier,
            binding(tier),
            mine is not None and tier.pk == mine.pk,
            _how(tier, brand),
        )
        for tier in tiers
    ]


def binding(tier: Tier) -> list[TierLimit]:
    """Its limits in their order, without those on trial: they refuse nobody, so they are nobody's business yet."""
    return [limit for limit in sorted(tier.limits.all(), key=lambda row: row.pk) if not limit.is_shadow]


def _how(tier: Tier, brand: Brand) -> str:
    if tier.is_default:
        return "Every account starts here"
    if tier.upgrade_rule is not None:
        return "Earned by use"
    return f"{'Sold' if tier.monthly_price_nanos else 'Given'} by {brand.name}"


# the way up -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """`share` of 100: how far its bar reaches. `have` is empty where a thing is so or not."""

    text: str
    is_met: bool
    share: int
    have: str
    missing: str


@dataclass(frozen=True, slots=True)
class Way:
    """To the next tier. Without `conditions` no rule leads there. `moves_at`: when, if all of them hold at the end of
    the day."""

    tier: Tier
    conditions: list[Condition]
    moves_at: datetime | None

    @property
    def is_met(self) -> bool:
        return bool(self.conditions) and all(condition.is_met for condition in self.conditions)


def way_up(organization: Organization, reading: Reading, tiers: Sequence[Tier]) -> Way | None:
    """None at the top, or beside the ladder."""
    mine = reading.tier
    if mine is None or not mine.is_listed:
        return None
    above = next((tier for tier in tiers if tier.rank > mine.rank), None)
    if above is None:
        return None
    brand = organization.brand
    judged = upgrades.standing_judgement(organization, reading.at)
    if judged is None or judged[0].to_tier.pk != above.pk:
        return Way(above, [], None)
    daily = upgrade_facts.daily_limits([mine])[mine.id]
    asked = [asks.of for asks in judged[0].rule.all if isinstance(asks, Utilisation)]
    used = max((share_used(units, reading.today, daily) for units in asked), default=0)
    conditions = [_condition(progress, used, brand.currency) for progress in judged[1].conditions]
    today = upgrade_facts.day_before(reading.at, brand) + timedelta(days=1)
    return Way(above, conditions, upgrade_facts.moment_after(today, brand))


def _condition(progress: Progress, used_today: int, currency: str) -> Condition:
    share = 100 if progress.is_met else progress.have * 100 // max(1, progress.need)
    missing = "" if progress.is_met else _missing(progress, used_today, currency)
    return Condition(progress.text, progress.is_met, share, _have(progress, currency), missing)


def _have(progress: Progress, currency: str) -> str:
    if progress.unit == "days":
        return f"{min(progress.have, progress.need)} of {progress.need} {'day' if progress.need == 1 else 'days'}"
    if progress.unit == "nanos":
        return f"{money.display(progress.have, currency)} of {money.display(progress.need, currency)}"
    return ""


def _missing(progress: Progress, used_today: int, currency: str) -> str:
    lacking = progress.need - progress.have
    days = "1 more day" if lacking == 1 else f"{lacking} more days"
    if progress.fact == "utilisation":
        return f"{days} like that; today stands at {used_today} %"
    return {
        "active_days": f"{days} with at least one call",
        "paid": f"{money.display(lacking, currency)} more",
        "verified": "An owner of this account has to confirm the e-mail address",
        "good_standing": "The account is suspended, or its balance is below nothing",
        COOL_DOWN: f"{days} to wait",
    }.get(progress.fact, days)


# how it came here -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Past:
    """A change of tier. `facts`: what was found true, in words; `night`: the brand day that was judged."""

    change: TierChange
    title: str
    reason: str
    facts: list[str]
    night: date | None


def history(organization: Organization) -> list[Past]:
    """Latest first."""
    changes = TierChange.objects.filter(organization=organization).select_related("from_tier", "to_tier")
    currency = organization.brand.currency
    return [_past(change, currency) for change in changes.order_by("-at", "-pk")[:CHANGES_MAX]]


def _past(change: TierChange, currency: str) -> Past:
    before, after = change.from_tier, change.to_tier
    if before is None:
        title = f"Started on {after.name}"
    else:
        title = f"Moved {'up' if after.rank > before.rank else 'down'} from {before.name} to {after.name}"
    reason = "The account was opened" if change.reason == "sign-up" else change.reason
    facts = [_fact(one, currency) for one in change.facts.get("conditions", ())]
    return Past(change, title, reason, facts, change.night)


def _fact(condition: dict[str, Any], currency: str) -> str:
    """Kept as upgrade_rules.Progress was on that night."""
    unit, have = condition.get("unit"), int(condition.get("have", 0))
    text = str(condition.get("text", ""))
    if unit == "days":
        return f"{text}: it was {have:,}"
    if unit == "nanos":
        return f"{text}: {money.display(have, currency)} of {money.display(int(condition.get('need', 0)), currency)}"
    return text
