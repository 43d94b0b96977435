"""An operator adds an engine, tries prices and limits, and reads the ledger, in a real browser, by light and dark."""

# ruff: noqa: F811 - the imported fixture

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import ladder, ledger, prices
from billing.models import Engine, Model, Rate, Tier, TierLimit, UsageDay
from tests import cast as casting
from tests.inference import demo_engine
from tests.portal.browsing import AXE, Window
from tests.portal.test_in_a_browser import chromium, open_window, sign_in  # noqa: F401 - fixtures
from tests.portal.test_support_page import refusal

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


@pytest.fixture(scope="module")
def inference():
    with demo_engine() as running:
        yield running


@pytest.fixture
def shop(cast):
    """A customer who used a priced model on a tier with a limit, and paid for it."""
    model = casting.model(cast.brand, "aion-v3")
    prices.set_price(model=model, actor="test", per_million={"input": "0.20", "output": "0.60"})
    later = timezone.now() + timedelta(days=9)
    prices.set_price(model=model, actor="test", effective_from=later, per_million={"input": "0.25", "output": "0.60"})
    tier = ladder.save_tier(Tier(brand=cast.brand, rank=1, slug="pro", name="Pro", is_default=True), actor="test")
    ladder.save_limit(TierLimit(tier=tier, unit="requests", window="day", amount=2_000), actor="test")
    ladder.assign(organization=cast.organization, tier=tier, reason="test", actor="test")
    who = cast.organization
    ledger.grant(
        organization=who, amount_nanos=50 * 10**9, kind="paid", reason="Transfer", reference="bank:1", actor="test"
    )
    ledger.post(
        ledger.Entry(
            brand_id=cast.brand.pk,
            organization_id=who.pk,
            kind="usage",
            reference="usage:01890000-0000-7000-8000-000000000000",
            lines=ledger.charge_lines(who.pk, 2_000_000_007),
        )
    )
    UsageDay.objects.create(
        brand_id=cast.brand.pk,
        organization_id=who.pk,
        key_id=1,
        model_id=model.pk,
        end_reason="stop",
        day=timezone.now().date() - timedelta(days=1),
        requests=1_234,
        uncached_input_tokens=10_000_000,
        list_cost_nanos=2 * 10**9,
        cost_nanos=2 * 10**9,
    )
    return cast


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_day_of_an_operator(open_window, shop, inference, size):
    """Pictures go to SCREENSHOTS, where that is set."""
    window: Window = open_window(size=size)
    page: Page = window.page

    def look(name: str) -> None:
        for scheme in window.by_light_and_by_dark() if size == "desk" else ["light"]:
            window.check()
            page.wait_for_timeout(200)  # the admin's links take that long to change colour
            broken = AXE.run(page, context="#content", options=RULES).response["violations"]
            found = [(rule["id"], [node["html"][:160] for node in rule["nodes"][:3]]) for rule in broken]
            assert not found, (page.url, scheme, found)
            window.shoot(f"{name}-{size}-{scheme}")

    sign_in(page, casting.person("operator", is_staff=True, is_superuser=True).email)
    page.goto("/admin/engines/add/")
    page.get_by_label("Address").fill("http://127.0.0.1:9/v1")
    page.get_by_role("button", name="Ask it").click()
    expect(page.get_by_text("cannot be reached")).to_be_visible()
    page.get_by_label("Address").fill(inference.root)
    page.get_by_text("Seldom needed").click()
    page.get_by_label("Only these models").fill("demo-chat, demo-broken")
    look("engine-add")
    page.get_by_role("button", name="Ask it").click()
    expect(page.get_by_text("counts while it streams")).to_be_visible()
    page.get_by_label("Sold as: demo-chat").fill("aion-mini")
    page.get_by_label("Input price: demo-chat").fill("0.10")
    page.get_by_label("Output price: demo-chat").fill("0.30")
    look("engine-found")
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_text("Model aion-mini is drafted.")).to_be_visible()
    look("engine-now")
    assert Rate.objects.get(model=Model.objects.get(slug="aion-mini")).input_picos == 100_000
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("button", name="Bring it live")).to_be_visible()
    assert Engine.objects.get().state == "draining"

    page.goto("/admin/")
    page.get_by_role("link", name="Price book").click()
    page.get_by_label("Input: aion-v3").fill("0.30")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("$2.00 was paid; $3.00 would have been")).to_be_visible()
    look("price-book")
    page.goto("/admin/ladder/")
    page.get_by_label("Pro: Requests per day and organization").fill("1000")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_text("1 of 1 organization", exact=False)).to_be_visible()
    look("ladder")
    page.get_by_role("button", name="Set these limits").click()
    expect(page.get_by_text("In force on the next request")).to_be_visible()
    page.goto(f"/admin/ledger/?organization={shop.organization.public_id}")
    expect(page.get_by_text("$47.999999993").first).to_be_visible()
    look("ledger")

    page.goto(f"/admin/keys/organization/{shop.organization.pk}/change/")
    page.get_by_label("Why it is suspended").fill("did not pay")
    window.shoot(f"organization-{size}")
    page.get_by_role("button", name="Suspend").click()
    expect(page.get_by_text("Suspended: 1, in force on the next request.")).to_be_visible()
    page.goto(f"/admin/keys/organization/{shop.organization.pk}/change/")
    expect(page.get_by_text("did not pay")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Resumed: 1, in force on the next request.")).to_be_visible()
    page.goto(f"/admin/support/?id={refusal(shop, message='Too fast: ' + 40 * 'slower ').call_id}")
    expect(page.get_by_label("Body of the answer")).to_be_visible()
    window.check()
    window.shoot(f"support-{size}")
