"""Rules as data, and what they say of facts. Pure."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.upgrade_rules import DayUse, Facts, RuleInvalid, days_looked_at, judge, read

NIGHT = date(2026, 3, 31)
AXIONE = {
    "all": [
        {"fact": "utilisation", "percent": 60, "days": 3, "within": 7},
        {"fact": "good_standing"},
        {"fact": "verified"},
    ]
}


def facts(*, days=None, **fields):
    given = {
        "night": NIGHT,
        "days": {NIGHT - timedelta(days=back): use for back, use in (days or {}).items()},
        "daily_limits": {"requests": 1_000, "tokens": 250_000},
        "opened_on": date(2026, 1, 1),
        "is_verified": True,
        "is_in_good_standing": True,
        **fields,
    }
    return Facts(**given)


def test_three_busy_days_of_seven_are_enough_and_two_are_not():
    rule = read(AXIONE)
    busy = {0: DayUse(requests=600), 3: DayUse(tokens=150_000), 6: DayUse(requests=1_000)}
    assert judge(rule, facts(days=busy)).is_met
    late = busy | {6: DayUse(requests=599)}
    found = judge(rule, facts(days=late))
    assert not found.is_met
    use, standing, verified = found.conditions
    assert (use.have, use.need, use.unit, use.is_met) == (2, 3, "days", False)
    assert standing.is_met
    assert verified.is_met
    assert not judge(rule, facts(days={0: busy[0], 3: busy[3], 7: busy[6]})).is_met, "the eighth day back is too old"


@pytest.mark.parametrize("missing", ["is_verified", "is_in_good_standing"])
def test_all_conditions_must_hold(missing):
    busy = {back: DayUse(requests=1_000) for back in range(7)}
    assert judge(read(AXIONE), facts(days=busy)).is_met
    assert not judge(read(AXIONE), facts(days=busy, **{missing: False})).is_met


def test_a_tier_without_a_daily_limit_is_never_used_up():
    assert not judge(
        read(AXIONE), facts(days={back: DayUse(10**9, 10**9) for back in range(7)}, daily_limits={})
    ).is_met


@pytest.mark.parametrize(
    ("changed", "met"), [(None, True), (NIGHT + timedelta(days=1), False), (NIGHT, True), (date(2026, 1, 1), True)]
)
def test_a_change_cools_down_for_a_day(changed, met):
    busy = {back: DayUse(requests=1_000) for back in range(7)}
    assert judge(read(AXIONE), facts(days=busy, changed_on=changed)).is_met is met


def test_money_and_age():
    rule = read(
        {
            "all": [
                {"fact": "paid", "nanos": 5_000_000_000},
                {"fact": "days_since_first_payment", "days": 7},
                {"fact": "account_age", "days": 30},
                {"fact": "active_days", "days": 2, "within": 3},
            ],
            "cool_down_days": 0,
        }
    )
    days = {0: DayUse(requests=1), 2: DayUse(requests=1), 3: DayUse(requests=9)}
    enough = facts(days=days, paid_nanos=5_000_000_000, paid_on=NIGHT - timedelta(days=7))
    assert judge(rule, enough).is_met
    for short in (
        {"paid_nanos": 4_999_999_999},
        {"paid_on": NIGHT - timedelta(days=6)},
        {"paid_on": None},
        {"opened_on": NIGHT - timedelta(days=29)},
        {"days": {NIGHT: DayUse(requests=5)}},
    ):
        assert not judge(rule, msgspec.structs.replace(enough, **short)).is_met, short
    assert days_looked_at(rule) == 3


@given(
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 500_000)), min_size=7, max_size=7),
    st.integers(0, 6),
    st.integers(0, 1_000),
    st.integers(1, 100),
    st.integers(1, 7),
)
def test_more_use_never_takes_an_upgrade_away(uses, day, more, percent, needed):
    rule = read({"all": [{"fact": "utilisation", "percent": percent, "days": needed, "within": 7}]})
    before = {back: DayUse(*use) for back, use in enumerate(uses)}
    after = before | {day: DayUse(before[day].requests + more, before[day].tokens)}
    assert judge(rule, facts(days=before)).is_met <= judge(rule, facts(days=after)).is_met


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"all": []}, "at least one"),
        ({"all": [{"fact": "fortune"}]}, "fortune"),
        ({"all": [{"fact": "utilisation", "percent": 0, "days": 1, "within": 7}]}, r"all\[0\].*percent"),
        ({"all": [{"fact": "verified"}, {"fact": "active_days", "days": 8, "within": 7}]}, r"all\[1\].*within"),
        ({"all": [{"fact": "active_days", "days": 1, "within": 91}]}, "90"),
        ({"all": [{"fact": "utilisation", "percent": 6, "days": 1, "within": 7, "of": []}]}, "of"),
        ({"all": [{"fact": "utilisation", "percent": 6, "days": 1, "within": 7, "of": ["nanos"]}]}, "nanos"),
        ({"all": [{"fact": "paid", "nanos": 0}]}, "nanos"),
        ({"all": [{"fact": "paid", "nanos": "5"}]}, r"\$\.all"),
        ({"all": [{"fact": "account_age", "days": 0}]}, "days"),
        ({"all": [{"fact": "verified", "days": 3}]}, "days"),
        ({"all": [{"fact": "verified"}], "cool_down_days": -1}, "cool_down_days"),
        ({"any": []}, "any"),
        ({}, "all"),
        ([], "object"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_by_name(raw, word):
    with pytest.raises(RuleInvalid, match=word):
        read(raw)
