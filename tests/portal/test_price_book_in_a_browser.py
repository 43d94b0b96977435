"""Statements, prices to come and their preview in a real browser: desk and phone, by light and by dark."""

# ruff: noqa: F811 - the imported fixture

import json
import os
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import ledger, price_announcements, prices
from billing.models import UsageDay
from tests import cast as casting
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import chromium, sign_in  # noqa: F401 - fixture

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
SHOTS = os.environ.get("SCREENSHOTS")
MODELS = {"aion-v3": ("0.20", "0.60"), "aion-v3-tools": ("0.20", "0.60"), "aion-coder-long": ("0.50", "1.50")}


@pytest.fixture
def shop(cast):
    now = timezone.now()
    for slug, (read, written) in MODELS.items():
        model = casting.model(cast.brand, slug)
        prices.set_price(model=model, actor="test", per_million={"input": read, "output": written})
        UsageDay.objects.create(
            brand_id=cast.brand.pk,
            organization_id=cast.organization.pk,
            key_id=1,
            model_id=model.pk,
            end_reason="stop",
            day=(now - timedelta(days=1)).date(),
            requests=1_234,
            uncached_input_tokens=10_000_000,
            list_cost_nanos=2 * 10**9,
            cost_nanos=2 * 10**9,
        )
        dearer = {"input": "0.30", "output": "0.90", "cache_read": "0.10"}
        prices.set_price(model=model, actor="test", effective_from=now + timedelta(days=10), per_million=dearer)
    price_announcements.run(now + timedelta(hours=1))
    for kind, reason, dollars in (("paid", "Bank transfer 2026-11-18 ACME Industries", 250), ("promotional", "Hi", 5)):
        ledger.grant(
            organization=cast.organization,
            amount_nanos=dollars * 10**9,
            kind=kind,
            reason=reason,
            reference=reason,
            actor="operator",
        )
    for number in range(3):
        ledger.post(
            ledger.Entry(
                brand_id=cast.brand.pk,
                organization_id=cast.organization.pk,
                kind="usage",
                reference=f"batch-{number}",
                lines=ledger.charge_lines(cast.organization.pk, 12_345_678_901),
            )
        )
    return cast


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_what_a_customer_reads(chromium, live_server, shop, size):
    window = Window(chromium, live_server.url, size=size)
    page: Page = window.page
    sign_in(page, shop.owner.email)
    expect(page.get_by_text("Prices change.")).to_be_visible()
    window.look(f"banner-{size}")
    page.get_by_role("link", name="All changes of prices").click()
    expect(page.get_by_role("heading", name="Changelog")).to_be_visible()
    window.look(f"changelog-{size}")
    page.goto("/balance/")
    page.get_by_role("link", name="Statements").click()
    window.look(f"months-{size}")
    page.get_by_role("main").get_by_role("link", name=f"{timezone.now():%B %Y}", exact=True).click()
    expect(page.get_by_text("3 postings, summed")).to_be_visible()
    expect(page.get_by_text("$217.962963297").first).to_be_visible()
    window.look(f"statement-{size}")
    if SHOTS:
        page.emulate_media(media="print")
        window.shoot(f"print-{size}")
    window.context.close()


def test_what_an_operator_previews(chromium, live_server, shop):
    operator = casting.person("operator", is_staff=True, is_superuser=True)
    window = Window(chromium, live_server.url)
    page: Page = window.page
    sign_in(page, operator.email)
    page.goto("/admin/")
    page.get_by_role("link", name="Preview prices").click()
    page.get_by_role("link", name=shop.brand.name, exact=True).click()
    book = json.loads(page.get_by_label("Book").input_value())
    book["aion-v3"]["input"] = "0.40"
    page.get_by_label("Book").fill(json.dumps(book))
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("would have been", exact=False).first).to_be_visible()
    window.check()
    if SHOTS:
        window.shoot("preview")
    window.context.close()
