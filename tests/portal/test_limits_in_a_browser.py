"""The page of limits and tier in a real browser: live without a reload, by keyboard, on a phone, in the dark."""

# ruff: noqa: F811 - the imported fixture

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect
from redis import Redis

from billing import ladder, overrides, upgrade_facts, upgrades
from billing.models import Tier, TierLimit, UsageDay
from billing.windows import window_at
from keys import issuing
from keys.caller import shard_of
from keys.models import Organization
from tests import cast as casting
from tests.billing.climbing import rules_since
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import chromium  # noqa: F401 - fixture

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
RULE = {
    "all": [
        {"fact": "utilisation", "percent": 60, "days": 3, "within": 7},
        {"fact": "good_standing"},
        {"fact": "verified"},
    ]
}


@pytest.fixture
def climber(cast, redis_connection, monkeypatch):
    """An account of a ladder like Axione's that has just moved up by itself, with an exception and a busy key."""
    monkeypatch.setattr(upgrade_facts, "_verified_of", [set])
    cast.brand.support_email = "help@dialogix.example"
    cast.brand.save()
    for rank, label in enumerate(("Free", "Auto-upgrade", "Auto-upgrade", "Premium"), start=1):
        tier = Tier(brand=cast.brand, rank=rank, slug=f"t{rank}", name=f"Tier {rank}", label=label, payer="included")
        tier.is_default, tier.upgrade_rule = rank == 1, RULE if label == "Auto-upgrade" else None
        ladder.save_tier(tier, actor="test")
        for unit, amount in (("requests", 1_000), ("tokens", 250_000)):
            ladder.save_limit(TierLimit(tier=tier, unit=unit, window="day", amount=amount * 4**rank // 4), actor="test")
    first = Tier.objects.get(brand=cast.brand, rank=1)
    ladder.assign(organization=cast.organization, tier=first, reason="sign-up", actor="test")
    today = datetime.now(UTC).date()
    for days_ago in range(1, 4):
        UsageDay.objects.create(
            brand_id=cast.brand.pk,
            organization_id=cast.organization.pk,
            day=today - timedelta(days=days_ago),
            key_id=1,
            model_id=1,
            end_reason="stop",
            requests=3_000 if days_ago == 1 else 700,
        )
    opened_at = timezone.now() - timedelta(days=30)
    Organization.objects.filter(pk=cast.organization.pk).update(created_at=opened_at)
    rules_since(cast.brand, opened_at)
    upgrades.judge_night(cast.brand, today - timedelta(days=1))
    overrides.put(
        organization=cast.organization,
        unit="tokens",
        window="day",
        amount=2_000_000,
        reason="For your launch",
        actor="test",
        expires_at=datetime.now(UTC) + timedelta(days=9),
    )
    key = issuing.issue(
        organization=cast.organization,
        name="production server",
        actor=cast.owner,
        limits=[{"unit": "requests", "window": "day", "amount": 500}],
    ).key
    count(redis_connection, cast, {"o.req.p": 1_420, "o.req.h": 3, "o.tok.p": 1_700_000, f"k{key.pk}.req.p": 500})
    return cast


def count(store: Redis, cast, fields: dict[Any, Any]) -> None:
    shard = shard_of(cast.organization.pk)
    window = window_at(int(datetime.now(UTC).timestamp() * 1000), "day", "UTC").id
    store.set(f"{{s{shard}}}:epoch", "1:run")
    store.hset(f"{{s{shard}}}:w:{cast.organization.pk}:{window}", mapping=fields)


def open_page(window: Window, cast) -> Page:
    page = window.page
    page.goto("/accounts/login/")
    page.get_by_label("E-mail address").fill(cast.owner.email)
    page.get_by_label("Password", exact=True).fill(casting.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Account").get_by_role("link", name="Limits & tier").click()
    return page


def test_figures_move_without_a_reload_and_rest_while_nobody_looks(chromium, live_server, climber, redis_connection):
    window = Window(chromium, live_server.url)
    window.page.clock.install()
    page = open_page(window, climber)
    expect(page.get_by_text("1,420 of 4,000")).to_be_visible()
    page.evaluate("window.sameDocument = true")
    count(redis_connection, climber, {"o.req.p": 1_421})
    page.clock.run_for(5_000)
    expect(page.get_by_text("1,421 of 4,000")).to_be_visible()
    page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    count(redis_connection, climber, {"o.req.p": 1_422})
    page.clock.run_for(60_000)
    expect(page.get_by_text("1,421 of 4,000")).to_be_visible()
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("1,422 of 4,000")).to_be_visible()
    assert page.evaluate("window.sameDocument")
    window.check()
    window.context.close()


def test_who_is_signed_out_is_asked_nothing_more(chromium, live_server, climber):
    window = Window(chromium, live_server.url)
    window.page.clock.install()
    page = open_page(window, climber)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    window.context.clear_cookies()
    page.clock.run_for(5_000)
    page.wait_for_timeout(300)
    page.clock.run_for(60_000)
    page.wait_for_timeout(300)
    assert sum(url.endswith("/limits/live/") and "login" not in url for url in asked) == 1
    expect(page.get_by_text("1,420 of 4,000")).to_be_visible()
    window.context.close()


def test_the_banner_is_put_away_by_keyboard(chromium, live_server, climber):
    window = Window(chromium, live_server.url)
    page = open_page(window, climber)
    expect(page.get_by_text("You moved up to Tier 2.")).to_be_visible()
    page.get_by_role("button", name="Put away").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("You moved up to Tier 2.")).to_have_count(0)
    expect(page.get_by_role("heading", name="Limits and tier")).to_be_visible()
    window.check()
    window.context.close()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_the_page_is_clean_fits_and_is_accessible(chromium, live_server, climber, size):
    """By light and by dark. Pictures go to SCREENSHOTS, where that is set."""
    window = Window(chromium, live_server.url, size=size)
    page = open_page(window, climber)
    expect(page.get_by_text("You are here")).to_have_count(1)
    window.look(f"ladder-{size}")
    window.context.close()
