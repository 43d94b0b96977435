"""Exceptions to limits: rows, and what workers read of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import gauges, ladder, limits, overrides
from billing.catalogue import limit_record
from billing.models import LimitOverride, Tier, TierLimit
from billing.snapshot import LimitRecord
from keys import records
from keys.models import AuditEvent
from tests import cast

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def organization():
    return cast.organization(cast.brand())


def put(organization, **fields):
    values: dict[str, Any] = {
        "unit": "requests",
        "window": "day",
        "amount": 5_000,
        "reason": "launch week",
        "actor": "support",
    }
    return overrides.put(organization=organization, **(values | fields))


def published(organization, store):
    return orjson.loads(store.hget(records.organization_name(organization.id), "data"))["overrides"]


def test_an_exception_is_published_before_it_returns_and_so_is_its_end(organization, redis_connection):
    ends = datetime(2099, 1, 1, tzinfo=UTC)
    found = put(organization, expires_at=ends)
    assert published(organization, redis_connection) == [
        {
            "unit": "requests",
            "window": "day",
            "scope": "organization",
            "model_id": None,
            "amount": 5_000,
            "is_raise": False,
            "until_ms": int(ends.timestamp() * 1000),
        }
    ]
    put(organization, amount=6_000)
    assert [(one["amount"], one["until_ms"]) for one in published(organization, redis_connection)] == [(6_000, None)]
    found.refresh_from_db()
    overrides.end(found, actor="support")
    assert published(organization, redis_connection) is None
    actions = AuditEvent.objects.filter(organization=organization).order_by("id").values_list("action", flat=True)
    assert list(actions) == ["limit.override_put", "limit.override_put", "limit.override_ended"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"unit": "wishes"}, "unit"),
        ({"window": "week"}, "window"),
        ({"scope": "galaxy"}, "scope"),
        ({"amount": -1}, "amount"),
        ({"amount": 2**53}, "amount"),
        ({"reason": " "}, "reason"),
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(organization, fields, name):
    with pytest.raises(ValidationError) as raised:
        put(organization, **fields)
    assert set(raised.value.message_dict) == {name}
    assert not LimitOverride.objects.exists()


def test_a_spend_limit_does_not_fit_an_included_tier_nor_another_brands_model(organization):
    tier = Tier(brand=organization.brand, rank=1, slug="free", name="Free", payer="included", is_default=True)
    ladder.save_tier(tier, actor="test")
    with pytest.raises(ValidationError, match="included tier"):
        put(organization, unit="nanos", window="month")
    with pytest.raises(ValidationError, match="this brand"):
        put(organization, scope="model", model=cast.model(cast.brand()))


def record(amount, unit="requests", window="day", **fields):
    return LimitRecord(unit=unit, window=window, scope="organization", amount=amount, **fields)


def said(amount, until_ms, unit="requests", window="day"):
    return {
        "unit": unit,
        "window": window,
        "scope": "organization",
        "model_id": None,
        "amount": amount,
        "until_ms": until_ms,
    }


def test_what_is_in_force_is_pure_and_keeps_what_nobody_changed():
    tier = (record(10), record(5, "tokens", is_allotment=True))
    assert limits.in_force(tier, (), 0) == (tier, None)
    assert limits.in_force(tier, (said(9, 100),), 100) == (tier, None), "ended at its very moment"
    found, until = limits.in_force(tier, (said(9, 100), said(7, 50, "tokens"), said(3, None, "credits")), 49)
    assert until == 50
    assert [(one.unit, one.amount, one.is_allotment) for one in found] == [
        ("requests", 9, False),
        ("tokens", 7, True),
        ("credits", 3, False),
    ]


def test_an_exception_changes_the_ceiling_and_leaves_the_allotment_beside_it():
    ceiling, allotment = record(5_000, "tokens"), record(1_000, "tokens", is_allotment=True)
    for tier in ((ceiling, allotment), (allotment, ceiling)):
        found, _ = limits.in_force(tier, (said(9, None, "concurrent", "minute"),), 0)
        assert found[:2] == tier, "an exception to another limit changes neither"
        found, _ = limits.in_force(tier, (said(7_000, None, "tokens"),), 0)
        assert {(one.amount, one.is_allotment) for one in found} == {(7_000, False), (1_000, True)}


def test_an_exception_refuses_also_where_the_tier_only_tries_a_limit_out():
    tried, holds = record(40, is_shadow=True), record(100)
    found, _ = limits.in_force((tried,), (said(7, None),), 0)
    assert {(one.amount, one.is_shadow) for one in found} == {(40, True), (7, False)}
    found, _ = limits.in_force((holds, tried), (said(200, None),), 0)
    assert {(one.amount, one.is_shadow) for one in found} == {(200, False), (40, True)}


@pytest.fixture
def three_tiers(organization):
    """1,000 and 4,000 requests a day, then as many as one likes; the organization stands on the first."""
    found = []
    for rank, amount in enumerate((1_000, 4_000, None), start=1):
        tier = Tier(brand=organization.brand, rank=rank, slug=f"t{rank}", name=f"T{rank}", payer="included")
        found.append(ladder.save_tier(tier, actor="test"))
        if amount is not None:
            ladder.save_limit(TierLimit(tier=tier, unit="requests", window="day", amount=amount), actor="test")
    ladder.assign(organization=organization, tier=found[0], reason="test", actor="test")
    return found


@pytest.mark.parametrize(("amount", "on_each"), [(2_000, [2_000, 4_000, None]), (50, [50, 50, 50])])
def test_a_raise_takes_nothing_from_a_higher_tier_and_a_cut_holds_there(
    organization, three_tiers, redis_connection, amount, on_each
):
    put(organization, amount=amount)
    told = published(organization, redis_connection)
    found, shown = [], []
    for tier in three_tiers:
        in_force, _ = limits.in_force(tuple(map(limit_record, tier.limits.all())), told, 0)
        found.append(next((one.amount for one in in_force), None))
        reading = gauges.of(organization, tier, timezone.now())
        shown.append(next(((one.limit.amount, one.override is not None) for one in reading.gauges), None))
    assert found == on_each
    assert shown == [None if each is None else (each, each == amount) for each in on_each], "pages say the same"


def test_the_gauge_of_the_ceiling_shows_the_exception_and_that_of_the_allotment_does_not(organization):
    tier = Tier(
        brand=organization.brand, rank=1, slug="pro", name="Pro", payer="included_then_prepaid", is_default=True
    )
    ladder.save_tier(tier, actor="test")
    for amount, is_allotment in ((5_000, False), (1_000, True)):
        fields = {"unit": "tokens", "window": "day", "amount": amount, "is_allotment": is_allotment}
        ladder.save_limit(TierLimit(tier=tier, **fields), actor="test")
    override = put(organization, unit="tokens", amount=7_000)
    found = gauges.of(organization, tier, timezone.now()).gauges
    assert [(one.limit.amount, one.tier_amount, one.override) for one in found] == [
        (7_000, 5_000, override),
        (1_000, 1_000, None),
    ]
