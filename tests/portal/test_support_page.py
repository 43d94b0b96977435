"""What support reads about a request: what the program was answered, and how the limits stood."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import call_ids, journal, ladder, limits_then
from billing.models import Model, Tier, TierLimit, UsageDay, UsageQuarter
from keys.models import Organization
from proxy.models import RefusalRecord
from tests import cast as casting
from tests.billing import draining, settled

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 20, 12, 7, tzinfo=UTC)


@pytest.fixture
def chief(cast):
    return casting.browser_of(casting.person("chief", is_staff=True, is_superuser=True))


@pytest.fixture
def tier(cast) -> Tier:
    """Limits on the account by day and month, on each key, at once, and on one model."""
    found = ladder.save_tier(Tier(brand=cast.brand, rank=1, slug="pro", name="Pro", is_default=True), actor="test")
    for unit, window, scope, amount in (
        ("requests", "day", "organization", 100),
        ("nanos", "month", "organization", 10**10),
        ("tokens", "day", "key", 500),
        ("concurrent", "day", "organization", 4),
        ("requests", "minute", "organization", 9),
        ("output", "day", "model", 70),
    ):
        limit = TierLimit(tier=found, unit=unit, window=window, scope=scope, amount=amount)
        ladder.save_limit(limit, actor="test")
    ladder.assign(organization=cast.organization, tier=found, reason="test", actor="test")
    return found


def used(organization: Organization, at: datetime, model: Model, key_id: int, requests: int) -> None:
    """In the quarter of an hour of `at`, and its day."""
    sums = {"requests": requests, "output_tokens": 10 * requests, "cost_nanos": 10**9 * requests}
    who: dict[str, Any] = {"brand_id": organization.brand_id, "organization_id": organization.pk, "key_id": key_id}
    who |= {"model_id": model.pk, "end_reason": "stop"}
    quarter = at - timedelta(minutes=at.minute % 15)
    UsageQuarter.objects.create(starts_at=quarter, **who, **sums)
    day, made = UsageDay.objects.get_or_create(day=at.date(), **who, defaults=sums)
    if not made:
        UsageDay.objects.filter(pk=day.pk).update(**{name: getattr(day, name) + more for name, more in sums.items()})


def test_limits_of_then_are_read_to_a_quarter_of_an_hour(cast, tier):
    who = settled.customer(cast.brand)
    model, other, key = casting.model(cast.brand), casting.model(cast.brand), who.key
    type(key).objects.filter(pk=key.pk).update(organization=cast.organization)
    used(cast.organization, NOON - timedelta(days=3), model, key.pk, 2)
    used(cast.organization, NOON - timedelta(hours=2), model, key.pk, 3)
    used(cast.organization, NOON, other, 7, 1)
    used(cast.organization, NOON + timedelta(hours=1), model, key.pk, 50)
    then = limits_then.of(cast.organization, NOON, key_id=key.pk, model_id=model.pk, tier_id=tier.pk)
    found = {stood.gauge.name: (stood.used_from, stood.used_to) for stood in then.limits}
    assert found == {
        "organization.requests.day": (3, 4),
        "organization.nanos.month": (5 * 10**9, 6 * 10**9),
        "key.tokens.day": (30, 30),
        "organization.concurrent": (None, None),
        "organization.requests.minute": (None, None),
        "model.output.day": (30, 30),
    }
    assert then.changed > 0, "the limits were made since"


def test_the_tier_of_then_is_the_one_it_stood_on(cast, tier):
    first = ladder.save_tier(Tier(brand=cast.brand, rank=2, slug="max", name="Max"), actor="test")
    between = timezone.now()
    ladder.assign(organization=cast.organization, tier=first, reason="test", actor="test")
    assert limits_then.of(cast.organization, between).tier == tier
    assert limits_then.of(cast.organization, timezone.now()).tier == first
    assert limits_then.of(cast.organization, timezone.now()).changed == 0


def refusal(cast, **fields) -> RefusalRecord:
    at = timezone.now()
    usual = {
        "call_id": call_ids.mint(int(at.timestamp() * 1000), b"0123456789"),
        "at": at,
        "brand_id": cast.brand.pk,
        "organization_id": cast.organization.pk,
        "status": 429,
        "reason": "rate_limited",
        "limit": "organization.requests.minute",
        "message": "Too fast: 9 requests per minute.",
    }
    return RefusalRecord.objects.create(**usual | fields)


def test_a_refusal_shows_what_was_answered_and_which_limit_it_was(chief, cast, tier):
    row = refusal(cast)
    page = chief.get("/admin/support/", {"id": row.call_id})
    text = page.content.decode()
    body = json.loads(page.context["answered"].body)["error"]
    assert (body["message"], body["type"]) == (row.message, "rate_limit_error")
    for expected in ("HTTP 429", f"x-request-id: {row.call_id}", "x-should-retry: true", "On the tier Pro", "not kept"):
        assert expected in text
    limits = text[text.index("Limits at that moment") :]
    assert limits.index("organization.requests.minute") < limits.index("refused by it")
    assert "No limit was changed since" in limits
    assert f"/admin/ledger/?brand={cast.brand.slug}" in text


def test_a_refusal_of_nobody_is_worded_by_its_brand(chief, cast):
    row = refusal(cast, organization_id=None, status=401, reason="invalid_key", limit="", message="Incorrect key.")
    page = chief.get("/admin/support/", {"id": row.call_id})
    assert json.loads(page.context["answered"].body)["error"]["code"] == "invalid_api_key"
    assert "Limits at that moment" not in page.content.decode()
    old = refusal(cast, call_id=call_ids.mint(1_000, b"0123456789"), reason="of an older release")
    assert "this release knows no such reason" in chief.get("/admin/support/", {"id": old.call_id}).content.decode()


def test_a_call_shows_its_cost_header_and_the_limits_it_met(chief, cast, tier, redis_connection):
    who = settled.customer(cast.brand)
    event = who.event(tier_id=tier.pk)
    settled.settle(redis_connection, event)
    draining.drain(journal.Journal(redis_connection, name="test", notify=lambda _line: None))
    page = chief.get("/admin/support/", {"id": event.call_id})
    assert "x-cost-nanos: 7" in page.content.decode()
    met = {stood.gauge.name: stood for stood in page.context["then"].limits}
    assert (met["key.tokens.day"].used_from, met["key.tokens.day"].used_to) == (0, 15)
