"""A brand's limits side by side: whom another amount had met is shown first, then one button sets it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import catalogue, ladder
from billing.models import Tier, TierLimit, UsageDay
from keys import staff
from keys.models import AuditEvent
from tests import cast as casting

pytestmark = pytest.mark.django_db
PAGE = "/admin/ladder/"


@pytest.fixture
def limits(cast) -> dict[str, TierLimit]:
    """Acme used 60 and 90 requests on two days, Elsewhere 20 of one key and 30 of another on one."""
    tier = ladder.save_tier(Tier(brand=cast.brand, rank=1, slug="pro", name="Pro", is_default=True), actor="test")
    found = {}
    for name, unit, window, scope, amount in (
        ("day", "requests", "day", "organization", 90),
        ("month", "requests", "month", "organization", 1_000),
        ("key", "requests", "day", "key", 100),
        ("spend", "nanos", "month", "organization", 5 * 10**9),
        ("minute", "requests", "minute", "organization", 10),
    ):
        limit = TierLimit(tier=tier, unit=unit, window=window, scope=scope, amount=amount)
        found[name] = ladder.save_limit(limit, actor="test")
    for organization, key_id, ago, requests in (
        (cast.organization, 1, 1, 60),
        (cast.organization, 1, 2, 90),
        (cast.elsewhere, 2, 1, 20),
        (cast.elsewhere, 3, 1, 30),
        (cast.elsewhere, 3, 60, 9_000),
    ):
        ladder.assign(organization=organization, tier=tier, reason="test", actor="test")
        UsageDay.objects.create(
            brand_id=cast.brand.pk,
            organization_id=organization.pk,
            key_id=key_id,
            model_id=1,
            end_reason="stop",
            day=timezone.now().date() - timedelta(days=ago),
            requests=requests,
            cost_nanos=requests * 10**7,
        )
    return found


@pytest.fixture
def chief(cast):
    return casting.browser_of(casting.person("chief", is_staff=True, is_superuser=True))


def sent(limits, act: str, **changes: str) -> dict[str, str]:
    now = {"day": "90", "month": "1000", "key": "100", "spend": "5.00", "minute": "10"}
    seen = {f"l{limit.pk}-seen": str(limit.amount) for limit in TierLimit.objects.all()}
    return {"act": act} | seen | {f"l{limits[name].pk}-amount": text for name, text in (now | changes).items()}


def previewed(browser: Any, sent: dict[str, str]) -> Any:
    """What comes of sending it, once it was looked at."""
    tried = browser.post(PAGE, {**sent, "act": "preview"}).context or {}
    return browser.post(PAGE, {**sent, "previewed": tried.get("previewed") or ""})


@pytest.mark.parametrize(
    ("name", "amount", "over", "reached"),
    [
        ("day", "49", 2, 1),  # most on a day: 90 and 50
        ("day", "60", 1, 1),
        ("month", "149", 1, 0),  # 150 and 50 in the last thirty days
        ("key", "30", 1, 0),  # of one key on a day: 90 and 30
        ("spend", "0.50", 1, 0),
    ],
)
def test_whom_another_amount_had_met_is_told_before_anything_is_set(chief, limits, name, amount, over, reached):
    page = chief.post(PAGE, sent(limits, "preview", **{name: amount}))
    (row,) = page.context["changed"]
    assert (row.effect.standing, row.effect.over, row.effect.over_before) == (2, over, reached)
    assert "Acme" in page.content.decode()
    assert TierLimit.objects.get(pk=limits[name].pk).amount == limits[name].amount


def test_what_is_set_holds_on_the_next_request(chief, cast, limits):
    assert "nothing is kept" in chief.post(PAGE, sent(limits, "preview", minute="5")).content.decode()
    assert previewed(chief, sent(limits, "set", minute="5", spend="7.25")).status_code == 302
    amounts = {limit.unit + limit.window: limit.amount for limit in catalogue.build(cast.brand.pk).tiers[0].limits}
    assert (amounts["requestsminute"], amounts["nanosmonth"]) == (5, 7_250_000_000)
    assert AuditEvent.objects.filter(action="tier.limit_set", address="127.0.0.1").count() == 2
    assert "nothing is changed" in chief.post(PAGE, sent(limits, "set", minute="5", spend="7.25")).content.decode()
    for wrong in ("many", "1,5"):
        refused = chief.post(PAGE, sent(limits, "set", minute=wrong, spend="8"))
        assert "whole number" in refused.content.decode()
    assert TierLimit.objects.get(pk=limits["spend"].pk).amount == 7_250_000_000, "all or nothing"


def test_only_what_was_previewed_is_set(chief, limits):
    mark = {"previewed": chief.post(PAGE, sent(limits, "preview", minute="5")).context["previewed"]}
    page = chief.post(PAGE, sent(limits, "set", minute="50") | mark)
    assert "other than what was previewed" in page.content.decode()
    assert TierLimit.objects.get(pk=limits["minute"].pk).amount == 10
    assert chief.post(PAGE, sent(limits, "set", minute="5") | mark).status_code == 302


def test_who_saves_second_takes_nothing_back(chief, limits):
    """The page sends every limit: one that somebody else set meanwhile is not the old one again."""
    opened = sent(limits, "set", spend="8.00")
    previewed(chief, sent(limits, "set", minute="5"))
    page = previewed(chief, opened)
    assert page.context["overtaken"][0].limit == limits["minute"]
    assert "Nothing is set" in page.content.decode()
    amounts = {name: TierLimit.objects.get(pk=limit.pk).amount for name, limit in limits.items()}
    assert (amounts["minute"], amounts["spend"]) == (5, 5 * 10**9)
    again = {field.html_name: field.value() for _, rows in page.context["rungs"] for row in rows for field in row}
    assert again[f"l{limits['minute'].pk}-amount"] == "5"
    assert again[f"l{limits['spend'].pk}-amount"] == "8.00", "what was typed is kept"
    assert previewed(chief, again | {"act": "set"}).status_code == 302
    assert TierLimit.objects.get(pk=limits["spend"].pk).amount == 8 * 10**9


def test_a_brands_staff_see_their_ladder_and_managers_set_it(cast, limits):
    other = ladder.save_tier(Tier(brand=casting.brand(), rank=1, slug="x", name="Theirs", is_default=True), actor="t")
    for role in ("support", "manager"):
        person = casting.person(role)
        staff.appoint(user=person, brand=cast.brand, role=role, actor="test")
        browser = casting.browser_of(person)
        page = browser.get(PAGE, {"brand": other.brand.slug}).content.decode()
        assert "Theirs" not in page
        assert ("Preview on the last" in page) == (role == "manager")
        assert previewed(browser, sent(limits, "set", day="80")).status_code == (302 if role == "manager" else 403)
