"""Nights that are judged late: what people decided meanwhile stays, and nothing is judged that was not there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import ladder, upgrade_facts, upgrades
from billing.journal import stream_of
from billing.models import Tier, TierChange, UpgradeNight
from billing.upgrade_simulation import simulate
from keys.models import Brand, Organization
from portal.tier_simulation import rules_in_force
from tests import cast
from tests.billing.climbing import START, climbing_brand, customer, night_of, rank, rules_since, used

pytestmark = pytest.mark.django_db(transaction=True)
ANYBODY = {"all": [{"fact": "verified"}]}


@pytest.fixture(autouse=True)
def everybody_is_verified(monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])


@pytest.fixture
def brand() -> Brand:
    return climbing_brand()


def day(number: int) -> date:
    return START + timedelta(days=number)


def put(organization: Organization, slug: str, at: datetime) -> None:
    """By hand, at that moment."""
    tier = Tier.objects.get(brand=organization.brand, slug=slug)
    change = ladder.assign(organization=organization, tier=tier, reason="by hand", actor="support")
    assert change is not None
    TierChange.objects.filter(pk=change.pk).update(at=at)


def give_rules(brand: Brand, rules: Mapping[str, Any], at: datetime | None = None) -> None:
    """`at`: as if they had been made then; left out, long before."""
    for tier in Tier.objects.filter(brand=brand):
        if tier.upgrade_rule != rules.get(tier.slug):
            tier.upgrade_rule = rules.get(tier.slug)
            ladder.save_tier(tier, actor="test")
    rules_since(brand, at or night_of(day(-30)))


def busy_on_tier_three(brand: Brand) -> Organization:
    organization = customer(brand)
    put(organization, "tier-3", night_of(day(-20)))
    for number in range(3):
        used(organization, day(-number), requests=20_000)
    return organization


def test_who_was_demoted_at_noon_is_not_back_at_midnight(brand):
    organization = busy_on_tier_three(brand)
    put(organization, "tier-1", night_of(day(0)) - timedelta(hours=12))
    assert upgrades.run(night_of(day(0))) == []
    assert upgrades.judge_one(organization, day(0)) is None
    assert rank(organization) == 1
    (change,) = upgrades.run(night_of(day(1)))
    assert change.to_tier.rank == 2, "a full day has passed since, and the rule asks for one"


def test_who_was_demoted_waits_the_whole_cool_down(brand):
    rules = {"tier-2": ANYBODY | {"cool_down_days": 2}}
    give_rules(brand, rules)
    organization = busy_on_tier_three(brand)
    put(organization, "tier-1", night_of(day(0)) - timedelta(hours=12))
    assert upgrades.run(night_of(day(1))) == []
    assert len(upgrades.run(night_of(day(2)))) == 1


def test_who_was_demoted_while_nights_were_missed_stays_there(brand):
    organization = busy_on_tier_three(brand)
    upgrades.run(night_of(day(-1)))
    for number in range(1, 4):
        used(organization, day(number), requests=39_000)
    put(organization, "tier-1", night_of(day(3)) + timedelta(hours=1))
    assert upgrades.run(night_of(day(3)) + timedelta(hours=2)) == []
    assert rank(organization) == 1


def test_a_tier_given_to_one_that_had_none_stays_as_well(brand):
    organization = customer(brand)
    upgrades.run(night_of(day(-1)))
    for number in range(3):
        used(organization, day(number), requests=30_000)
    put(organization, "tier-2", night_of(day(2)) + timedelta(hours=1))
    assert upgrades.run(night_of(day(2)) + timedelta(hours=2)) == []
    assert rank(organization) == 2


def test_the_first_tier_that_people_give_begins_a_cool_down_as_well(brand):
    """To an account that staff made, which had none."""
    give_rules(brand, {"tier-3": ANYBODY | {"cool_down_days": 2}})
    organization = customer(brand)
    put(organization, "tier-2", night_of(day(0)) - timedelta(hours=12))
    assert upgrades.run(night_of(day(0))) == upgrades.run(night_of(day(1))) == []
    assert len(upgrades.run(night_of(day(2)))) == 1
    simulated = simulate(brand, rules_in_force(brand), first=day(-3), last=day(2))
    assert [(move.night, move.from_tier.rank, move.to_tier.rank) for move in simulated.moves] == [(day(2), 2, 3)]


def test_an_older_night_moves_nobody_whom_a_later_one_moved(brand):
    organization = customer(brand)
    for number in range(3):
        used(organization, day(-number), requests=40_000)
    assert upgrades.judge_one(organization, day(0)) is not None
    assert upgrades.judge_one(organization, day(-1)) is None
    assert rank(organization) == 2


def test_a_new_rule_judges_no_nights_of_before(brand):
    organization = customer(brand)
    upgrades.run(night_of(day(-1)))
    rules = {tier.slug: tier.upgrade_rule for tier in Tier.objects.filter(brand=brand)}
    give_rules(brand, {})
    for number in range(12):
        used(organization, day(number), requests=40_000)
    upgrades.run(night_of(day(11)))
    assert UpgradeNight.objects.filter(brand=brand, night=day(11), judged=0).exists()
    give_rules(brand, rules)
    assert len(upgrades.run(night_of(day(12)))) == 1, "one beat, one step"
    assert rank(organization) == 2


def test_a_rule_made_while_the_job_was_down_judges_no_missed_night(brand):
    organization = customer(brand)
    upgrades.run(night_of(day(-1)))
    rules = {tier.slug: tier.upgrade_rule for tier in Tier.objects.filter(brand=brand)}
    for number in range(4):
        used(organization, day(number), requests=40_000)
    give_rules(brand, rules, at=upgrade_facts.moment_after(day(2), brand))  # the very end of the third missed night
    assert len(upgrades.run(night_of(day(3)))) == 1, "of four nights the one that the rule had seen"
    assert rank(organization) == 2


def test_an_edit_says_since_when_its_rule_is_in_force_and_others_leave_that_alone(brand):
    tier = Tier.objects.get(brand=brand, slug="tier-2")
    made_at = tier.rule_since
    tier.name = "Second"
    assert ladder.save_tier(tier, actor="test").rule_since == made_at
    tier.upgrade_rule = ANYBODY
    before = timezone.now()
    ladder.save_tier(tier, actor="test")
    tier.refresh_from_db()
    assert tier.rule_since is not None
    assert before <= tier.rule_since <= timezone.now()
    organization = customer(brand)
    assert upgrades.run(night_of(day(0))) == []
    assert rank(organization) == 1


def test_an_account_is_judged_for_no_night_before_it_was_opened(brand):
    give_rules(brand, {f"tier-{number}": ANYBODY for number in (2, 3, 4)})
    upgrades.run(night_of(day(-1)))
    organization = cast.organization(brand)
    Organization.objects.filter(pk=organization.pk).update(created_at=night_of(day(9)) + timedelta(hours=2))
    assert upgrades.run(night_of(day(9)) + timedelta(hours=3)) == []
    assert len(upgrades.run(night_of(day(10)))) == 1, "its own first night"


@pytest.fixture
def stumbling(monkeypatch) -> set[int]:
    """Organizations (ids) that cannot be judged."""
    found: set[int] = set()
    moved = upgrades._moved

    def stumbles(known, step, night):
        if known.history.organization.pk in found:
            raise ZeroDivisionError
        return moved(known, step, night)

    monkeypatch.setattr(upgrades, "_moved", stumbles)
    return found


def test_one_that_cannot_be_judged_holds_up_nobody_and_is_tried_again(brand, stumbling, caplog):
    crowd = [customer(brand) for _ in range(3)]
    upgrades.run(night_of(day(-1)))
    for organization in crowd:
        for number in range(4):
            used(organization, day(number), requests=4_000)
    stumbling.add(crowd[0].pk)
    with caplog.at_level(logging.ERROR):
        upgrades.run(night_of(day(3)))
    assert crowd[0].public_id in caplog.text
    assert [rank(organization) for organization in crowd] == [1, 3, 3]
    latest = UpgradeNight.objects.filter(brand=brand).latest("night")
    assert latest.night == day(-1), "the nights are not done"
    stumbling.clear()
    upgrades.run(night_of(day(3)))
    assert [rank(organization) for organization in crowd] == [3, 3, 3], "caught up; the others moved once a night"
    assert UpgradeNight.objects.filter(brand=brand).latest("night").night == day(3)


def test_one_brand_that_cannot_be_judged_holds_up_no_other(brand, monkeypatch, caplog):
    other = climbing_brand()
    organization = customer(other)
    for number in range(3):
        used(organization, day(-number), requests=700)
    due = upgrades.due

    def stumbles(asked, now):
        if asked == brand:
            raise ZeroDivisionError
        return due(asked, now)

    monkeypatch.setattr(upgrades, "due", stumbles)
    assert len(upgrades.run(night_of(day(0)))) == 1
    assert brand.slug in caplog.text


@pytest.fixture
def nothing_waited(monkeypatch):
    monkeypatch.setattr(upgrades, "_waiting_since", {})


@pytest.mark.usefixtures("nothing_waited")
def test_a_night_waits_until_the_journal_has_booked_its_day(brand, redis_connection, caplog):
    organization = customer(brand)
    for number in range(3):
        used(organization, day(-number), requests=700)
    before_midnight = int(upgrade_facts.moment_after(day(0), brand).timestamp() * 1000) - 1
    redis_connection.xadd(stream_of(7), {"e": b"x"}, id=f"{before_midnight}-1")
    assert upgrades.run(night_of(day(0))) == []
    assert not UpgradeNight.objects.exists()
    redis_connection.delete(stream_of(7))
    redis_connection.xadd(stream_of(7), {"e": b"x"}, id=f"{before_midnight + 1}-1")
    assert len(upgrades.run(night_of(day(0)))) == 1, "calls of the next day may wait"
    assert "waits for the journal" in caplog.text


@pytest.mark.usefixtures("nothing_waited")
def test_a_journal_that_stands_still_is_not_waited_for_for_ever(brand, redis_connection, caplog):
    redis_connection.xadd(stream_of(7), {"e": b"x"}, id="1000-1")
    upgrades.run(night_of(day(0)))
    upgrades.run(night_of(day(0)) + upgrades.WAITS_MAX - timedelta(minutes=1))
    assert not UpgradeNight.objects.exists()
    upgrades.run(night_of(day(0)) + upgrades.WAITS_MAX)
    assert UpgradeNight.objects.exists()
    assert "not booked yet" in caplog.text
