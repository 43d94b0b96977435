"""Requests as they come, in a real browser: without a reload, paused by hand, and by whoever looks elsewhere."""

# ruff: noqa: F811 - the imported fixtures

import os
import time
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, expect

from billing import call_ids, journal
from proxy.models import RefusalRecord
from tests.billing import draining, settled
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import _demo, busy, chromium, open_window, sign_in  # noqa: F401 - fixtures

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
HIDE = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s});"
TELL = "document.dispatchEvent(new Event('visibilitychange'))"


def refuse(organization_id: int, **fields) -> RefusalRecord:
    values = {"status": 429, "reason": "insufficient_quota", "limit": "balance", "model": "aion-v3"}
    return RefusalRecord.objects.create(
        call_id=call_ids.mint(int(time.time() * 1000), os.urandom(10)),
        at=datetime.now(UTC),
        organization_id=organization_id,
        key_hint="ak-…Ab3d",
        **(values | fields),
    )


def test_requests_appear_by_themselves_until_they_are_paused(open_window, cast, busy, redis_connection, tmp_path):
    window: Window = open_window()
    page: Page = window.page
    sign_in(page, cast.viewer.email)
    page.get_by_role("link", name="Requests").click()
    rows = page.locator("tr[data-row]")
    expect(rows).to_have_count(11)
    page.evaluate("window.unreloaded = true")
    refuse(cast.organization.pk)
    expect(rows).to_have_count(12)
    expect(rows.first).to_contain_text("429 insufficient quota")
    settled.settle(redis_connection, busy.event())
    draining.drain(journal.Journal(redis_connection, name="browser", notify=lambda _line: None))
    expect(rows).to_have_count(13)
    assert page.evaluate("window.unreloaded")
    window.check()
    window.check_accessibility()
    window.shoot("requests-live")

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Live").click()
    page.evaluate("document.getElementById('newest').dataset.liveMs = 100")
    page.wait_for_timeout(2_300)  # what was on its way
    asked.clear()
    refuse(cast.organization.pk)
    page.wait_for_timeout(400)
    assert not asked
    page.get_by_role("button", name="Live").click()
    expect(rows).to_have_count(14)
    page.evaluate(HIDE % "true" + TELL)
    page.wait_for_timeout(400)
    asked.clear()
    page.wait_for_timeout(400)
    assert not asked
    refuse(cast.organization.pk)
    page.evaluate(HIDE % "false" + TELL)
    expect(rows).to_have_count(15, timeout=1_000)
    page.goto(f"/{cast.organization.public_id}/requests/?user=ann")
    expect(page.get_by_role("button", name="Live")).to_have_count(0)
