"""`manage.py simulate_tiers`: other rules over the days that were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing.models import Tier
from proxy.models import RefusalCount
from tests.billing.climbing import climbing_brand, customer, used

pytestmark = pytest.mark.django_db


@pytest.fixture
def brand():
    return climbing_brand()


def simulated(brand, tmp_path, text, *, suffix="toml", days=30):
    rules = tmp_path / f"rules.{suffix}"
    rules.write_text(text)
    out = StringIO()
    call_command("simulate_tiers", brand=brand.slug, rules=rules, days=days, stdout=out)
    return out.getvalue()


def test_who_would_have_moved_when_and_what_it_had_spared(brand, tmp_path):
    organization = customer(brand)
    today = timezone.now().astimezone(UTC)
    for back in (3, 2):
        used(organization, (today - timedelta(days=back)).date(), requests=5)
    noon = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    for back, count in ((3, 100), (2, 40), (1, 2)):
        RefusalCount.objects.create(
            minute=noon - timedelta(days=back),
            brand_id=brand.pk,
            organization_id=organization.pk,
            reason="used up organization.requests.day",
            count=count,
        )
    text = simulated(brand, tmp_path, '[tier-2]\nall = [{fact = "active_days", days = 1, within = 1}]')
    assert f"{(today - timedelta(days=3)).date()}  {organization.slug}" in text
    assert "Tier 1 → Tier 2" in text
    assert "1 of 1 organizations would have moved, 1 steps." in text
    assert "Rules: tier-2 as given; tier-3, tier-4 as in force." in text
    assert "Refusals for a used-up daily limit of the organization: 142; spared: 42." in text


@pytest.mark.parametrize(
    ("text", "suffix", "says"),
    [
        ("[tier-9]\nall = []", "toml", "no tier 'tier-9'; there are: tier-1"),
        ('[tier-2]\nall = [{fact = "luck"}]', "toml", "tier-2: .*luck"),
        ("[tier-2\n", "toml", "line 1"),
        ("[]", "json", "a table per tier"),
        ("{", "json", "line 1"),
        ("", "toml", "a table per tier"),
    ],
)
def test_a_wrong_file_is_refused_with_its_reason(brand, tmp_path, text, suffix, says):
    with pytest.raises(CommandError, match=says):
        simulated(brand, tmp_path, text, suffix=suffix)


def test_days_have_an_end_and_rules_must_be_somewhere(brand, tmp_path):
    with pytest.raises(CommandError, match="from 1 to 90"):
        simulated(brand, tmp_path, "", days=91)
    Tier.objects.update(upgrade_rule=None)
    with pytest.raises(CommandError, match="No tier has a rule"):
        call_command("simulate_tiers", brand=brand.slug, stdout=StringIO())


@pytest.mark.parametrize("change", [{"label": "Premium"}, {"is_listed": False}, {"monthly_price_nanos": 10**9}])
def test_no_rule_leads_to_a_tier_that_is_given_by_hand(brand, tmp_path, change):
    Tier.objects.filter(brand=brand, slug="tier-5").update(**change)
    with pytest.raises(CommandError, match="tier-5: Nobody enters this tier by use alone"):
        simulated(brand, tmp_path, '[tier-5]\nall = [{fact = "verified"}]')


@pytest.mark.parametrize("reason", ["insufficient_quota", "used up balance", "used up key.requests.day"])
def test_refusals_that_no_tier_would_have_spared_are_not_counted(brand, tmp_path, reason):
    organization = customer(brand)
    yesterday = timezone.now() - timedelta(days=1)
    RefusalCount.objects.create(
        minute=yesterday, brand_id=brand.pk, organization_id=organization.pk, reason=reason, count=9
    )
    assert "of the organization: 0; spared: 0." in simulated(
        brand, tmp_path, '[tier-2]\nall = [{fact = "account_age", days = 1}]'
    )
