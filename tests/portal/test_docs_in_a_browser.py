"""The documentation of the brands that ship with the demo, in a real browser."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from billing import engines
from billing.models import Model
from billing.snapshot import Capabilities
from keys.models import Brand
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.docs.pages import pages_of
from portal.models import CanaryCheck, ModelEvidence
from tests.portal.test_in_a_browser import chromium, open_window  # noqa: F401 - fixtures

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
FILES = Path(__file__).resolve().parents[2] / "portal" / "demo" / "brands"


@pytest.fixture
def brand(request, db, settings) -> Brand:
    """The brand of the test's parameter, with a month of checks behind it."""
    slug = getattr(request, "param", "aione")
    engines.register(
        name="demo", kind="vllm", base_url="http://127.0.0.1:9/v1", actor="tests", capabilities=Capabilities()
    )
    import_brand(read((FILES / f"{slug}.toml").read_bytes()), actor="tests")
    found = Brand.objects.get(slug=slug)
    settings.DEFAULT_BRAND = found.slug
    first, *others = Model.objects.filter(brand=found).order_by("position")
    now = timezone.now()
    for day in range(30):
        for number, model in enumerate((first, *others)):
            outcome = ("passed", "passed", "wrong", "failed")[(day * number) % 4]
            CanaryCheck.objects.create(
                model=model, slot_at=now - timedelta(days=day), outcome=outcome, first_token_ms=40 * number + 20
            )
    ModelEvidence.objects.create(
        model=first,
        prompt="What is 17 + 25?",
        answer="42",
        answered_at=now,
        engines=[{"kind": "vllm", "version": "0.11.0", "model": "demo-vast"}],
    )
    return found


@pytest.mark.parametrize(
    ("brand", "size", "dark"),
    [("aione", "desk", False), ("aimichat", "phone", True)],
    indirect=["brand"],
)
def test_every_page_is_clean_and_fits(open_window, brand, tmp_path, size, dark):  # noqa: F811
    """Pictures go to SCREENSHOTS, where that is set."""
    window = open_window(size=size, dark=dark)
    for page in pages_of(brand):
        answer = window.page.goto(f"/docs/{page.name}/")
        assert answer is not None
        assert answer.ok
        expect(window.page.get_by_role("heading", level=1)).to_have_text(page.title)
        window.check()
        if size == "desk":
            window.check_accessibility()
        window.shoot(f"docs-{brand.slug}-{page.name}-{size}-{'dark' if dark else 'light'}")


def test_a_language_is_chosen_once_and_copied_whole(open_window, brand):  # noqa: F811
    window = open_window()
    page: Page = window.page
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/docs/examples/")
    page.locator("#tab-complete-python").click()
    expect(page.locator("#stream-python")).to_be_visible()
    expect(page.locator("#stream-curl")).to_be_hidden()
    page.locator("#panel-complete-python").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#complete-python").inner_text().strip()
    page.get_by_role("link", name="Caching and cost", exact=False).first.click()
    expect(page.locator("#cached-python")).to_be_visible()
    page.locator("#tab-cached-python").press("ArrowRight")
    expect(page.locator("#tab-cached-javascript")).to_be_focused()
    expect(page.locator("#cached-javascript")).to_be_visible()
    window.check()


def test_the_menu_of_a_phone_opens_without_scripts(chromium, live_server, brand):  # noqa: F811
    context = chromium.new_context(
        base_url=live_server.url, java_script_enabled=False, viewport={"width": 360, "height": 740}
    )
    page = context.new_page()
    page.goto("/docs/quick-start/")
    for language in ("curl", "python", "javascript"):
        expect(page.locator(f"#first-{language}")).to_be_visible()
    page.locator(".docs-menu-small > summary").click()
    page.locator(".docs-menu-small").get_by_role("link", name="14 Image generation").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Image generation")
    context.close()


def test_the_keyboard_reaches_page_and_sections(open_window, brand):  # noqa: F811
    page: Page = open_window().page
    page.goto("/docs/network/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_role("navigation", name="On this page").get_by_role("link", name="Browsers").press("Enter")
    assert page.evaluate("location.hash") == "#browsers"
    expect(page.locator("#browsers")).to_be_in_viewport()
