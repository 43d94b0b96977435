"""The portal's stories in a real browser. A clean console is proved too (so a clean policy), and no sideways scroll."""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterator

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from billing import call_ids, journal, ledger
from keys import brands, issuing, service_accounts
from keys.models import ApiKey, Role
from portal.pages import SECTIONS
from proxy.models import RefusalRecord
from tests import cast as casting
from tests.billing import draining, settled
from tests.billing.settled import Customer
from tests.portal import authenticator, browsing
from tests.portal.browsing import Window
from tests.portal.tested import called

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PASSWORD = "a long enough sentence"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Playwright's synchronous interface runs an event loop in this thread; Django takes that for a mistake.
    with pytest.MonkeyPatch.context() as patch, browsing.chromium() as browser:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield browser


@pytest.fixture(autouse=True)
def _demo(settings, tmp_path):
    settings.DEMO = True
    settings.VAR_DIR = tmp_path
    settings.EMAIL_BACKEND = "portal.mailbox.EmailBackend"


@pytest.fixture
def open_window(chromium, live_server) -> Iterator[Callable[..., Window]]:
    windows: list[Window] = []

    def opened(**options) -> Window:
        windows.append(Window(chromium, live_server.url, **options))
        return windows[-1]

    yield opened
    for window in windows:
        window.context.close()


def sign_in(page: Page, email: str, password: str = casting.PASSWORD) -> None:
    page.goto("/accounts/login/")
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_from_sign_up_to_a_revoked_key(open_window, house):
    casting.model(house, "aion-v3")
    window = open_window()
    page: Page = window.page
    window.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    page.get_by_role("link", name="Create an account").click()
    page.get_by_label("E-mail address").fill("ada@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    page.get_by_role("link", name="Open the demo mailbox").click()
    page.locator("article a").first.click()
    expect(page.get_by_role("main")).to_contain_text("ada@example.com")
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("heading", name="Make your first call")).to_be_visible()

    page.get_by_role("main").get_by_role("link", name="create a key", exact=True).click()
    page.get_by_label("Name").fill("my laptop")
    page.get_by_role("button", name="Create key").click()
    secret = page.locator("#secret").inner_text()
    assert secret.startswith("ak-")
    page.locator(".secret").get_by_role("button", name="Copy").click()
    expect(page.locator(".secret").get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    words = shlex.split(page.locator("#text-curl").inner_text().replace("\\\n", " "))
    assert words[1] == page.evaluate("location.origin") + "/v1/chat/completions"
    assert f"Authorization: Bearer {secret}" in words
    page.get_by_role("tab", name="Python").click()
    expect(page.locator("#text-python")).to_contain_text(f'api_key="{secret}"')
    expect(page.locator("#text-curl")).to_be_hidden()

    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_role("row", name="my laptop")).to_contain_text("live")
    assert secret not in page.content()
    page.goto("/keys/")
    page.get_by_role("link", name="Revoke my laptop").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status").first).to_contain_text("my laptop is revoked")
    expect(page.get_by_role("row", name="my laptop")).to_contain_text("revoked")
    window.check()


def test_signing_in_out_and_being_wrong(open_window, cast):
    window = open_window(size="phone", dark=True)
    page: Page = window.page
    sign_in(page, cast.owner.email, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("not correct")
    sign_in(page, cast.owner.email)
    expect(page.get_by_role("heading", name="Acme")).to_be_visible()
    page.locator("summary").first.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status").first).to_contain_text("signed out")
    window.check()


def test_a_password_can_be_shown(open_window, house):
    page: Page = open_window().page
    page.goto("/accounts/login/")
    field = page.get_by_label("Password", exact=True)
    field.fill("secret")
    expect(field).to_have_attribute("type", "password")
    page.get_by_role("button", name="Show password").click()
    expect(field).to_have_attribute("type", "text")


def test_a_guest_is_invited_and_sees_what_their_role_allows(open_window, cast):
    window, visitor = open_window(), open_window(size="phone")
    page: Page = window.page
    sign_in(page, cast.owner.email)
    page.get_by_role("link", name="Members").click()
    page.get_by_label("E-mail address").fill("guest@example.com")
    page.locator("#id_role").select_option("billing")
    page.get_by_role("button", name="Send invitation").click()
    expect(page.get_by_role("row", name="guest@example.com")).to_contain_text("Billing")
    guest: Page = visitor.page
    guest.goto("/mailbox/")
    guest.locator("article a[href^=http]").first.click()
    guest.get_by_role("link", name="Create an account").click()
    guest.get_by_label("E-mail address").fill("guest@example.com")
    guest.get_by_label("Password", exact=True).fill(PASSWORD)
    guest.get_by_role("button", name="Create account").click()
    guest.get_by_role("link", name="Open the demo mailbox").click()
    guest.locator("article a[href^=http]").first.click()
    guest.get_by_role("button", name="Confirm").click()
    guest.get_by_role("button", name="Join").click()
    expect(guest.get_by_role("status").first).to_contain_text("Welcome to Acme")
    guest.goto(f"/{cast.organization.public_id}/keys/")
    expect(guest.get_by_role("link", name="Create a key")).to_have_count(0)
    guest.goto(f"/{cast.organization.public_id}/members/")
    expect(guest.get_by_text("Invite somebody")).to_have_count(0)
    visitor.check()
    page.reload()
    page.get_by_role("button", name="Remove guest@example.com").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    window.check()
    answer = guest.reload()
    assert answer is not None
    assert answer.status == 404


def test_two_step_sign_in_is_turned_on_and_used(open_window, cast, tmp_path):
    window = open_window()
    page: Page = window.page
    sign_in(page, cast.owner.email)
    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Turn on").click()
    page.get_by_label("Password", exact=True).fill(casting.PASSWORD)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    window.shoot("two-step-on")
    secret = page.locator(".secret code").inner_text()
    page.get_by_label("code").fill(authenticator.code_of(secret))
    page.get_by_role("button", name="Turn on").click()
    recovery = page.locator("pre").inner_text().split()
    assert len(recovery) == 10
    window.check()

    fresh = open_window(size="phone", dark=True)
    sign_in(fresh.page, cast.owner.email)
    expect(fresh.page.get_by_role("heading", name="One more step")).to_be_visible()
    fresh.page.get_by_label("Code").fill(authenticator.code_of(secret, periods_ago=1))
    fresh.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(fresh.page.get_by_role("heading", name="Acme")).to_be_visible()
    fresh.check()


@pytest.fixture
def busy(cast, redis_connection) -> Customer:
    """Ten calls, one cut by its client, a refused one of many letters, credit and a second key, so that every page has
    something to show."""
    key = issuing.issue(organization=cast.organization, name="production server", actor=cast.owner).key
    long = issuing.issue(organization=cast.organization, name="W" * 100, actor=cast.owner).key
    program = service_accounts.create(
        organization=cast.organization, name="nightly import", role=Role.DEVELOPER, actor=cast.owner
    )
    tests = issuing.issue(
        organization=cast.organization, name="ci", actor=cast.owner, mode=ApiKey.Mode.TEST, service_account=program
    )
    called(tests.key)
    customer = Customer(cast.brand, cast.organization, key, casting.model(cast.brand, "aion-v3"))
    ledger.grant(
        organization=cast.organization,
        amount_nanos=10**11,
        kind="paid",
        reason="Bank transfer",
        reference="transfer-1",
        actor="operator",
    )
    calls = [customer.event(end_reason="client_gone" if number == 0 else "stop") for number in range(10)]
    RefusalRecord.objects.create(
        call_id=call_ids.mint(int(time.time() * 1000), os.urandom(10)),
        at=timezone.now(),
        organization_id=cast.organization.pk,
        key_id=long.pk,
        key_hint=long.hint,
        model="W" * 120,
        status=404,
        reason="model_not_found",
    )
    settled.settle(redis_connection, *calls)
    draining.drain(journal.Journal(redis_connection, name="browser", notify=lambda _line: None))
    return customer


def test_a_pasted_request_id_is_explained(open_window, cast, busy):
    from billing.models import UsageEvent

    call_id = str(UsageEvent.objects.get(end_reason="client_gone").call_id)
    window = open_window()
    page: Page = window.page
    sign_in(page, cast.viewer.email)
    page.get_by_role("link", name="Requests").click()
    page.get_by_label("Request id").fill(call_id)
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("heading", name="A call of aion-v3")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text("Your client closed the connection")
    expect(page.get_by_role("row", name="Output")).to_contain_text("5")
    window.check()


def test_times_are_shown_in_the_readers_zone(chromium, live_server, cast, busy):
    context = chromium.new_context(base_url=live_server.url, timezone_id="Asia/Tokyo", locale="en-GB")
    page = context.new_page()
    sign_in(page, cast.owner.email)
    page.goto("/requests/")
    time = page.locator("time[data-to]").first
    utc = time.get_attribute("title") or ""
    assert utc.endswith("UTC")
    shown_hour, utc_hour = (int(re.findall(r"(\d\d):\d\d", text)[0]) for text in (time.inner_text(), utc))
    assert (shown_hour - utc_hour) % 24 == 9
    context.close()


def test_everything_works_without_scripts(chromium, live_server, cast):
    context = chromium.new_context(base_url=live_server.url, java_script_enabled=False)
    page = context.new_page()
    sign_in(page, cast.owner.email)
    page.goto("/keys/")
    page.get_by_role("link", name="Create a key").click()
    page.get_by_label("Name").fill("no scripts")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#secret")).to_be_visible()
    expect(page.locator("#text-curl")).to_be_visible()
    expect(page.locator("#text-python")).to_be_visible()
    context.close()


def test_the_check_of_accessibility_can_fail(open_window, house):
    window = open_window()
    window.page.goto("/accounts/login/")
    window.look("seen")
    window.page.evaluate(
        "document.styleSheets[0].insertRule('@media (prefers-color-scheme: dark) { label { color: #333 !important } }')"
    )
    with pytest.raises(AssertionError, match="color-contrast"):
        window.look("dark on dark")
    window.page.evaluate("document.querySelector('label').remove()")
    with pytest.raises(AssertionError, match="label"):
        window.check_accessibility()


def test_the_keyboard_reaches_the_content_first(open_window, cast):
    page: Page = open_window().page
    sign_in(page, cast.owner.email)
    page.goto("/usage/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_every_page_is_clean_and_fits(open_window, cast, busy, size):
    """On a desk by light and by dark, and to everybody; on a phone. Pictures go to SCREENSHOTS, where that is set."""
    from billing.models import UsageEvent
    from proxy.models import TestCall

    window = open_window(size=size)

    def look(name: str) -> None:
        if size == "desk":
            window.look(f"{name}-desk")
        else:
            window.check()
            window.shoot(f"{name}-phone-light")

    page: Page = window.page
    base = f"/{cast.organization.public_id}/"
    event = UsageEvent.objects.filter(end_reason="client_gone").first()
    assert event is not None
    paths = {
        "landing": "/",
        "sign-in": "/accounts/login/",
        "sign-up": "/accounts/signup/",
        "mailbox": "/mailbox/",
        **{name: base if name == "overview" else f"{base}{name}/" for name in SECTIONS},
        "key-new": f"{base}keys/new/",
        "key-edit": f"{base}keys/{busy.key.public_id}/edit/",
        "key-revoke": f"{base}keys/{busy.key.public_id}/revoke/",
        "key-rotate": f"{base}keys/{busy.key.public_id}/rotate/",
        "usage-in-parts": f"{base}usage/?days=7&measure=tokens",
        "request": f"{base}requests/?id={event.call_id}",
        "requests-of-tests": f"{base}requests/?show=test",
        "test-request": f"{base}requests/?id={TestCall.objects.get().call_id}",
        "sessions": "/accounts/sessions/",
        "two-step": "/accounts/2fa/",
        "password": "/accounts/password/change/",
        "address": "/accounts/email/",
    }
    for name, path in paths.items():
        if name == "overview":
            sign_in(page, cast.owner.email)
        answer = page.goto(path)
        assert answer is not None
        assert answer.ok, path
        look(name)
        if name == "usage-in-parts":  # the brand's day, as this browser's language spells it
            expect(page.locator("th time[data-day]").last).to_have_text(re.compile(r"^[A-Z][a-z]{2} \d+, 20\d\d$"))
    brands.change(brand=cast.brand, actor="test", terms_version="2026-11", terms_url="https://dialogix.example/terms")
    page.goto(base)
    expect(page.get_by_role("button", name="I accept these terms")).to_be_visible()
    look("terms")


def test_sign_ups_that_are_not_taken_are_told_why_and_until_when(open_window, house):
    house.sign_ups_per_address = 1
    house.save()
    window = open_window(size="phone")
    page = window.page

    def sign_up(email: str) -> None:
        page.goto("/accounts/signup/")
        page.get_by_label("E-mail address").fill(email)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Create account").click()

    sign_up("ada@mailinator.com")
    expect(page.get_by_text("mailinator.com gives mailboxes to be thrown away")).to_be_visible()
    window.check()
    sign_up("ada@example.com")
    expect(page.get_by_role("heading", name="Too many")).to_have_count(0)
    window.check()
    sign_up("bob@example.com")
    expect(page.get_by_role("heading", name="Too many sign-ups from your network")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Please wait \d+ (hour|minute)"))).to_be_visible()
