"""All pages of the room open, money and usage are read-only, nothing is deleted, no secret shows."""

from __future__ import annotations

import pytest
from django.contrib import admin

from billing.admin import pages
from billing.models import (
    Engine,
    Posting,
)
from billing.webhook_models import WebhookEndpoint
from tests import cast
from tests.billing.admin.house import HUSH, SECRET

pytestmark = pytest.mark.django_db


admin.autodiscover()
ROOM = {model._meta.model_name: model for model in admin.site._registry if model._meta.app_label == "billing"}
INLINE = {"enginecost", "modelengine", "promoclaimant", "tierlimit", "postingline", "ledgersealpart"}
MACHINES = [
    *(
        "ledgeraccount",
        "grantend",
        "walletmark",
        "usageevent",
        "usageday",
        "usagequarter",
        "counterchange",
        "tierchange",
    ),
    *("journalshard", "journalwriter", "workerlease", "deadletter", "notice"),
    *("enginefinding", "enginereading", "upgradenight", "webhookendpoint", "webhookdelivery"),
    *("subscription", "subscriptionprice", "subscriptioninvoice", "invoicereversal"),
]
"""What no form writes."""


def first(name):
    row = ROOM[name]._default_manager.first()
    assert row is not None, name
    return row


def test_every_table_of_the_room_has_its_page():
    from django.apps import apps

    tables = {model._meta.model_name for model in apps.get_app_config("billing").get_models()}
    assert tables == ROOM.keys() | INLINE


@pytest.mark.parametrize("name", ROOM)
def test_every_list_and_every_row_opens_and_shows_no_secret(browser, name):
    row = first(name)
    for path in ("", "?q=org_nobody", "?q=a", f"{row.pk}/change/"):
        page = browser.get(f"/admin/billing/{name}/{path}")
        assert page.status_code == 200, path
        shown = page.content.decode()
        assert SECRET not in shown
        assert HUSH not in shown
        assert bytes(Engine.objects.get().api_key_sealed or b"").decode() not in shown
        assert WebhookEndpoint.objects.get().secret_sealed not in shown


@pytest.mark.parametrize("name", MACHINES)
def test_what_machines_write_is_read_only(browser, name):
    row, rows = first(name), ROOM[name]._default_manager.count()
    for url in (f"{row.pk}/change/", "add/", f"{row.pk}/delete/"):
        assert browser.post(f"/admin/billing/{name}/{url}", {"post": "yes"}).status_code == 403, url
    browser.post(f"/admin/billing/{name}/", {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"})
    assert ROOM[name]._default_manager.count() == rows


@pytest.mark.parametrize("name", ["engine", "model", "tier", "tierassignment", "rate", "grant"])
def test_what_history_names_is_never_deleted(browser, name):
    row = first(name)
    assert browser.post(f"/admin/billing/{name}/{row.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("name", ["rate", "grant", "posting"])
def test_a_price_and_a_grant_are_made_but_not_changed(browser, name):
    row = first(name)
    assert browser.post(f"/admin/billing/{name}/{row.pk}/change/", {"is_free": "on"}).status_code == 403


def test_operators_without_rights_see_nothing(who, settings):
    settings.DEFAULT_BRAND = who.brand.slug
    browser = cast.browser_of(cast.person("clerk", is_staff=True))
    for name in ROOM:
        assert browser.get(f"/admin/billing/{name}/").status_code == 403
    assert browser.post("/admin/billing/grant/add/", {}).status_code == 403


def test_a_long_list_is_not_counted_to_its_end(browser, monkeypatch):
    monkeypatch.setattr(pages, "COUNTED_MAX", 1)
    assert pages.Bounded(Posting.objects.order_by("id"), 50).count == 1
    assert Posting.objects.count() > 1
    assert browser.get("/admin/billing/posting/").status_code == 200
