"""Engines: changed through the writer, secrets kept; a finding about their counters is resolved by hand."""

from __future__ import annotations

import pytest

from billing import catalogue
from billing.models import (
    Engine,
    EngineFinding,
    Model,
    TierLimit,
)
from keys import sealing
from tests.billing.admin.forms import act, fields_of, noted, refused, saved
from tests.billing.admin.house import HUSH, SECRET

pytestmark = pytest.mark.django_db


def test_engine_form_changes_through_the_writer_and_keeps_what_is_hidden(browser, who):
    engine = Engine.objects.get()
    url = f"/admin/billing/engine/{engine.pk}/change/"
    saved(browser, url, weight=7, cost_per_hour_nanos="2.49")
    engine.refresh_from_db()
    assert (engine.weight, engine.cost_per_hour_nanos, engine.headers) == (7, 2_490_000_000, {"X-Team": HUSH})
    assert sealing.open_text(bytes(engine.api_key_sealed or b"").decode()) == SECRET
    assert noted("engine.changed").after == {"weight": 7, "cost_per_hour_nanos": 2_490_000_000}
    assert noted("engine.changed").address == "127.0.0.1"
    saved(browser, url, headers='{"X-Team": "•••", "X-More": "1"}', api_key="another")
    engine.refresh_from_db()
    assert engine.headers == {"X-Team": HUSH, "X-More": "1"}
    assert sealing.open_text(bytes(engine.api_key_sealed or b"").decode()) == "another"
    saved(browser, url, remove_api_key="on")
    engine.refresh_from_db()
    assert engine.api_key_sealed is None
    assert catalogue.build(who.brand.id).engines[0].weight == 7


def test_an_old_page_takes_nothing_back(browser):
    """It sends every field: a drained engine, a limit set elsewhere would be as they were when it was opened."""
    engine, limit = Engine.objects.get(), TierLimit.objects.earliest("pk")
    url, of_tier = f"/admin/billing/engine/{engine.pk}/change/", f"/admin/billing/tier/{limit.tier_id}/change/"
    opened, opened_tier = fields_of(browser.get(url)), fields_of(browser.get(of_tier))
    stood = limit.amount
    act(browser, "engine", "drain", engine)
    TierLimit.objects.filter(pk=limit.pk).update(amount=stood + 1)
    for page, sent, named in ((url, {**opened, "weight": 7}, "state"), (of_tier, opened_tier, "tier limits")):
        reply = browser.post(page, sent, follow=True)
        assert f"Not saved. Since you opened this page somebody else changed: {named}." in reply.content.decode()
    engine.refresh_from_db()
    limit.refresh_from_db()
    assert (engine.state, engine.weight) == ("draining", opened["weight"])
    assert limit.amount == stood + 1
    wrong = browser.post(url, {**opened, "weight": "x", "_as_seen": fields_of(browser.get(url))["_as_seen"]})
    act(browser, "engine", "bring_live", engine)
    again = {**fields_of(wrong), "weight": 7}
    assert "Not saved" in browser.post(url, again, follow=True).content.decode(), "a page shown again is as old"
    saved(browser, url, weight=7)


def test_engine_form_registers(browser):
    url = "/admin/billing/engine/add/"
    saved(browser, url, name="new", kind="llamacpp", base_url="http://new:1/v1", api_key="k", headers="{}")
    engine = Engine.objects.get(name="new")
    assert sealing.open_text(bytes(engine.api_key_sealed or b"").decode()) == "k"
    assert noted("engine.registered").subject == "new"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_url": "ftp://x"}, "base_url"),
        ({"headers": '{"Host": "x"}'}, "headers"),
        ({"headers": "[]"}, "headers"),
        ({"headers": "{"}, "headers"),
        ({"capabilities": '{"tokenize": 7}'}, "capabilities"),
        ({"capabilities": "[1]"}, "capabilities"),
        ({"cost_per_hour_nanos": "a lot"}, "cost_per_hour_nanos"),
        ({"max_in_flight": "0"}, "__all__"),
        ({"name": "two words"}, "name"),
    ],
)
def test_engine_form_says_what_is_wrong_at_its_field(browser, changes, field):
    assert field in refused(browser, f"/admin/billing/engine/{Engine.objects.get().pk}/change/", **changes)


def test_actions_on_engines_and_models(browser, who):
    engine = Engine.objects.get()
    for action, state in (("drain", "draining"), ("take_down", "down"), ("bring_live", "live")):
        act(browser, "engine", action, engine)
        assert catalogue.build(who.brand.id).engines[0].state == state
    for action, state in (("hold_back", "maintenance"), ("retire", "retired"), ("bring_live", "live")):
        act(browser, "model", action, who.model)
        assert Model.objects.get(pk=who.model.pk).state == state


def test_a_finding_about_an_engine_is_resolved_by_hand(browser):
    finding = EngineFinding.objects.get()
    browser.post("/admin/billing/enginefinding/", {"action": "resolve", "_selected_action": [finding.pk]})
    finding.refresh_from_db()
    assert finding.resolved_at is not None
