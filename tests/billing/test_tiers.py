import pytest

from billing import tiers
from billing.snapshot import BrandRecord, ModelRecord, Snapshot, TierRecord
from keys.caller import OrganizationRecord


def tier(number, **fields):
    return TierRecord(**{"id": number, "rank": number, "slug": f"t{number}", "name": "T", "payer": "prepaid", **fields})


def model(slug, **fields):
    return ModelRecord(**{"id": 1, "slug": slug, "context_length": 8192, "max_completion_tokens": 4096, **fields})


def snapshot(*found):
    return Snapshot(version=3, brand=BrandRecord(id=2, slug="b", name="B"), tiers=found)


def organization(tier_id):
    return OrganizationRecord(1, "org_1", "o", 2, "active", tier_id, version=4)


def test_an_organization_stands_on_its_own_tier():
    found = snapshot(tier(1, is_default=True), tier(2))
    assert tiers.tier_of(found, organization(2)).id == 2


def test_one_that_nobody_assigned_stands_on_the_default():
    assert tiers.tier_of(snapshot(tier(1), tier(2, is_default=True)), organization(None)).id == 2


def test_without_a_ladder_the_balance_is_the_only_limit():
    alone = tiers.tier_of(snapshot(), organization(None))
    assert (alone.payer, alone.limits, alone.models) == ("prepaid", (), None)


def test_a_tier_newer_than_the_snapshot_is_never_replaced_by_another():
    with pytest.raises(tiers.TierUnknown):
        tiers.tier_of(snapshot(tier(1, is_default=True)), organization(2))


def test_a_tier_unlocks_the_models_it_names():
    assert tiers.unlocks(tier(1), model("any"))
    assert tiers.unlocks(tier(1, models=("large", "old")), model("large"))
    assert not tiers.unlocks(tier(1, models=("large", "old")), model("small"))
    assert not tiers.unlocks(tier(1, models=()), model("any"))


def test_customers_are_told_of_listed_tiers_only_but_stand_on_any():
    found = snapshot(tier(3, is_listed=False), tier(2), tier(1, models=()))
    assert [each.id for each in found.listed_tiers] == [1, 2]
    assert tiers.tier_of(found, organization(3)).id == 3
