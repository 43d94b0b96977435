"""Webhooks in a real browser: added, the secret shown, a test sent, a failure read in the log and sent again."""

# ruff: noqa: F811 - the imported fixture

import ipaddress

import pytest
from playwright.sync_api import expect

from billing import webhook_deliveries
from billing.webhook_models import WebhookEndpoint
from keys import issuing
from tests.billing.receiving import receiver
from tests.portal.test_in_a_browser import chromium, open_window, sign_in  # noqa: F401 - fixtures

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.mark.parametrize(("size", "dark"), [("desk", False), ("phone", True)])
def test_an_endpoint_from_its_secret_to_its_log(open_window, cast, settings, tmp_path, size, dark):
    """Pictures go to SCREENSHOTS, where that is set."""
    settings.WEBHOOK_NETWORKS, settings.WEBHOOK_HTTP = [ipaddress.ip_network("127.0.0.0/8")], True
    window = open_window(size=size, dark=dark)
    page = window.page

    def look(name: str) -> None:
        window.check()
        window.check_accessibility()
        window.shoot(f"webhooks-{name}-{size}")

    sign_in(page, cast.owner.email)
    with receiver() as there:
        page.goto(f"/{cast.organization.public_id}/webhooks/")
        look("none")
        page.get_by_role("link", name="Add endpoint").click()
        page.get_by_label("Address").fill("https://192.168.1.1/hooks")
        page.get_by_role("button", name="Add endpoint").click()
        expect(page.get_by_text("That address is of a private network")).to_be_visible()
        look("refused")
        page.get_by_label("Address").fill(there.url)
        page.get_by_role("button", name="Add endpoint").click()
        expect(page.get_by_text("whsec_")).to_be_visible()
        look("secret")
        page.get_by_role("link", name="I have copied it").click()
        page.get_by_role("button", name="Send a test").click()
        webhook_deliveries.send_due()
        issued = issuing.issue(organization=cast.organization, name="server", actor=cast.owner)
        issuing.revoke(key=issued.key, actor=cast.owner)
        there.answers.append((500, {}, b"Internal Server Error: the database is away"))
        webhook_deliveries.send_due()
        page.reload()
        page.get_by_text("Body").first.click()
        page.get_by_text("Text", exact=True).first.click()
        expect(page.get_by_text("the database is away")).to_be_visible()
        look("log")
        page.get_by_role("button", name="Send evt_").first.click()
        expect(page.get_by_text("is on its way again")).to_be_visible()
        webhook_deliveries.send_due()
        page.goto(f"/{cast.organization.public_id}/webhooks/")
        look("list")
        page.goto("/docs/webhooks/")
        look("docs")
    assert len(there.requests) == 3
    page.goto(f"/{cast.organization.public_id}/webhooks/{WebhookEndpoint.objects.get().public_id}/rotate/")
    look("rotate")
