"""Paying in a real browser: from the balance through the stand-in's Checkout to a higher one; then by itself; and what
was bought with it, explained."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import redis
from playwright.sync_api import Browser, expect

from billing import auto_top_ups, balances, money, stripe_events
from keys.models import Role
from tests import cast as casting
from tests.billing import plans
from tests.inference import demo_engine
from tests.portal import browsing
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import sign_in
from tests.proxy.shop import Gateway, Shop, serve
from tests.stripes import Stripe, connected, credited, fake_stripe

SHOTS = os.environ.get("SHOTS")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Playwright's synchronous interface runs an event loop in this thread; Django takes that for a mistake.
    with pytest.MonkeyPatch.context() as patch, browsing.chromium() as browser:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield browser


@pytest.fixture
def till():
    with fake_stripe() as running:
        yield running


@pytest.fixture
def gateway(redis_connection: redis.Redis, settings, tmp_path: Path) -> Iterator[Gateway]:
    """The proxy beside the pages, over the same books."""
    settings.WAL_DIR = tmp_path
    with demo_engine() as inference, serve(Shop(inference, redis_connection)) as served:
        settings.DEFAULT_BRAND = served.shop.brand.slug
        yield served


def test_from_no_money_to_a_call_that_is_explained(chromium, live_server, gateway, till):
    """One story: a call is refused, credit is bought with a card that is kept, the call is made and explained, and as
    the balance is then below what its owner set, the card is charged again by itself."""
    shop = gateway.shop
    connected(till, shop.brand)
    customer, owner = shop.customer(credit=""), casting.person("owner")
    casting.join(owner, customer.organization, Role.OWNER)
    assert gateway.chat(headers=customer.headers).json()["error"]["code"] == "insufficient_quota"
    window = Window(chromium, live_server.url)
    sign_in(window.page, owner.email)
    buy(window, till)
    set_automatic(window, threshold="50")
    answer = gateway.chat("demo:tokens=20", headers=customer.headers)
    assert answer.status_code == 200
    read_explanation(window, gateway, answer)
    assert auto_top_ups.run(datetime.now(UTC)) == 1
    left = 10**9 * 75 - int(answer.headers["x-cost-nanos"])
    assert balances.of(customer.organization).available_nanos == left
    window.page.goto("/balance/")
    main = window.page.get_by_role("main")
    expect(main).to_contain_text("Automatic top-up")
    expect(main).to_contain_text(money.display_short(left, "USD"))
    look_well(window)
    assert till.money() == 7500
    window.context.close()


def buy(window: Window, till: Stripe) -> None:
    """$50 through the stand-in's Checkout: a card that is declined, then one whose bank asks."""
    page = window.page
    page.goto("/balance/")
    page.get_by_role("link", name="Add credit").click()
    expect(page.get_by_text("no money moves")).to_be_visible()
    look_well(window)
    page.get_by_label("$50.00").check()
    page.get_by_label("Keep this card").check()
    page.get_by_role("button", name="Continue to payment").click()
    page.wait_for_url("**/c/pay/**")
    expect(page.get_by_text("50.00 USD").first).to_be_visible()
    window.check()
    page.get_by_role("button", name="that is declined", exact=False).first.click()
    expect(page.get_by_role("alert")).to_contain_text("declined")
    window.said.clear()  # the 402 of the decline
    page.get_by_role("button", name="A card that works").first.click()
    expect(page.get_by_text("$50.00 of credit was added")).to_be_visible()
    take_in_events()
    page.goto("/balance/")
    expect(page.get_by_role("main")).to_contain_text("$50.00")


def set_automatic(window: Window, *, threshold: str) -> None:
    page = window.page
    page.get_by_role("link", name="Automatic top-ups").click()
    expect(page.get_by_text("ending in 4242")).to_be_visible()
    page.get_by_label("When the balance is below").fill(threshold)
    page.get_by_label("Charge this much").fill("25")
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Automatic top-ups are on")).to_be_visible()
    look_well(window)


def read_explanation(window: Window, gateway: Gateway, answer: httpx.Response) -> None:
    """From the list of requests to each bucket at its price, the sum, the hold, who, when and why it ended."""
    event, page = gateway.event_of(answer), window.page
    page.goto("/requests/")
    page.get_by_role("main").locator(f"a[href*='{event.call_id}']").first.click()
    main = page.get_by_role("main")
    for text in (
        str(event.call_id),
        "$0.20 per million",
        "$0.60 per million",
        money.display(event.cost_nanos, "USD"),
        f"{money.display(event.held_nanos, 'USD')} were set aside",
        "The model finished its answer.",
        "127.0.0.1",
        "Accepted: chat",
    ):
        expect(main).to_contain_text(text)
    look_well(window)


def look_well(window: Window) -> None:
    """Narrow and dark, too."""
    for size, (width, height) in browsing.SIZES.items():
        window.page.set_viewport_size({"width": width, "height": height})
        window.page.emulate_media(color_scheme="dark" if size == "phone" else "light")
        window.check()
        if SHOTS:
            window.shoot(f"{time.monotonic_ns()}-{size}")
    width, height = browsing.SIZES["desk"]
    window.page.set_viewport_size({"width": width, "height": height})


def test_on_a_phone_and_with_a_bank_that_asks(chromium, live_server, cast, till):
    connected(till, cast.brand)
    window = Window(chromium, live_server.url, size="phone")
    page = window.page
    sign_in(page, cast.owner.email)
    page.goto("/balance/")
    page.get_by_role("link", name="Add credit").click()
    page.get_by_role("textbox", name="Another amount").fill("12.34")
    expect(page.get_by_role("radio", name="Another amount")).to_be_checked()
    page.get_by_role("textbox", name="Another amount").clear()
    page.get_by_label("$50.00").check()
    page.get_by_role("button", name="Continue to payment").click()
    page.wait_for_url("**/c/pay/**")
    window.check()
    page.get_by_role("button", name="3-D Secure").click()
    page.get_by_role("button", name="Yes, complete the payment").click()
    expect(page.get_by_text("$50.00 of credit was added")).to_be_visible()
    window.check()
    page.goto("/balance/")
    page.get_by_role("link", name="Automatic top-ups").click()
    expect(page.get_by_role("button", name="Turn on")).to_be_disabled()
    page.get_by_role("button", name="Keep a card").click()
    page.get_by_role("button", name="Keep a card that works").click()
    page.wait_for_url("**/balance/automatic/**")
    take_in_events()
    page.reload()
    expect(page.get_by_text("ending in 4242")).to_be_visible()
    window.check()
    assert (credited(cast.organization), till.money()) == (5000, 5000)
    window.context.close()


def take_in_events() -> None:
    stripe_events.poll(datetime.now(UTC))
    while stripe_events.work(datetime.now(UTC)):
        pass


def test_a_plan_is_bought_on_the_ladder_and_cancelled(chromium, live_server, cast, till):
    connected(till, cast.brand)
    plans.tiers_of(cast.brand)
    window = Window(chromium, live_server.url, size="phone")
    page = window.page
    sign_in(page, cast.owner.email)
    page.goto("/limits/")
    page.get_by_role("link", name="Get Plus").last.click()
    window.check()
    page.get_by_role("button", name="Subscribe to Plus").click()
    page.wait_for_url("**/c/pay/**")
    expect(page.get_by_text("To pay every month")).to_be_visible()
    page.get_by_role("button", name="Pay with a card that works").click()
    page.wait_for_url("**/balance/plan/**")
    expect(page.get_by_role("heading", name="Your plan")).to_be_visible()
    window.check()
    page.get_by_role("button", name="Cancel at the end").click()
    expect(page.get_by_role("button", name="Go on after all")).to_be_visible()
    page.goto("/limits/")
    expect(page.get_by_role("main")).to_contain_text("You stand on Plus")
    assert (plans.earned(cast.organization), till.money()) == (1000, 1000)
    window.context.close()
