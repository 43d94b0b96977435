"""Tiers, their limits, who stands where, and exceptions: changed through the writers."""

from __future__ import annotations

import html
import re

import pytest
from django.core.exceptions import ValidationError

from billing import ladder
from billing.models import (
    LimitOverride,
    Tier,
    TierAssignment,
    TierChange,
    TierLimit,
)
from keys.models import AuditEvent
from tests import cast
from tests.billing.admin.forms import fields_of, noted, refused, saved

pytestmark = pytest.mark.django_db


RULE = '{"all": [{"fact": "active_days", "days": 2, "within": 7}], "cool_down_days": 3}'


def limit(number: int, **fields: str) -> dict[str, str | int]:
    """A further row of a tier's limits, as the form sends it."""
    given = {"scope": "organization", **fields}
    return {"limits-TOTAL_FORMS": number + 1} | {f"limits-{number}-{name}": value for name, value in given.items()}


def test_tier_form_changes_through_the_writer_and_a_new_default_takes_over(browser, who):
    saved(
        browser,
        "/admin/billing/tier/add/",
        brand=who.brand.pk,
        rank=2,
        slug="pro",
        name="Pro",
        payer="included_then_prepaid",
        is_default="on",
        **{
            "limits-TOTAL_FORMS": 2,
            "limits-0-unit": "tokens",
            "limits-0-window": "month",
            "limits-0-scope": "organization",
            "limits-0-amount": "1,000,000",
            "limits-0-is_allotment": "on",
            "limits-1-unit": "nanos",
            "limits-1-window": "month",
            "limits-1-scope": "key",
            "limits-1-amount": "50.00",
        },
    )
    pro, basic = Tier.objects.get(slug="pro"), Tier.objects.get(slug="basic")
    assert (pro.is_default, basic.is_default) == (True, False)
    assert {(limit.unit, limit.amount) for limit in pro.limits.all()} == {
        ("tokens", 1_000_000),
        ("nanos", 50_000_000_000),
    }
    assert pro.model_slugs is None
    assert [*AuditEvent.objects.filter(subject="pro").order_by("id").values_list("action", flat=True)] == [
        *("tier.created", "tier.limit_set", "tier.limit_set")
    ]
    assert noted("tier.created").address == "127.0.0.1"


def test_limits_are_changed_and_removed_through_the_writers(browser):
    tier = Tier.objects.get()
    url = f"/admin/billing/tier/{tier.pk}/change/"
    assert fields_of(browser.get(url))["limits-0-amount"] == "50.00"
    saved(browser, url, label="best")
    assert noted("tier.changed").after == {"label": "best"}
    count = AuditEvent.objects.filter(action="tier.limit_set").count()
    saved(browser, url, **{"limits-0-amount": "0.5"})
    assert TierLimit.objects.get().amount == 500_000_000
    assert AuditEvent.objects.filter(action="tier.limit_set").count() == count + 1
    saved(browser, url, **{"limits-0-DELETE": "on"})
    assert not TierLimit.objects.exists()
    assert noted("tier.limit_removed").before["amount"] == 500_000_000


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"limits-0-amount": "many"}, "plain decimal"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "1.5"}, "whole number"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "9007199254740992"}, "more than a limit may be"),
        ({"limits-0-amount": "9007200"}, "more than a limit may be"),
        ({"limits-0-is_allotment": "on"}, "An allotment is of requests"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "5", "limits-0-is_allotment": "on"}, "Only where the balance"),
        ({"model_slugs": "nobody"}, "No such model"),
        ({"payer": "included"}, "does not fit"),
        ({"rank": "2"}, "Second has it: each tier of a ladder has its own rank"),
        ({"slug": "second"}, "Second has it: each tier of a ladder has its own slug"),
        ({"is_default": ""}, "make another tier the default"),
        ({"upgrade_rule": "{"}, "Enter a valid JSON"),
        ({"upgrade_rule": '{"all": [{"fact": "luck"}]}'}, "with the facts utilisation (percent, days, within, of)"),
        ({"upgrade_rule": '{"all": []}'}, "at least one condition"),
        (
            {"upgrade_rule": '{"all": [{"fact": "utilisation", "percent": 101, "days": 1, "within": 1}]}'},
            "`percent` is from 1 to 100",
        ),
        (
            {"upgrade_rule": '{"all": [{"fact": "active_days", "days": 8, "within": 7}]}'},
            "`days` is at least 1 and at most `within`",
        ),
        ({"upgrade_rule": RULE, "label": "premium"}, "Nobody enters this tier by use alone"),
        ({"upgrade_rule": RULE, "monthly_price_nanos": "20"}, "Nobody enters this tier by use alone"),
        ({"upgrade_rule": RULE, "is_listed": ""}, "Nobody enters this tier by use alone"),
        (
            {
                "limits-0-unit": "tokens",
                "limits-0-window": "minute",
                "limits-0-amount": "5",
                "limits-0-is_allotment": "on",
            },
            "An allotment is of a day, a month or a lifetime",
        ),
        (
            limit(1, unit="nanos", window="month", amount="7"),
            "This tier limits spend per month and organization already",
        ),
        (
            limit(1, unit="concurrent", window="day", amount="7")
            | limit(2, unit="concurrent", window="minute", amount="9"),
            "This tier limits concurrent per organization already",
        ),
    ],
)
def test_tier_form_says_what_is_wrong(browser, who, changes, text):
    ladder.save_tier(Tier(brand=who.brand, rank=2, slug="second", name="Second"), actor="test")
    assert text in str(refused(browser, f"/admin/billing/tier/{Tier.objects.get(slug='basic').pk}/change/", **changes))


def test_a_rule_is_edited_as_it_is_laid_out_and_said_in_words(browser, who):
    second = ladder.save_tier(Tier(brand=who.brand, rank=2, slug="second", name="Second"), actor="test")
    url = f"/admin/billing/tier/{second.pk}/change/"
    assert "None: this tier is given by hand." in browser.get(url).content.decode()
    saved(browser, url, upgrade_rule=RULE)
    page = browser.get(url).content.decode()
    assert "Calls on 2 of the last 7 days<br>3 days since the last change of tier" in page
    assert fields_of(browser.get(url))["upgrade_rule"].startswith('{\n  "all": [\n')
    assert noted("tier.changed").after["upgrade_rule"]["cool_down_days"] == 3
    saved(browser, url, name="2nd")
    second.refresh_from_db()
    assert (second.rule_version, second.name) == (1, "2nd"), "a rule that nobody touched is the same rule"


def test_a_swap_of_two_limits_in_one_go_is_no_double(browser):
    url = f"/admin/billing/tier/{Tier.objects.get().pk}/change/"
    saved(browser, url, **limit(1, unit="nanos", window="day", amount="3"))
    saved(browser, url, **{"limits-1-window": "lifetime", "limits-1-amount": "4"})
    assert {(row.window, row.amount) for row in TierLimit.objects.all()} == {
        ("month", 50 * 10**9),
        ("lifetime", 4 * 10**9),
    }


def test_the_writer_itself_refuses_a_second_limit_on_a_counter(who):
    tier = Tier.objects.get()
    ladder.save_limit(TierLimit(tier=tier, unit="concurrent", window="day", amount=4), actor="test")
    with pytest.raises(ValidationError, match="already"):
        ladder.save_limit(TierLimit(tier=tier, unit="concurrent", window="minute", amount=5), actor="test")


def test_the_page_of_a_customer_leads_to_its_tier_and_exceptions(browser, who):
    page = browser.get(f"/admin/keys/organization/{who.organization.pk}/change/").content.decode()
    override = LimitOverride.objects.get()
    assert "Basic, since" in page
    assert f'href="/admin/billing/tierassignment/{who.organization.pk}/change/"' in page
    assert f'href="/admin/billing/limitoverride/{override.pk}/change/">5 requests per day and organization</a>' in page
    fresh = cast.organization(who.brand)
    page = browser.get(f"/admin/keys/organization/{fresh.pk}/change/").content.decode()
    links = re.findall(r'href="(/admin/billing/[^"]*)"', html.unescape(page))
    assert f"/admin/billing/tierassignment/add/?organization={fresh.pk}" in links
    assert f"/admin/billing/limitoverride/add/?organization={fresh.pk}" in links
    for link in links:
        assert browser.get(link).status_code == 200, link
    assert browser.get("/admin/keys/organization/add/").status_code == 200


def test_an_organization_is_put_on_a_tier_with_a_reason(browser, who):
    pro = ladder.save_tier(Tier(brand=who.brand, rank=2, slug="pro", name="Pro"), actor="test")
    url = f"/admin/billing/tierassignment/{who.organization.pk}/change/"
    assert "reason" in refused(browser, url, tier=pro.pk)
    saved(browser, url, tier=pro.pk, reason="asked for it")
    assert TierAssignment.objects.get().tier == pro
    change = TierChange.objects.latest("id")
    assert (change.to_tier, change.reason, str(change.actor)[:8]) == (pro, "asked for it", "operator")
    other = ladder.save_tier(Tier(brand=cast.brand(), rank=1, slug="theirs", name="Theirs"), actor="test")
    assert "another brand" in str(refused(browser, url, tier=other.pk, reason="x"))
    fresh = cast.organization(who.brand)
    saved(browser, "/admin/billing/tierassignment/add/", organization=fresh.pk, tier=pro.pk, reason="new")
    assert TierAssignment.objects.get(organization=fresh).tier == pro


def test_an_exception_to_a_limit_is_put_changed_and_ended_through_the_writer(browser, who):
    page = "/admin/billing/limitoverride/"
    given = {
        "organization": who.organization.pk,
        "unit": "nanos",
        "window": "month",
        "scope": "organization",
        "model": "",
        "amount": "75.00",
        "reason": "launch week",
        "expires_at_0": "2099-01-01",
        "expires_at_1": "00:00:00",
    }
    assert browser.post(f"{page}add/", given).status_code == 302
    found = LimitOverride.objects.get(unit="nanos")
    assert (found.amount, found.reason) == (75 * 10**9, "launch week")
    assert "75.00" in browser.get(f"{page}{found.pk}/change/").content.decode()
    assert browser.post(f"{page}{found.pk}/change/", given | {"amount": "80"}).status_code == 302
    assert LimitOverride.objects.get(unit="nanos").amount == 80 * 10**9
    assert browser.post(f"{page}{found.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not LimitOverride.objects.filter(unit="nanos").exists()
    said = AuditEvent.objects.filter(organization=who.organization, action__startswith="limit.override")
    assert [event.action.rpartition("_")[2] for event in said.order_by("id")] == ["put", "put", "ended"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"amount": "many"}, "whole number"),
        ({"expires_at_0": "2020-01-01"}, "has passed"),
        ({"reason": ""}, "This field is required"),
    ],
)
def test_an_exception_that_makes_no_sense_is_refused_at_its_field(browser, who, changes, text):
    given = {
        "organization": who.organization.pk,
        "unit": "requests",
        "window": "month",
        "scope": "organization",
        "amount": "75",
        "reason": "launch week",
        "expires_at_0": "2099-01-01",
        "expires_at_1": "00:00:00",
    }
    answer = browser.post("/admin/billing/limitoverride/add/", given | changes)
    assert text in answer.content.decode()
    assert not LimitOverride.objects.filter(window="month").exists()
