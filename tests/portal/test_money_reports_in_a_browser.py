"""The operators' reports in a real browser: on a desk and a phone, in the light and the dark."""

# ruff: noqa: F811 - the imported fixture

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from billing.models import Grant
from tests import cast as casting
from tests.billing.earning import book, call, costs, engine, given
from tests.billing.settled import customer
from tests.portal.browsing import Window
from tests.portal.test_in_a_browser import chromium, open_window, sign_in  # noqa: F401 - fixtures

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
UNIT = 10**9


@pytest.fixture
def staff(settings, redis_connection):
    """Three weeks of two customers on two engines, one of which earns less than it costs."""
    who = customer(casting.brand(name="Axione", currency="CHF"), name="Acme Robotics")
    other = customer(who.brand, name="Zürich Labs")
    casting.brand(name="Dialogix")
    settings.DEFAULT_BRAND = who.brand.slug
    today = datetime.now(UTC).date()
    begin = datetime(today.year, today.month, today.day, tzinfo=UTC) - timedelta(days=21)
    first, second = engine("h100-zurich-1", brand=who.brand), engine("a100-spare", brand=who.brand)
    costs(first, 249 * UNIT // 100, begin)
    costs(second, 110 * UNIT // 100, begin + timedelta(days=14))
    given(who.organization, Grant.Kind.PAID, 3_000 * UNIT)
    given(other.organization, Grant.Kind.PAID, 500 * UNIT)
    given(other.organization, Grant.Kind.PROMOTIONAL, 25 * UNIT)
    events = []
    for back in range(1, 21):
        day, busy = today - timedelta(days=back), {"output_tokens": 700_000 + back * 10_000, "engine_id": first.pk}
        events.append(call(who, day, (60 + back * 3 % 17) * UNIT + 123_456_789, duration_ms=90_000, **busy))
        if back % 3:
            events.append(call(other, day, 4 * UNIT, engine_id=second.pk, output_tokens=90_000))
    book(redis_connection, *events)
    return casting.person("staff", is_staff=True, is_superuser=True)


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_reports_are_readable_everywhere(open_window, staff, size):
    """Pictures go to SCREENSHOTS, where that is set."""
    window: Window = open_window(size=size)
    page = window.page

    def look(name: str) -> None:
        for scheme in window.by_light_and_by_dark():
            window.check()
            window.shoot(f"{name}-{size}-{scheme}")

    sign_in(page, staff.email)
    page.goto("/admin/")
    page.get_by_role("link", name="Reports").click()
    expect(page.get_by_text("Engines cost").first).to_be_visible()
    stops = [("day", None), ("model", "Model"), ("engine", "Engine"), ("organization", "Organization")]
    for name, link in stops:
        if link:
            page.get_by_role("link", name=link, exact=True).click()
        look(f"report-{name}")
    expect(page.get_by_role("row", name="Zürich Labs")).to_be_visible()
    for tab in ("Engines", "Deferred revenue"):
        page.get_by_role("navigation", name="Reports").get_by_role("link", name=tab).click()
        expect(page.get_by_role("heading", name=tab)).to_be_visible()
        look(f"report-of-{tab.split()[0].lower()}")
