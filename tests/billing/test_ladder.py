"""Tiers in real PostgreSQL, and what workers read of them in real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction

from billing import catalogue, ladder, ledger
from billing.models import Grant, Model, Tier, TierAssignment, TierChange, TierLimit
from keys import records
from keys.models import AuditEvent
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def brand():
    return cast.brand()


def tier(brand, slug, rank=1, **fields):
    return ladder.save_tier(Tier(brand=brand, slug=slug, name=slug, rank=rank, **fields), actor="test")


def limit(on, **fields):
    values = {"unit": "tokens", "window": "day", "amount": 100}
    return ladder.save_limit(TierLimit(tier=on, **(values | fields)), actor="test")


def published(organization, store):
    return orjson.loads(store.hget(records.organization_name(organization.id), "data"))


def test_a_tier_and_its_limits_are_in_the_next_snapshot(brand):
    before = catalogue.build(brand.id).version
    limit(tier(brand, "free", payer="included", priority=3, is_default=True), unit="requests", window="minute")
    found = catalogue.build(brand.id)
    (record,) = found.tiers
    assert (record.slug, record.payer, record.models, record.priority) == ("free", "included", None, 3)
    assert found.default_tier == record
    assert [(kept.unit, kept.window, kept.scope, kept.amount) for kept in record.limits] == [
        ("requests", "minute", "organization", 100)
    ]
    assert found.version > before


def test_assigning_is_published_before_it_returns(brand, redis_connection):
    organization = cast.organization(brand)
    free, pro = tier(brand, "free"), tier(brand, "pro", rank=2)
    ladder.assign(organization=organization, tier=free, reason="test", actor="test")
    assert published(organization, redis_connection)["tier_id"] == free.id
    change = ladder.assign(organization=organization, tier=pro, reason="paid", actor="test", facts={"paid_nanos": 5})
    assert published(organization, redis_connection)["tier_id"] == pro.id
    assert change is not None
    assert (change.from_tier, change.to_tier, change.facts) == (free, pro, {"paid_nanos": 5})
    assert ladder.standing_of(organization)[0] == pro
    assert AuditEvent.objects.filter(action="organization.tier_changed").count() == 2


def test_standing_there_already_changes_nothing(brand):
    organization, free = cast.organization(brand), tier(brand, "free")
    ladder.assign(organization=organization, tier=free, reason="test", actor="test")
    organization.refresh_from_db()
    assert ladder.assign(organization=organization, tier=free, reason="again", actor="test") is None
    version = organization.version
    organization.refresh_from_db()
    assert organization.version == version
    assert TierChange.objects.count() == 1


def test_changes_at_once_make_one_history(brand):
    organization = cast.organization(brand)
    rungs = [tier(brand, f"t{rank}", rank=rank) for rank in range(4)]

    def climb(rung):
        try:
            ladder.assign(organization=organization, tier=rung, reason="test", actor="test")
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(climb, rungs))
    history = list(TierChange.objects.order_by("id").values_list("from_tier_id", "to_tier_id"))
    assert not history[0][0]
    assert [came for came, _ in history[1:]] == [went for _, went in history[:-1]]
    assert TierAssignment.objects.get().tier_id == history[-1][1]


def test_another_brands_tier_is_refused(brand):
    organization = cast.organization(brand)
    with pytest.raises(ladder.OtherBrandsTier):
        ladder.assign(organization=organization, tier=tier(cast.brand(), "free"), reason="test", actor="test")


def test_a_new_organization_gets_the_default_tier_and_its_credit_once():
    brand = cast.brand(sign_up_grant_nanos=5_000)
    free = tier(brand, "free", is_default=True)
    organization = cast.organization(brand)
    for _ in range(2):
        ladder.welcome(organization=organization, actor="test")
    assert ladder.standing_of(organization)[0] == free
    assert ledger.balance_nanos(organization) == 5_000
    assert Grant.objects.get().kind == Grant.Kind.SIGN_UP


def test_a_person_gets_a_brands_credit_once_even_at_the_same_moment():
    brand = cast.brand(sign_up_grant_nanos=5_000)
    person = cast.person()
    organizations = [cast.organization(brand) for _ in range(4)]

    def welcome(organization):
        try:
            ladder.welcome(organization=organization, actor=person)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(welcome, organizations))
    assert Grant.objects.count() == 1


def test_a_new_default_takes_over(brand):
    free, trial = tier(brand, "free", is_default=True), tier(brand, "trial", rank=2, is_default=True)
    free.refresh_from_db()
    assert (free.is_default, trial.is_default) == (False, True)
    found = catalogue.build(brand.id).default_tier
    assert found is not None
    assert found.slug == "trial"


@pytest.mark.parametrize(
    ("payer", "fields", "message"),
    [
        ("prepaid", {"is_allotment": True}, "included_then_prepaid"),
        ("included", {"unit": "nanos"}, "never act"),
        ("included_then_prepaid", {"unit": "nanos", "is_allotment": True}, "spend nothing"),
        ("prepaid", {"amount": -1}, "tier_limit_amount_bounded"),
        ("prepaid", {"amount": 2**53}, "tier_limit_amount_bounded"),
        ("prepaid", {"unit": "words"}, "not a valid choice"),
    ],
)
def test_limits_that_could_never_act_are_refused(brand, payer, fields, message):
    on = tier(brand, "t", payer=payer)
    with pytest.raises(ValidationError, match=message):
        limit(on, **fields)


def test_a_limit_of_one_model_names_a_model_of_the_brand(brand):
    theirs = Model.objects.create(
        brand=cast.brand(), slug="m", name="M", context_length=8192, max_completion_tokens=4096
    )
    with pytest.raises(ValidationError, match="another brand's"):
        limit(tier(brand, "t"), scope="model", model=theirs)
    with pytest.raises(ValidationError, match="tier_limit_model_scope"):
        limit(tier(theirs.brand, "u"), scope="key", model=theirs)


def test_a_counter_is_limited_once(brand):
    on = tier(brand, "t")
    limit(on)
    with pytest.raises(ValidationError):
        limit(on, amount=5)
    with pytest.raises(IntegrityError), transaction.atomic():
        TierLimit.objects.create(tier=on, unit="tokens", window="day", amount=7)


def test_a_tighter_limit_is_tried_out_beside_the_one_that_holds(brand):
    on = tier(brand, "t")
    holds, tried = limit(on), limit(on, amount=40, is_shadow=True)
    (record,) = catalogue.build(brand.id).tiers
    assert {(kept.amount, kept.is_shadow) for kept in record.limits} == {(100, False), (40, True)}
    tried.is_shadow = False
    with pytest.raises(ValidationError, match="already"):
        ladder.save_limit(tried, actor="test")
    ladder.remove_limit(holds, actor="test")
    assert ladder.save_limit(tried, actor="test").amount == 40


def test_a_payer_that_its_limits_do_not_fit_is_refused(brand):
    on = tier(brand, "t", payer="included_then_prepaid")
    limit(on, is_allotment=True)
    on.payer = "prepaid"
    with pytest.raises(ValidationError, match="does not fit"):
        ladder.save_tier(on, actor="test")


def test_only_models_of_the_brand_are_unlocked(brand):
    with pytest.raises(ValidationError, match="No such model: ghost"):
        tier(brand, "t", model_slugs=["ghost"])


def test_the_trail_says_what_changed(brand):
    on = tier(brand, "t")
    on.priority = 7
    ladder.save_tier(on, actor="test", address="192.0.2.1")
    kept = limit(on)
    kept.amount = 5
    ladder.save_limit(kept, actor="test")
    ladder.remove_limit(kept, actor="test")
    trail = AuditEvent.objects.filter(action__startswith="tier.").order_by("id")
    assert [event.action for event in trail] == [
        *("tier.created", "tier.changed", "tier.limit_set", "tier.limit_set", "tier.limit_removed")
    ]
    assert [(event.before, event.after) for event in trail][1] == ({"priority": 0}, {"priority": 7})
    assert [(event.before, event.after) for event in trail][3] == ({"amount": 100}, {"amount": 5})
    assert trail[4].before["unit"] == "tokens"
    assert trail[1].address == "192.0.2.1"


def test_a_removed_limit_is_gone_from_the_next_snapshot(brand):
    kept = limit(tier(brand, "t"))
    before = catalogue.build(brand.id).version
    ladder.remove_limit(kept, actor="test")
    found = catalogue.build(brand.id)
    assert found.tiers[0].limits == ()
    assert found.version > before
