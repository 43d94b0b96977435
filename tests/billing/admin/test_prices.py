"""Prices are set, ended and withdrawn through the writer, and slips are asked about."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import prices
from billing.models import (
    Rate,
)
from tests.billing.admin.forms import act, noted, refused, said_on, saved

pytestmark = pytest.mark.django_db


def test_rate_form_sets_a_price_through_the_writer(browser, who):
    url = "/admin/billing/rate/add/"
    before = Rate.objects.get()
    given = {"model": who.model.pk, "input": "1.50", "output": "3", "cache_read": "0.15", "request_nanos": "0.01"}
    saved(browser, url, **given)
    rate = Rate.objects.latest("effective_from")
    assert (rate.input_picos, rate.output_picos, rate.cache_read_picos) == (1_500_000, 3_000_000, 150_000)
    assert (rate.request_nanos, rate.reasoning_picos) == (10_000_000, None)
    before.refresh_from_db()
    assert before.effective_until == rate.effective_from
    assert noted("price.set").after["input_picos"] == 1_500_000
    own = {"organization": who.organization.pk, "is_free": "on"}
    saved(browser, url, model=who.model.pk, **own)
    assert Rate.objects.get(organization=who.organization).is_free


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "__all__"),
        ({"input": "1", "output": "0.0000001"}, "output"),
        ({"input": "-1", "output": "1"}, "input"),
        ({"input": "0", "output": "0"}, "__all__"),
        ({"input": "1", "output": "1", "is_free": "on"}, "__all__"),
        ({"input": "1", "output": "1", "request_nanos": "cheap"}, "request_nanos"),
        ({"input": "1", "output": "1", "credits_per_request": "-1"}, "credits_per_request"),
    ],
)
def test_rate_form_says_what_is_wrong_at_its_field(browser, who, changes, field):
    assert field in refused(browser, "/admin/billing/rate/add/", model=who.model.pk, **changes)
    assert Rate.objects.count() == 1


def test_what_only_the_writer_can_refuse_is_said_and_nothing_is_saved(browser, who):
    begin = timezone.now() - timedelta(days=1)
    data = {"model": who.model.pk, "input": "1", "output": "1", "is_free": ""}
    data |= {"effective_from_0": f"{begin:%Y-%m-%d}", "effective_from_1": f"{begin:%H:%M:%S}"}
    page = browser.post("/admin/billing/rate/add/", data, follow=True)
    assert "cannot begin in the past" in said_on(page)[-1]
    assert Rate.objects.count() == 1


def test_prices_are_ended_and_withdrawn(browser, who):
    standing = Rate.objects.get()
    later = prices.set_price(
        model=who.model,
        effective_from=timezone.now() + timedelta(days=1),
        per_million={"input": "0.9", "output": "0.9"},
        actor="test",
    )
    said = act(browser, "rate", "withdraw", standing, later)
    assert any("has begun" in message for message in said)
    assert list(Rate.objects.all()) == [standing]
    act(browser, "rate", "end", standing)
    assert "none: calls are refused" in browser.get("/admin/billing/model/").content.decode()


def test_a_price_that_looks_like_a_slip_is_asked_about(browser, who):
    url = "/admin/billing/rate/add/"
    given = {"model": who.model.pk, "input": "2.00", "output": "0.4"}
    said = refused(browser, url, **given)
    assert "Input goes from 0.20 to 2.00: a factor of 10 or more." in said["__all__"][0]
    assert "confirmed" in refused(browser, url, **given, confirmed_reason="A new model")
    assert "confirmed" in refused(browser, url, **given, confirmed="on")
    saved(browser, url, **given, confirmed="on", confirmed_reason="A new model")
    assert noted("price.set").after["confirmed"] == "A new model"
