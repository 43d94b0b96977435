"""A ladder like Axione's, and organizations that use it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from billing import ladder
from billing.models import Tier, TierLimit, UsageDay
from keys.models import Brand, Organization
from tests import cast

RULE = {
    "all": [
        {"fact": "utilisation", "percent": 60, "days": 3, "within": 7},
        {"fact": "good_standing"},
        {"fact": "verified"},
    ]
}
LADDER = ((1_000, 250_000), (4_000, 1_000_000), (40_000, 10_000_000), (80_000, 20_000_000), (120_000, 30_000_000))
START = date(2026, 3, 20)


def climbing_brand() -> Brand:
    """Five tiers in Zurich; the second to the fourth are earned."""
    brand = cast.brand(timezone="Europe/Zurich")
    for number, (requests, tokens) in enumerate(LADDER, start=1):
        rule = RULE if 2 <= number <= 4 else None
        tier = Tier(
            brand=brand, rank=number, slug=f"tier-{number}", name=f"Tier {number}", payer="included", upgrade_rule=rule
        )
        tier.is_default = number == 1
        ladder.save_tier(tier, actor="test")
        for unit, amount in (("requests", requests), ("tokens", tokens)):
            ladder.save_limit(TierLimit(tier=tier, unit=unit, window="day", amount=amount), actor="test")
    rules_since(brand, datetime(2026, 1, 1, tzinfo=UTC))
    return brand


def rules_since(brand: Brand, at: datetime) -> None:
    """As if its rules had been made then."""
    Tier.objects.filter(brand=brand).update(rule_since=at)


def customer(brand: Brand, opened: date = date(2026, 1, 1)) -> Organization:
    organization = cast.organization(brand)
    Organization.objects.filter(pk=organization.pk).update(created_at=datetime(opened.year, 1, 1, tzinfo=UTC))
    return Organization.objects.get(pk=organization.pk)


def used(organization: Organization, day: date, *, requests: int, failures: int = 0, tokens: int = 0) -> None:
    UsageDay.objects.create(
        brand_id=organization.brand_id,
        organization_id=organization.pk,
        key_id=1,
        model_id=1,
        end_reason="stop",
        day=day,
        requests=requests,
        failures=failures,
        output_tokens=tokens,
    )


def night_of(day: date) -> datetime:
    """Ten past midnight in Zurich, the night after `day`."""
    return datetime(day.year, day.month, day.day, 22, 10, tzinfo=UTC) + timedelta(hours=1)


def rank(organization: Organization) -> int:
    tier, _ = ladder.standing_of(organization)
    assert tier is not None
    return tier.rank
