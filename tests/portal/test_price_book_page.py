"""A brand's prices side by side: tried on the last days first, then set by one button, all or nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import prices
from billing.models import Rate, UsageDay
from keys import staff
from keys.models import AuditEvent
from tests import cast as casting

pytestmark = pytest.mark.django_db
PAGE = "/admin/price-book/"


@pytest.fixture
def shop(cast):
    """Two models with prices, one without; a customer who used the first."""
    for slug in ("m-1", "m-2", "m-3"):
        model = casting.model(cast.brand, slug)
        if slug != "m-3":
            prices.set_price(
                model=model, actor="test", per_million={"input": "0.20", "output": "0.40"}, credits_per_request=2
            )
    UsageDay.objects.create(
        brand_id=cast.brand.pk,
        organization_id=cast.organization.pk,
        key_id=1,
        model_id=Rate.objects.get(model__slug="m-1").model_id,
        end_reason="stop",
        day=timezone.now().date() - timedelta(days=1),
        requests=1_000,
        uncached_input_tokens=10_000_000,
        list_cost_nanos=2 * 10**9,
        cost_nanos=2 * 10**9,
    )
    return cast


@pytest.fixture
def chief(shop):
    return casting.browser_of(casting.person("chief", is_staff=True, is_superuser=True))


def filled(page: Any, act: str, **changes: str) -> dict[str, str]:
    """The form as it was, but for what is named: model__field="…"."""
    sent = {"act": act}
    for row, _ in page.context["rows"]:
        for field in row:
            value = changes.get(f"{row.model.slug}__{field.name}".replace("-", ""), field.value())
            if value:
                sent[field.html_name] = value
    return sent | {name: value for name, value in changes.items() if "__" not in name}


def previewed(browser: Any, sent: dict[str, str]) -> Any:
    """What comes of sending it, once it was looked at."""
    tried = browser.post(PAGE, {**sent, "act": "preview"}).context or {}
    return browser.post(PAGE, {**sent, "previewed": tried.get("previewed") or ""})


def test_what_is_changed_is_tried_and_then_set(chief, shop):
    page = chief.get(PAGE)
    assert page.content.decode().count("no price: calls are refused") == 1
    sent = filled(page, "preview", m1__input="0.30", m3__input="1", m3__output="2")
    tried = chief.post(PAGE, sent)
    text = tried.content.decode()
    assert "$2.00 was paid; $3.00 would have been" in text
    assert [model.slug for model, _, _ in tried.context["changes"]] == ["m-1", "m-3"]
    assert shop.organization.name in text
    assert Rate.objects.count() == 2, "on paper only"
    assert chief.post(PAGE, {**sent, "act": "set", "previewed": tried.context["previewed"]}).status_code == 302
    first, third = (Rate.objects.filter(model__slug=slug).latest("pk") for slug in ("m-1", "m-3"))
    assert (first.input_picos, first.output_picos, first.credits_per_request) == (300_000, 400_000, 2)
    assert third.output_picos == 2_000_000
    assert Rate.objects.filter(model__slug="m-2").count() == 1, "what is as it was is not set again"
    assert AuditEvent.objects.filter(action="price.set", address="127.0.0.1").count() == 2
    again = chief.post(PAGE, filled(chief.get(PAGE), "set"))
    assert "nothing is changed" in again.content.decode()


def test_only_what_was_previewed_is_set(chief, shop):
    tried = chief.post(PAGE, filled(chief.get(PAGE), "preview", m1__input="0.30"))
    mark = {"previewed": tried.context["previewed"]}
    slipped = chief.post(PAGE, filled(tried, "set", m2__input="0.02") | mark)
    assert "other than what was previewed" in slipped.content.decode()
    assert [model.slug for model, _, _ in slipped.context["changes"]] == ["m-1", "m-2"]
    later = f"{timezone.now() + timedelta(days=3):%Y-%m-%d}"
    assert chief.post(PAGE, filled(tried, "set") | mark | {"begins_0": later}).status_code == 200
    assert Rate.objects.count() == 2
    assert chief.post(PAGE, filled(tried, "set") | mark).status_code == 302


def test_who_saves_second_takes_nothing_back(chief, shop):
    """The page sends every price: one that somebody else set meanwhile is not the old one again."""
    opened = chief.get(PAGE)
    previewed(chief, filled(chief.get(PAGE), "set", m1__input="0.25"))
    page = chief.post(PAGE, filled(opened, "set", m2__input="0.22"))
    assert "Nothing is set" in page.content.decode()
    assert [row.model.slug for row in page.context["overtaken"]] == ["m-1"]
    assert [model.slug for model, _, _ in page.context["changes"]] == ["m-2"], "and looked at again"
    assert Rate.objects.count() == 3
    assert previewed(chief, filled(page, "set")).status_code == 302
    now = prices.in_force(Rate.objects.filter(organization=None))
    assert {rate.model.slug: rate.input_picos for rate in now} == {"m-1": 250_000, "m-2": 220_000}


def test_a_change_to_come_is_shown_and_a_slip_wants_a_reason(chief, shop):
    later = timezone.now() + timedelta(days=3)
    begins = {"begins_0": f"{later:%Y-%m-%d}", "begins_1": f"{later:%H:%M}"}
    sent = filled(chief.get(PAGE), "set", m1__input="3.00", m2__input="0.21") | begins
    page = previewed(chief, sent)
    assert "factor of 10" in page.content.decode()
    assert "reason" in page.context["begin"].errors
    assert Rate.objects.count() == 2, "all or nothing"
    previewed(chief, sent | {"reason": "A new engine"})
    assert Rate.objects.filter(effective_from__gt=timezone.now()).count() == 2
    page = chief.get(PAGE).content.decode()
    assert f"{later:%Y-%m-%d %H:%M} UTC" in page
    by_day = filled(chief.get(PAGE), "set", m2__input="0.23") | begins | {"begins_1": ""}
    assert previewed(chief, by_day).status_code == 302
    assert f"{later:%Y-%m-%d} 00:00 UTC" in chief.get(PAGE).content.decode(), "a day is its first minute"
    assert "input 3.00" in page


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"m1__input": "x"}, "plain decimal"),
        ({"m1__request": "x"}, "plain decimal"),
        ({"m3__input": "1"}, "price of input and of output"),
        ({"m1__free": "on"}, "A free model has no price"),
        ({"begins_0": "2020-01-01", "begins_1": "00:00", "m1__input": "0.3"}, "cannot begin in the past"),
    ],
)
def test_what_is_wrong_stands_at_its_row_and_nothing_is_set(chief, shop, changes, says):
    assert says in previewed(chief, filled(chief.get(PAGE), "set", **changes)).content.decode()
    assert Rate.objects.count() == 2


def test_a_brands_staff_see_their_book_and_managers_set_it(shop):
    other = casting.model(casting.brand(), "theirs")
    for role in ("support", "manager"):
        person = casting.person(role)
        staff.appoint(user=person, brand=shop.brand, role=role, actor="test")
        browser = casting.browser_of(person)
        page = browser.get(PAGE, {"brand": other.brand.slug})
        assert "theirs" not in page.content.decode()
        assert ("Preview on the last" in page.content.decode()) == (role == "manager")
        done = previewed(browser, filled(page, "set", m1__input="0.30"))
        assert done.status_code == (302 if role == "manager" else 403)
