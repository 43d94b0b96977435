"""A developer's first hour in a real browser: the real gateway behind the pages, the demo engine behind that."""

# ruff: noqa: F811 - the imported fixtures

import gc
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page, expect

from billing.journal import Journal
from billing.models import UsageEvent
from keys.models import ApiKey, Brand, Role, User
from portal.asgi import application
from tests import cast as casting
from tests.billing.draining import drain
from tests.inference import Inference, demo_engine
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import PASSWORD, chromium, sign_in  # noqa: F401 - fixtures
from tests.proxy.shop import Shop, serve_app

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    # Files are read in one piece, as portal.asgi says; where a browser hangs up, the collector closes them.
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NANOS = 10**9


class House(NamedTuple):
    """A shop, and where its pages and its gateway are."""

    shop: Shop
    engine: Inference
    url: str

    def book(self) -> None:
        """What settled since."""
        drain(Journal(self.shop.store, name="tests", notify=lambda _line: None))


@pytest.fixture(scope="module")
def engine() -> Iterator[Inference]:
    with demo_engine() as running:
        yield running


@pytest.fixture
def house(engine, redis_connection, settings, tmp_path) -> Iterator[House]:
    settings.DEMO, settings.VAR_DIR = True, tmp_path
    settings.EMAIL_BACKEND = "portal.mailbox.EmailBackend"
    settings.DEFAULT_BRAND = "dialogix"
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    engine.engine.control.update({"loading": False, "tokens_per_second": 0, "reports_cached": True, "rules": []})
    shop = Shop(engine, redis_connection)
    Brand.objects.filter(pk=shop.brand.pk).update(sign_up_grant_nanos=5 * NANOS, default_model="aion-v3")
    with serve_app(application) as port:
        yield House(shop, engine, f"http://127.0.0.1:{port}")
    gc.collect()  # here, where its warnings are known


@pytest.fixture
def window(chromium, house) -> Iterator[Window]:
    opened = Window(chromium, house.url)
    yield opened
    opened.context.close()


def pictures(tmp_path) -> Path:
    return Path(os.environ.get("SCREENSHOTS", tmp_path))


def in_a_shell(command: str) -> dict[str, Any]:
    """Exactly what a page shows, as somebody would paste it."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_from_sign_up_to_a_call_that_appears_and_a_key_that_ends(house, window, tmp_path):
    page: Page = window.page
    page.goto("/accounts/signup/")
    page.get_by_label("E-mail address").fill("ada@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    page.get_by_role("link", name="Open the demo mailbox").click()
    page.locator("article a").first.click()
    page.get_by_role("button", name="Confirm").click()
    steps = page.locator(".steps-list li")
    expect(page.locator(".steps-list .done")).to_have_count(2)  # the address is confirmed, and credit was given
    window.check_accessibility()
    window.shoot("first-steps")
    steps.get_by_role("link", name="Create a key").click()
    page.get_by_label("Name").fill("my laptop")
    page.get_by_role("button", name="Create key").click()
    command = page.locator("#text-curl").inner_text()
    expect(page.locator(".steps-list .done")).to_have_count(3)

    answer = in_a_shell(command)
    assert answer.get("choices"), answer
    house.book()
    expect(page.locator(".steps-list .done")).to_have_count(4)  # by itself
    page.get_by_role("link", name="Requests", exact=True).click()
    rows = page.locator("tr[data-row]")
    expect(rows).to_have_count(1)
    in_a_shell(command)
    house.book()
    expect(rows).to_have_count(2)  # by itself
    expect(rows.first).to_contain_text("aion-v3")

    page.get_by_role("link", name="API keys", exact=True).click()
    page.get_by_role("link", name="Revoke my laptop").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("row", name="my laptop")).to_contain_text("revoked")
    assert in_a_shell(command)["error"]["code"] == "invalid_api_key"
    assert UsageEvent.objects.count() == 2
    window.check()


@pytest.fixture
def developer(house) -> User:
    person = casting.person("developer")
    casting.join(person, house.shop.organization, Role.DEVELOPER)
    return person


def say(page: Page, message: str) -> None:
    page.get_by_label("Message").fill(message)
    page.get_by_label("Message").press("Enter")


def test_a_playground_answer_streams_is_charged_and_can_be_stopped(house, window, developer, tmp_path):
    page: Page = window.page
    sign_in(page, developer.email)
    page.get_by_role("link", name="Playground").click()
    window.check_accessibility()
    page.get_by_label("System prompt").fill('Be "brief", it\'s late.')
    page.get_by_label("Max tokens").fill("200")
    say(page, "Tell me of the sea.")
    foot = page.locator(".turn-assistant .turn-foot").last
    expect(foot).to_contain_text("tokens")
    expect(foot).to_contain_text("$0.0")
    house.book()
    event = UsageEvent.objects.get()
    asked = house.engine.entry(str(event.call_id))
    assert asked["output_tokens"] == event.output_tokens
    shown = foot.locator("span").all_inner_texts()
    assert f"{event.output_tokens} tokens" in shown[0]
    assert f"{event.cost_nanos / NANOS:.9f}".rstrip("0") == shown[1].removeprefix("$")
    key = ApiKey.objects.get(pk=event.key_id)
    assert (key.purpose, key.scopes, key.created_by) == (ApiKey.Purpose.PLAYGROUND, ["chat"], developer)
    window.shoot("playground")

    house.engine.engine.control.update({"tokens_per_second": 20})
    say(page, "And more of it.")
    text = page.locator(".turn-assistant .turn-text").last
    expect(text).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    foot = page.locator(".turn-assistant .turn-foot").last
    expect(foot).to_contain_text("Stopped")
    page.wait_for_timeout(500)
    house.book()
    expect(foot).to_contain_text("$0.0")
    stopped = UsageEvent.objects.get(end_reason="client_gone")
    assert 0 < stopped.output_tokens < 200
    assert stopped.cost_nanos > 0

    page.get_by_label("Model").select_option("aion-broken")
    say(page, "Hello?")
    expect(page.get_by_role("alert")).to_contain_text("The model's engine did not answer")
    page.get_by_role("button", name="Clear").click()
    command = page.locator("#text-curl").inner_text().replace("aion-broken", "aion-v3")
    house.engine.engine.control.update({"tokens_per_second": 0})
    answer = in_a_shell(command.replace("YOUR_API_KEY", house.shop.secret))
    assert answer["choices"][0]["message"]["content"]
    assert "it'\\''s late" in command
    page.get_by_role("link", name="API keys", exact=True).click()
    expect(page.get_by_role("heading", name="API keys")).to_be_visible()
    expect(page.get_by_role("row", name="Playground")).to_have_count(0)
    deadline = time.monotonic() + 10
    while key.revoked_at is None:  # on leaving; the browser tells of that beside the next page
        assert time.monotonic() < deadline
        time.sleep(0.05)
        key.refresh_from_db()
    loud = [line for line in window.said if "502" not in line]
    window.said[:] = loud  # the browser tells of a failed answer, which this test asked for
    window.check()


def test_no_balance_is_told_in_words(house, window):
    person, poor = casting.person("poor"), house.shop.new_organization("poor")
    casting.join(person, poor, Role.OWNER)
    page: Page = window.page
    sign_in(page, person.email)
    page.goto("/playground/")
    say(page, "Hello?")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("There is no balance or quota left")
    expect(alert.get_by_role("link", name="Balance")).to_be_visible()
    expect(page.get_by_label("Message")).to_have_value("Hello?")
