"""Upgrade rules as data: what an organization has to have done to enter a tier by itself. Pure.

A rule is an all-of list of conditions over facts that the books give (upgrade_facts.py). The night's job, the simulator
and the progress bars people see use the same `judge`, so what is shown is what decides.

    {"all": [{"fact": "utilisation", "percent": 60, "of": ["requests", "tokens"], "days": 3, "within": 7},
             {"fact": "good_standing"}, {"fact": "verified"}],
     "cool_down_days": 1}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

import msgspec

WITHIN_DAYS_MAX = 90
DAYS_MAX = 3_650
COOL_DOWN = "cool_down"


class RuleInvalid(ValueError):
    """A rule that cannot be read; the text says which part and what to write instead."""


class _Condition(msgspec.Struct, frozen=True, tag_field="fact", forbid_unknown_fields=True):
    pass


class Utilisation(_Condition, frozen=True, tag="utilisation", forbid_unknown_fields=True):
    """On `days` of the last `within` days at least `percent` of a daily limit in one of the units of `of` was used."""

    percent: int
    days: int
    within: int
    of: tuple[Literal["requests", "tokens", "credits"], ...] = ("requests", "tokens")


class ActiveDays(_Condition, frozen=True, tag="active_days", forbid_unknown_fields=True):
    """At least one call on `days` of the last `within` days."""

    days: int
    within: int


class Paid(_Condition, frozen=True, tag="paid", forbid_unknown_fields=True):
    """At least `nanos` paid in all and not given back (10⁻⁹ of the brand's currency unit)."""

    nanos: int


class SinceFirstPayment(_Condition, frozen=True, tag="days_since_first_payment", forbid_unknown_fields=True):
    days: int


class AccountAge(_Condition, frozen=True, tag="account_age", forbid_unknown_fields=True):
    days: int


class Verified(_Condition, frozen=True, tag="verified", forbid_unknown_fields=True):
    """An owner's e-mail address is confirmed."""


class GoodStanding(_Condition, frozen=True, tag="good_standing", forbid_unknown_fields=True):
    """Not suspended, and the balance is not below nought."""


Condition = Utilisation | ActiveDays | Paid | SinceFirstPayment | AccountAge | Verified | GoodStanding


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    all: tuple[Condition, ...]
    cool_down_days: int = 1


def _grammar() -> str:
    """Made from the types, so that what is offered is what is read."""
    facts = []
    for kind in (Utilisation, ActiveDays, Paid, SinceFirstPayment, AccountAge, Verified, GoodStanding):
        names = [field.name for field in msgspec.structs.fields(kind)]
        facts.append(f"{kind.__struct_config__.tag} ({', '.join(names)})" if names else str(kind.__struct_config__.tag))
    return f'A rule is {{"all": [{{"fact": …}}, …], "cool_down_days": 1}} with the facts {", ".join(facts)}'


GRAMMAR = _grammar()


class DayUse(NamedTuple):
    """What an organization used on one brand day."""

    requests: int = 0
    tokens: int = 0
    credits: int = 0


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """As of the end of `night`, the brand day that is judged. `daily_limits`: of the tier it stands on, per unit.
    `paid_on`: day of the first payment of which something was kept. `changed_on`: the brand day on which its last
    change of tier began to hold, from its midnight on unless people made it (`is_changed_by_hand`)."""

    night: date
    days: Mapping[date, DayUse]
    daily_limits: Mapping[str, int]
    paid_nanos: int = 0
    paid_on: date | None = None
    opened_on: date
    changed_on: date | None = None
    is_changed_by_hand: bool = False
    is_verified: bool = False
    is_in_good_standing: bool = False


class Progress(msgspec.Struct, frozen=True):
    """One condition as it stands: `have` of `need`, counted in `unit` (days, nanos or yes). `text` says it in words,
    `fact` is the condition's own name, or "cool_down"."""

    text: str
    have: int
    need: int
    unit: str
    is_met: bool
    fact: str = ""


class Judgement(msgspec.Struct, frozen=True):
    is_met: bool
    conditions: tuple[Progress, ...]


def read(raw: Any) -> Rule:
    """A stored rule. Raises RuleInvalid."""
    try:
        rule = msgspec.convert(raw, Rule)
    except msgspec.ValidationError as error:
        raise RuleInvalid(f"{error}. {GRAMMAR}") from error
    if not rule.all:
        raise RuleInvalid("`all` lists at least one condition: a tier that everybody enters at once is no upgrade")
    if not 0 <= rule.cool_down_days <= DAYS_MAX:
        raise RuleInvalid(f"`cool_down_days` is from 0 to {DAYS_MAX}")
    for number, condition in enumerate(rule.all):
        problem = _problem(condition)
        if problem:
            raise RuleInvalid(f"all[{number}]: {problem}")
    return rule


def in_words(rule: Rule) -> list[str]:
    """What it takes, as people read it on their way up."""
    nobody = Facts(night=date.min + timedelta(days=WITHIN_DAYS_MAX), days={}, daily_limits={}, opened_on=date.min)
    wait = rule.cool_down_days
    cool_down = [f"{_number_of_days(wait)} since the last change of tier"] if wait else []
    return [condition.text for condition in judge(rule, nobody).conditions] + cool_down


def _problem(condition: Condition) -> str:
    if isinstance(condition, Utilisation | ActiveDays):
        if not 1 <= condition.within <= WITHIN_DAYS_MAX:
            return f"`within` is from 1 to {WITHIN_DAYS_MAX} days"
        if not 1 <= condition.days <= condition.within:
            return "`days` is at least 1 and at most `within`"
    if isinstance(condition, Utilisation):
        if not 1 <= condition.percent <= 100:
            return "`percent` is from 1 to 100"
        if not condition.of:
            return "`of` names at least one of requests, tokens, credits"
    if isinstance(condition, Paid) and condition.nanos < 1:
        return "`nanos` is at least 1"
    if isinstance(condition, SinceFirstPayment | AccountAge) and not 1 <= condition.days <= DAYS_MAX:
        return f"`days` is from 1 to {DAYS_MAX}"
    return ""


def days_looked_at(rule: Rule) -> int:
    """How many days back the rule looks; 0 where no condition counts days of use."""
    return max((c.within for c in rule.all if isinstance(c, Utilisation | ActiveDays)), default=0)


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Every condition as it stands, the time since the last change last."""
    found = [_named(_JUDGES[type(condition)](condition, facts), _tag(condition)) for condition in rule.all]
    if rule.cool_down_days and facts.changed_on is not None:
        # People change a tier in the midst of a day: only days that it held wholly have passed since.
        passed = (facts.night - facts.changed_on).days + (not facts.is_changed_by_hand)
        text = f"{_number_of_days(rule.cool_down_days)} since the last change of tier"
        found.append(_named(_days(text, passed, rule.cool_down_days), COOL_DOWN))
    return Judgement(all(progress.is_met for progress in found), tuple(found))


def _tag(condition: Condition) -> str:
    return str(type(condition).__struct_config__.tag)


def _named(progress: Progress, fact: str) -> Progress:
    return msgspec.structs.replace(progress, fact=fact)


def _utilisation(condition: Utilisation, facts: Facts) -> Progress:
    busy = sum(_is_busy(condition, facts, day) for day in _last(facts.night, condition.within))
    units = " or ".join(condition.of)
    text = (
        f"At least {condition.percent} % of the day's {units} on {condition.days} of the last {condition.within} days"
    )
    return _days(text, busy, condition.days)


def _is_busy(condition: Utilisation, facts: Facts, day: date) -> bool:
    use = facts.days.get(day, DayUse())
    return share_used(condition.of, use._asdict(), facts.daily_limits) >= condition.percent


def share_used(units: Iterable[str], use: Mapping[str, int], daily_limits: Mapping[str, int]) -> int:
    """Of a day's limits in `units` the one that was used most, in whole percent rounded down. A tier without a daily
    limit in a unit cannot be used up in it."""
    found = (use[unit] * 100 // daily_limits[unit] for unit in units if daily_limits.get(unit, 0) > 0)
    return max(found, default=0)


def _active_days(condition: ActiveDays, facts: Facts) -> Progress:
    active = sum(facts.days.get(day, DayUse()).requests > 0 for day in _last(facts.night, condition.within))
    return _days(f"Calls on {condition.days} of the last {condition.within} days", active, condition.days)


def _paid(condition: Paid, facts: Facts) -> Progress:
    met = facts.paid_nanos >= condition.nanos
    return Progress("Paid in all", facts.paid_nanos, condition.nanos, "nanos", met)


def _since_first_payment(condition: SinceFirstPayment, facts: Facts) -> Progress:
    passed = 0 if facts.paid_on is None else (facts.night - facts.paid_on).days
    return _days(f"{_number_of_days(condition.days)} since the first payment", passed, condition.days)


def _account_age(condition: AccountAge, facts: Facts) -> Progress:
    text = f"Account open for {_number_of_days(condition.days)}"
    return _days(text, (facts.night - facts.opened_on).days, condition.days)


def _verified(_condition: Verified, facts: Facts) -> Progress:
    return _yes("E-mail address confirmed", facts.is_verified)


def _good_standing(_condition: GoodStanding, facts: Facts) -> Progress:
    return _yes("In good standing", facts.is_in_good_standing)


def _days(text: str, have: int, need: int) -> Progress:
    return Progress(text, max(0, have), need, "days", have >= need)


def _number_of_days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"


def _yes(text: str, is_met: bool) -> Progress:
    return Progress(text, int(is_met), 1, "yes", is_met)


def _last(night: date, days: int) -> list[date]:
    return [night - timedelta(days=number) for number in range(days)]


_JUDGES: dict[type, Any] = {
    Utilisation: _utilisation,
    ActiveDays: _active_days,
    Paid: _paid,
    SinceFirstPayment: _since_first_payment,
    AccountAge: _account_age,
    Verified: _verified,
    GoodStanding: _good_standing,
}
