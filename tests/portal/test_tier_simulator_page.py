"""The operators' page that judges past nights by other upgrade rules."""

from __future__ import annotations

import json
from datetime import UTC, timedelta

import pytest
from django.utils import timezone

from billing.models import TierChange
from portal.views import tier_simulator
from tests import cast
from tests.billing.climbing import climbing_brand, customer, used

PAGE = "/admin/simulate-tiers/"
EASY = json.dumps({"tier-2": {"all": [{"fact": "active_days", "days": 1, "within": 1}]}})

pytestmark = pytest.mark.django_db


@pytest.fixture
def brand(settings):
    brand = climbing_brand()
    settings.DEFAULT_BRAND = brand.slug
    return brand


@pytest.fixture
def staff(brand):
    return cast.browser_of(cast.person("staff", is_staff=True, is_superuser=True))


def test_the_rules_in_force_are_offered_and_others_are_judged(brand, staff):
    organization = customer(brand)
    day = timezone.now().astimezone(UTC).date() - timedelta(days=2)
    used(organization, day, requests=5)
    page = staff.get(PAGE).content.decode()
    assert f'<a href="?brand={brand.slug}">' in page
    offered = staff.get(PAGE, {"brand": brand.slug}).context["form"].initial["rules"]
    condition = {"fact": "utilisation", "percent": 60, "days": 3, "within": 7, "of": ["requests", "tokens"]}
    assert json.loads(offered)["tier-2"]["all"][0] == condition
    same = staff.post(PAGE, {"brand": brand.slug, "days": 30, "rules": ""}).content.decode()
    assert "0 of 1 organizations would have moved, 0 steps." in same
    page = staff.post(PAGE, {"brand": brand.slug, "days": 30, "rules": EASY}).content.decode()
    assert "1 of 1 organizations would have moved, 1 step." in page
    assert f"{day}" in page
    assert "Calls on 1 of the last 1 days: 1 of 1" in page
    assert not TierChange.objects.exists(), "on paper only"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rules": "{"}, "Expecting property name"),
        ({"rules": "[]"}, "a table per tier is expected"),
        ({"rules": '{"tier-9": {}}'}, "has no tier &#x27;tier-9&#x27;; there are: tier-1"),
        ({"rules": '{"tier-2": {"all": [{"fact": "luck"}]}}'}, "with the facts utilisation"),
        ({"days": "91"}, "less than or equal to 90"),
        ({"brand": "nobody"}, "Select a valid choice"),
    ],
)
def test_what_cannot_be_judged_is_said_at_its_field(brand, staff, fields, says):
    page = staff.post(PAGE, {"brand": brand.slug, "days": 30, "rules": EASY} | fields)
    assert says in page.content.decode()
    assert "would have moved" not in page.content.decode()


def test_a_page_judges_so_many_and_says_how_many_it_left_out(brand, staff, monkeypatch):
    monkeypatch.setattr(tier_simulator, "ORGANIZATIONS_MAX", 2)
    for _ in range(3):
        customer(brand)
    page = staff.post(PAGE, {"brand": brand.slug, "days": 3, "rules": EASY}).content.decode()
    assert "0 of 2 organizations would have moved" in page
    assert "1 more organizations were not judged" in page


def test_who_may_not_see_tiers_may_not_simulate_them(brand):
    helper = cast.browser_of(cast.person("helper", is_staff=True))
    assert helper.get(PAGE).status_code == 403
    assert "Simulate tiers" not in helper.get("/admin/").content.decode()
