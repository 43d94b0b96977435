"""Paying in a real browser: from the balance through the stand-in's Checkout to a higher one; then by itself."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser, expect

from billing import auto_top_ups, stripe_events
from tests.portal import browsing
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import sign_in
from tests.stripes import connected, credited, fake_stripe

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


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_from_the_balance_through_checkout_to_a_higher_one(chromium, live_server, cast, till, size):
    connected(till, cast.brand)
    window = Window(chromium, live_server.url, size=size)
    page = window.page
    sign_in(page, cast.owner.email)
    page.goto("/balance/")
    page.get_by_role("link", name="Add credit").click()
    expect(page.get_by_text("no money moves")).to_be_visible()
    window.check()
    page.get_by_label("$50.00").check()
    page.get_by_label("Keep this card").check()
    page.get_by_role("button", name="Continue to payment").click()
    page.wait_for_url("**/c/pay/**")
    expect(page.get_by_text("50.00 USD").first).to_be_visible()
    window.check()
    page.get_by_role("button", name="that is declined", exact=False).first.click()
    expect(page.get_by_role("alert")).to_contain_text("declined")
    page.get_by_role("button", name="3-D Secure").click()
    page.get_by_role("button", name="Yes, complete the payment").click()
    expect(page.get_by_text("$50.00 of credit was added")).to_be_visible()
    page.goto("/balance/")
    expect(page.get_by_role("main")).to_contain_text("$50.00")
    assert (credited(cast.organization), till.money()) == (5000, 5000)
    window.context.close()


def test_automatic_top_ups_are_set_with_a_card_left_for_later(chromium, live_server, cast, till):
    connected(till, cast.brand)
    window = Window(chromium, live_server.url)
    page = window.page
    sign_in(page, cast.owner.email)
    page.goto("/balance/")
    page.get_by_role("link", name="Automatic top-ups").click()
    expect(page.get_by_role("button", name="Turn on")).to_be_disabled()
    page.get_by_role("button", name="Keep a card").click()
    page.get_by_role("button", name="Keep a card that works").click()
    page.wait_for_url("**/balance/automatic/**")
    take_in_events()
    page.reload()
    expect(page.get_by_text("ending in 4242")).to_be_visible()
    page.get_by_label("When the balance is below").fill("3")
    page.get_by_label("Charge this much").fill("15")
    page.get_by_role("button", name="Turn on").click()
    expect(page.get_by_text("Automatic top-ups are on")).to_be_visible()
    window.check()
    auto_top_ups.run(datetime.now(UTC))
    page.goto("/balance/")
    expect(page.get_by_role("main")).to_contain_text("Automatic top-up")
    assert (credited(cast.organization), till.money()) == (1500, 1500)
    window.context.close()


def take_in_events() -> None:
    stripe_events.poll(datetime.now(UTC))
    while stripe_events.work(datetime.now(UTC)):
        pass
