"""Nights judged again on paper: the same rules say what they did say, and others say what they would."""

from __future__ import annotations

from datetime import timedelta

import pytest

from billing import ladder, upgrade_facts, upgrades
from billing.models import Tier, TierChange
from billing.upgrade_rules import read
from billing.upgrade_simulation import simulate
from keys.models import Organization
from portal.tier_simulation import rules_in_force
from tests.billing.climbing import LADDER, START, climbing_brand, customer, night_of, rank, used

pytestmark = pytest.mark.django_db(transaction=True)
LAST = START + timedelta(days=13)
EASY = read({"all": [{"fact": "active_days", "days": 1, "within": 1}], "cool_down_days": 0})


@pytest.fixture(autouse=True)
def everybody_is_verified(monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])


@pytest.fixture
def brand():
    return climbing_brand()


def live(brand, *shares):
    """Fourteen days of organizations that use that many per cent of their requests, judged every night."""
    crowd = [customer(brand) for _ in shares]
    for number in range(14):
        day = START + timedelta(days=number)
        for organization, share in zip(crowd, shares, strict=True):
            used(organization, day, requests=LADDER[rank(organization) - 1][0] * share // 100)
        upgrades.run(night_of(day))
    return crowd


def moves_of(simulation):
    return sorted((m.organization.pk, m.night, m.from_tier.rank, m.to_tier.rank) for m in simulation.moves)


def test_the_rules_in_force_say_what_happened(brand):
    live(brand, 100, 70, 50, 0)
    simulation = simulate(brand, rules_in_force(brand), first=START, last=LAST)
    happened = TierChange.objects.exclude(night=None).select_related("from_tier", "to_tier")
    assert moves_of(simulation) == sorted(
        (c.organization_id, c.night, c.from_tier.rank if c.from_tier else 0, c.to_tier.rank) for c in happened
    )
    assert len(simulation.moves) == 6
    assert not simulation.higher


def test_easier_rules_move_sooner_and_tell_what_they_spare(brand):
    eager, idle = live(brand, 50, 0)
    simulation = simulate(brand, {f"tier-{n}": EASY for n in (2, 3, 4)}, first=START, last=LAST)
    assert moves_of(simulation) == [
        (eager.pk, START + timedelta(days=number), number + 1, number + 2) for number in range(3)
    ]
    assert simulation.judged == 2
    day = START + timedelta(days=4)
    refusals = {(eager.pk, START): 5, (eager.pk, day): 7, (idle.pk, day): 11}
    assert simulation.spared(refusals) == 7, "on the first day it stood where it stands"


def test_what_people_decided_is_decided_again(brand):
    organization = customer(brand)
    top = Tier.objects.get(brand=brand, slug="tier-5")
    change = ladder.assign(organization=organization, tier=Tier.objects.get(brand=brand, slug="tier-1"),
                           reason="test", actor="test")  # fmt: skip
    change = ladder.assign(organization=organization, tier=top, reason="contract", actor="sales")
    assert change is not None
    TierChange.objects.filter(pk=change.pk).update(at=night_of(START + timedelta(days=4)))  # early on the fifth
    simulation = simulate(brand, {"tier-2": EASY}, first=START, last=LAST)
    assert simulation.moves == []
    assert not simulation.higher
    used(organization, START, requests=1)
    simulation = simulate(brand, {"tier-2": EASY}, first=START, last=LAST)
    assert [move.night for move in simulation.moves] == [START]
    assert {day for _, day in simulation.higher} == {START + timedelta(days=number) for number in range(1, 5)}


def test_no_more_is_spared_than_the_higher_tier_had_room_for(brand):
    (eager,) = live(brand, 50)
    simulation = simulate(brand, {"tier-2": EASY}, first=START, last=LAST)
    day = START + timedelta(days=4)
    assert simulation.spared({(eager.pk, day): 10**6}) == 4_000 - 500
    assert simulation.seen == {eager.pk}


def test_nobody_moves_before_its_account_was_opened(brand):
    organization = customer(brand)
    Organization.objects.filter(pk=organization.pk).update(created_at=night_of(START + timedelta(days=10)))
    rules = {"tier-2": read({"all": [{"fact": "verified"}]})}
    (move,) = simulate(brand, rules, first=START, last=LAST).moves
    assert move.night == START + timedelta(days=11), "ten past midnight"
