"""Nights on real PostgreSQL: an organization climbs by its use, and only so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import F
from django.utils import timezone

from billing import ladder, tasks, upgrade_facts, upgrades
from billing.models import Notice, Tier, TierAssignment, TierChange, UpgradeNight
from keys import organizations, records
from keys.models import AuditEvent
from tests import cast
from tests.billing.climbing import LADDER, START, climbing_brand, customer, night_of, rank, used

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def everybody_is_verified(monkeypatch):
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])


@pytest.fixture
def brand():
    return climbing_brand()


def test_an_organization_climbs_from_one_to_four_by_its_use_and_never_to_five(brand, redis_connection):
    organization = customer(brand)
    ranks = []
    for number in range(21):
        day = START + timedelta(days=number)
        requests, _ = LADDER[rank(organization) - 1]
        used(organization, day, requests=requests)
        upgrades.run(night_of(day))
        ranks.append(rank(organization))
    assert ranks == sorted(ranks), "it only climbs"
    assert ranks[1] == 1
    assert ranks[2] == 2, "three busy days"
    assert ranks[-1] == 4
    changes = list(TierChange.objects.filter(organization=organization).order_by("night"))
    assert [(change.from_tier and change.from_tier.rank, change.to_tier.rank) for change in changes] == [
        (1, 2),
        (2, 3),
        (3, 4),
    ]
    assert [change.rule_version for change in changes] == [1, 1, 1]
    first = changes[0]
    assert first.facts["night"] == "2026-03-22"
    assert [condition["is_met"] for condition in first.facts["conditions"]] == [True, True, True]
    assert "60 %" in first.facts["conditions"][0]["text"]
    published = orjson.loads(redis_connection.hget(records.organization_name(organization.id), "data"))
    assert published["tier_id"] == changes[-1].to_tier_id
    assert Notice.objects.filter(organization=organization, kind="tier_changed").count() == 3
    assert AuditEvent.objects.filter(organization=organization, action="organization.tier_changed").count() == 3


def busy(organization, last=START, requests=700):
    for back in range(3):
        used(organization, last - timedelta(days=back), requests=requests)


def test_two_beats_at_once_and_a_third_later_have_one_effect(brand):
    crowd = [customer(brand) for _ in range(8)]
    for organization in crowd:
        busy(organization, requests=40_000)  # enough for two steps, were there two effects

    def beat(_):
        try:
            return upgrades.run(night_of(START))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(beat, range(4)))
    assert sum(map(len, found)) == len(crowd)
    assert {rank(organization) for organization in crowd} == {2}
    UpgradeNight.objects.all().delete()  # as if the first had died before it could say that it was done
    assert upgrades.run(night_of(START)) == []
    assert {rank(organization) for organization in crowd} == {2}


def test_one_organizations_night_is_judged_alone_and_moves_it_once(brand):
    judged, other = customer(brand), customer(brand)
    for organization in (judged, other):
        busy(organization, requests=40_000)
    change = upgrades.judge_one(judged, START)
    assert change is not None
    assert (change.night, change.to_tier.rank, change.rule_version) == (START, 2, 1)
    assert upgrades.judge_one(judged, START) is None
    assert (rank(judged), rank(other)) == (2, 1)
    assert not UpgradeNight.objects.exists(), "the brand's night is still to be judged"
    upgrades.run(night_of(START))
    assert (rank(judged), rank(other)) == (2, 2)


def test_missed_nights_are_caught_up_in_their_order_as_if_they_had_been_on_time(brand):
    on_time, late = customer(brand), customer(brand)
    upgrades.run(night_of(START - timedelta(days=1)))
    for number in range(3):
        for organization in (on_time, late):
            used(organization, START + timedelta(days=number), requests=4_000)
    upgrades.run(night_of(START + timedelta(days=2)))
    assert (rank(on_time), rank(late)) == (2, 2)
    for organization in (on_time, late):
        used(organization, START + timedelta(days=3), requests=4_000)
    upgrades.run(night_of(START + timedelta(days=6)))  # three nights at once
    assert (rank(on_time), rank(late)) == (3, 3)
    nights = list(UpgradeNight.objects.filter(brand=brand).order_by("night").values_list("night", flat=True))
    assert nights == [START + timedelta(days=number) for number in range(-1, 7)]
    assert [change.night for change in TierChange.objects.filter(organization=late).order_by("night")] == [
        START + timedelta(days=2),
        START + timedelta(days=3),
    ]


def test_a_night_waits_until_the_brands_day_has_ended(brand):
    organization = customer(brand)
    busy(organization)
    midnight = upgrade_facts.moment_after(START, brand)
    assert midnight == datetime(2026, 3, 20, 23, tzinfo=UTC), "Zurich is an hour ahead"
    assert upgrades.due(brand, midnight + timedelta(minutes=4)) == [START - timedelta(days=1)]
    assert upgrades.due(brand, midnight + timedelta(minutes=5)) == [START]


def test_who_was_moved_by_a_person_meanwhile_is_left_there(brand):
    organization = customer(brand)
    busy(organization)
    premium = Tier.objects.get(brand=brand, slug="tier-5")
    ladder.assign(organization=organization, tier=premium, reason="contract", actor="sales")
    assert upgrades.run(night_of(START)) == []
    assert rank(organization) == 5


def test_a_tier_that_is_not_listed_is_no_step(brand):
    partner = Tier(brand=brand, rank=30, slug="partner", name="Partner", payer="included", is_listed=False)
    ladder.save_tier(partner, actor="test")
    Tier.objects.filter(brand=brand, rank__gte=2).update(rank=F("rank") + 30)  # now it stands between 1 and 2
    climber, partner_of_ours = customer(brand), customer(brand)
    ladder.assign(organization=partner_of_ours, tier=partner, reason="partner", actor="sales")
    for organization in (climber, partner_of_ours):
        busy(organization)
    (change,) = upgrades.run(night_of(START))
    assert (change.organization, change.to_tier.slug) == (climber, "tier-2")


def test_failed_requests_suspension_and_debt_stand_in_the_way(brand):
    failing, suspended = customer(brand), customer(brand)
    for back in range(3):
        used(failing, START - timedelta(days=back), requests=700, failures=200)
    busy(suspended)
    organizations.suspend(organization=suspended, reason="abuse", actor="test")
    assert upgrades.run(night_of(START)) == []
    assert not TierAssignment.objects.filter(organization__in=[failing, suspended]).exists()


def test_a_changed_rule_has_a_new_version_and_a_broken_one_is_refused(brand):
    tier = Tier.objects.get(brand=brand, slug="tier-2")
    assert tier.rule_version == 1
    tier.name = "Second"
    assert ladder.save_tier(tier, actor="test").rule_version == 1
    tier.upgrade_rule = {"all": [{"fact": "account_age", "days": 3}]}
    assert ladder.save_tier(tier, actor="test").rule_version == 2
    tier.upgrade_rule = {"all": [{"fact": "luck"}]}
    with pytest.raises(ValidationError, match="luck"):
        ladder.save_tier(tier, actor="test")


def test_a_change_keeps_the_version_of_the_rule_that_decided_and_what_it_saw(brand):
    early, late = customer(brand), customer(brand)
    for organization in (early, late):
        busy(organization)
    tier = Tier.objects.get(brand=brand, slug="tier-2")
    steps = upgrades.steps_of(brand)  # a night has begun, and meanwhile somebody edits the rule
    tier.upgrade_rule = {"all": [{"fact": "active_days", "days": 2, "within": 7}]}
    ladder.save_tier(tier, actor="test")
    below = Tier.objects.get(brand=brand, slug="tier-1").pk
    (first,) = upgrades._moves(brand, [(early, below)], steps, START, set())
    second = upgrades.judge_one(late, START)
    assert second is not None
    assert (first.rule_version, second.rule_version) == (1, 2)
    kept = TierChange.objects.get(pk=first.pk).facts["conditions"]
    assert [(met["have"], met["need"]) for met in kept] == [(3, 3), (1, 1), (1, 1)]
    assert [met["text"] for met in second.facts["conditions"]] == ["Calls on 2 of the last 7 days"]


def test_the_scheduled_task_judges_what_waits_and_once(brand):
    organization = customer(brand)
    busy(organization, last=upgrade_facts.day_before(timezone.now() - upgrades.GRACE, brand))
    for _ in range(2):
        tasks.judge_the_night(unknown="of a later release")
    assert rank(organization) == 2
    assert TierChange.objects.filter(organization=organization).count() == 1


def test_people_see_the_way_up_from_the_same_judgement(brand):
    organization = customer(brand)
    used(organization, START, requests=700)
    found = upgrades.standing_judgement(organization, night_of(START) - timedelta(hours=3))
    assert found is not None
    step, judgement = found
    assert step.to_tier.slug == "tier-2"
    assert (judgement.conditions[0].have, judgement.conditions[0].need) == (1, 3)
    top = Tier.objects.get(brand=brand, slug="tier-4")
    ladder.assign(organization=organization, tier=top, reason="test", actor="test")
    assert upgrades.standing_judgement(organization, night_of(START)) is None


def test_a_judgement_asks_few_questions_however_many_organizations(brand, django_assert_max_num_queries):
    for _ in range(30):
        busy(customer(brand), requests=1)
    with django_assert_max_num_queries(20):
        upgrades.run(night_of(START))


def test_an_owner_with_a_confirmed_address_is_verified_and_nobody_else(brand):
    from keys.models import Role
    from portal.accounts import with_confirmed_owner

    confirmed, unconfirmed, member = (cast.organization(brand) for _ in range(3))
    cast.join(cast.person(), confirmed, Role.OWNER)
    cast.join(cast.person(verified=False), unconfirmed, Role.OWNER)
    cast.join(cast.person(), member, Role.DEVELOPER)
    assert with_confirmed_owner([confirmed.pk, unconfirmed.pk, member.pk]) == {confirmed.pk}
