"""The operator's pages: all open, money and usage are read-only, decisions go through the writers, no secret shows."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import catalogue, engine_counters, engines, ladder, ledger, prices
from billing.admin import pages
from billing.journal import Journal, stream_of
from billing.ladder_models import FirstAccount
from billing.models import (
    CounterChange,
    DeadLetter,
    Engine,
    Grant,
    GrantEnd,
    LedgerSeal,
    LimitOverride,
    Model,
    ModelEngine,
    Notice,
    Posting,
    PromoClaim,
    PromoCode,
    Rate,
    Tier,
    TierAssignment,
    TierChange,
    TierLimit,
    UpgradeNight,
    UsageEvent,
    WalletMark,
    WorkerLease,
)
from billing.payment_models import AutoTopUp, Reversal, StripeAccount, StripeCustomer, StripeEvent, TopUp
from billing.telling_models import AlertPreference, LimitAlert, NoticesSeen
from billing.wallet_models import PromoClaimant
from billing.webhook_models import WebhookDelivery, WebhookEndpoint
from keys import sealing
from keys.connections import redis_client
from keys.models import AuditEvent
from tests import cast
from tests.billing import plans
from tests.billing.draining import drain
from tests.billing.settled import Customer, customer, entry, settle

pytestmark = pytest.mark.django_db

RULE = '{"all": [{"fact": "active_days", "days": 2, "within": 7}], "cool_down_days": 3}'


def limit(number: int, **fields: str) -> dict[str, str | int]:
    """A further row of a tier's limits, as the form sends it."""
    given = {"scope": "organization", **fields}
    return {"limits-TOTAL_FORMS": number + 1} | {f"limits-{number}-{name}": value for name, value in given.items()}


SECRET, HUSH = "engine-key-12345", "header-value-12345"
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


def count_apart(now: datetime) -> None:
    """The engine counts an hour's tokens that nobody metered."""
    for tokens, at in ((0, now - timedelta(hours=2)), (9_000, now - timedelta(hours=1))):
        engine_counters.keep({"http://gpu": engine_counters.Reading(tokens, 0, True, 0, None)}, at)
    assert len(engine_counters.compare(redis_client(), now)) == 1


def pay_and_tell(who: Customer) -> None:
    organization = who.organization
    account = StripeAccount.objects.create(
        brand=who.brand, stripe_id="acct_1", livemode=False, secret_key_sealed=sealing.seal_text(SECRET)
    )
    StripeCustomer.objects.create(account=account, organization=organization)
    paid = TopUp.objects.create(account=account, organization=organization, amount_nanos=1, currency="USD", kind="auto")
    Reversal.objects.create(top_up=paid, kind="refund", units=1)
    AutoTopUp.objects.create(organization=organization, threshold_nanos=1, amount_nanos=1, monthly_cap_nanos=1)
    StripeEvent.objects.create(
        account=account, event_id="evt_1", kind="x", payload={}, source="webhook", happened_at=timezone.now()
    )
    plans.rows(account, organization, Tier.objects.get())
    AlertPreference.objects.create(organization=organization)
    LimitAlert.objects.create(
        organization=organization,
        limit="organization.tokens.day",
        scope="o",
        window_id="d",
        amount=1,
        percent=1,
        used=1,
    )
    NoticesSeen.objects.create(organization=organization, user=cast.person(), last_notice_id=1)
    hook = WebhookEndpoint.objects.create(
        organization=organization, url="https://x.example/", events=[], secret_sealed=sealing.seal_text(SECRET)
    )
    WebhookDelivery.objects.create(endpoint=hook, event_id="evt_1", event="key.revoked", body="{}")
    FirstAccount.objects.create(brand=who.brand, mailbox="a@example.com", organization=organization)


@pytest.fixture
def who(redis_connection) -> Customer:
    """A customer in a house where every table of the room has a row."""
    who = customer()
    engine = engines.register(
        name="gpu", kind="vllm", base_url="http://gpu/v1", api_key=SECRET, headers={"X-Team": HUSH}, actor="test"
    )
    engines.set_route(model=who.model, engine=engine, name_there="there", actor="test")
    prices.set_price(model=who.model, per_million={"input": "0.2", "output": "0.4"}, actor="test")
    tier = Tier(brand=who.brand, rank=1, slug="basic", name="Basic", is_default=True)
    ladder.save_tier(tier, actor="test")
    ladder.save_limit(TierLimit(tier=tier, unit="nanos", window="month", amount=5 * 10**10), actor="test")
    ladder.assign(organization=who.organization, tier=tier, reason="test", actor="test")
    ledger.grant(
        organization=who.organization,
        amount_nanos=10**10,
        kind=Grant.Kind.PAID,
        reason="x",
        reference="one",
        actor="test",
    )
    GrantEnd.objects.create(grant=Grant.objects.get())
    WalletMark.objects.create(organization=who.organization, posting_id=0, left={}, loose_nanos=0, debt_nanos=0)
    LedgerSeal.objects.create(
        brand=who.brand, number=1, day="2026-03-20", until=timezone.now(), postings=0, pepper_version=1
    )
    promo = PromoCode.objects.create(brand=who.brand, code="PROMO", amount_nanos=1, claims_max=1)
    claim = PromoClaim.objects.create(code=promo, organization=who.organization, grant=Grant.objects.get())
    PromoClaimant.objects.create(code=promo, claim=claim, mailbox="a@example.com")
    WorkerLease.objects.create(name="w-1", host="h", folder="wal", expires_at=timezone.now())
    Notice.objects.create(organization=who.organization, kind="balance_low", unique_key="n")
    UpgradeNight.objects.create(brand=who.brand, night="2026-03-20")
    LimitOverride.objects.create(organization=who.organization, unit="requests", window="day", amount=5, reason="x")
    pay_and_tell(who)
    count_apart(timezone.now())
    settle(redis_connection, who.event(agent="curl/8"))
    other = customer(who.brand)
    redis_connection.xadd(stream_of(other.shard), {**entry(other.event()), "bal": "1"})
    drain(Journal(redis_connection, name="first", notify=lambda _line: None))
    return who


@pytest.fixture
def browser(who, settings):
    settings.DEFAULT_BRAND = who.brand.slug
    return cast.browser_of(cast.person("operator", is_staff=True, is_superuser=True))


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


def values_of(form: Any) -> dict[str, Any]:
    """What a browser would send back unchanged."""
    values: dict[str, Any] = {}
    for bound in form:
        value = bound.value()
        if value is None or value is False or value == "":
            continue
        if isinstance(value, dict):
            values[bound.html_name] = msgspec.json.encode(value).decode()
        elif isinstance(value, list):
            values[bound.html_name] = ",".join(map(str, value))
        else:
            values[bound.html_name] = value
    return values


def fields_of(page):
    values = values_of(page.context["adminform"].form)
    for inline in page.context["inline_admin_formsets"]:
        formset = inline.formset
        values |= values_of(formset.management_form)
        for form in formset.initial_forms:
            values |= values_of(form)
    return values


def errors_of(page) -> Any:
    if page.context is None or "adminform" not in page.context:
        return page
    found = dict(page.context["adminform"].form.errors)
    for inline in page.context["inline_admin_formsets"]:
        found |= {f"{inline.formset.prefix}": inline.formset.errors} if any(inline.formset.errors) else {}
    return found


def saved(browser, url, **changes):
    reply = browser.post(url, {**fields_of(browser.get(url)), **changes})
    assert reply.status_code == 302, errors_of(reply)
    return reply


def refused(browser, url, **changes):
    reply = browser.post(url, {**fields_of(browser.get(url)), **changes})
    assert reply.status_code == 200
    return errors_of(reply)


def noted(action):
    return AuditEvent.objects.filter(action=action).latest("id")


# Engines


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


def act(browser, name, action, *rows):
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return said_on(browser.post(f"/admin/billing/{name}/", data, follow=True))


def said_on(page):
    return [str(message) for message in page.context["messages"]]


def test_actions_on_engines_and_models(browser, who):
    engine = Engine.objects.get()
    for action, state in (("drain", "draining"), ("take_down", "down"), ("bring_live", "live")):
        act(browser, "engine", action, engine)
        assert catalogue.build(who.brand.id).engines[0].state == state
    for action, state in (("hold_back", "maintenance"), ("retire", "retired"), ("bring_live", "live")):
        act(browser, "model", action, who.model)
        assert Model.objects.get(pk=who.model.pk).state == state


# Models and their routes


def test_model_form_changes_through_the_writer(browser, who):
    url = f"/admin/billing/model/{who.model.pk}/change/"
    saved(browser, url, state="maintenance", maintenance_message="back at 9", aliases="m,n")
    model = Model.objects.get(pk=who.model.pk)
    assert (model.state, model.aliases) == ("maintenance", ["m", "n"])
    assert noted("model.changed").after == {
        "aliases": ["m", "n"],
        "state": "maintenance",
        "maintenance_message": "back at 9",
    }
    assert not AuditEvent.objects.filter(action="model.route_removed").exists()
    other = Model.objects.exclude(pk=model.pk).latest("pk")
    assert "aliases" in refused(browser, url, aliases=other.slug)
    assert "modalities" in refused(browser, url, modalities='{"image_url": "many"}')


def test_model_form_creates_with_a_route(browser, who):
    saved(
        browser,
        "/admin/billing/model/add/",
        brand=who.brand.pk,
        slug="fresh",
        name="Fresh",
        context_length=4096,
        default_max_tokens=256,
        max_completion_tokens=1024,
        **{"routes-TOTAL_FORMS": 1, "routes-0-engine": Engine.objects.get().pk, "routes-0-name_there": "fresh-there"},
    )
    fresh = Model.objects.get(slug="fresh")
    assert fresh.default_max_tokens == 256
    assert fresh.routes.get().name_there == "fresh-there"
    assert noted("model.route_set").after == {"engine": "gpu", "name_there": "fresh-there"}
    assert noted("model.created").subject == "fresh"


def test_routes_are_changed_moved_and_removed_through_the_writers(browser, who):
    url = f"/admin/billing/model/{who.model.pk}/change/"
    route = ModelEngine.objects.get()
    saved(browser, url, **{"routes-0-name_there": "renamed"})
    assert ModelEngine.objects.get().name_there == "renamed"
    second = engines.register(name="second", kind="vllm", base_url="http://second/v1", actor="test")
    saved(browser, url, **{"routes-0-engine": second.pk})
    assert ModelEngine.objects.get().engine == second
    elsewhere = engines.register(
        name="theirs", kind="vllm", base_url="http://theirs/v1", brand=cast.brand(), actor="test"
    )
    errors = refused(browser, url, **{"routes-0-engine": elsewhere.pk})
    assert "serves another brand only" in str(errors)
    route = ModelEngine.objects.get()
    saved(browser, url, **{"routes-0-DELETE": "on"})
    assert not ModelEngine.objects.exists()
    assert noted("model.route_removed").before == {"engine": "second", "name_there": route.name_there}


# Prices


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


# The ladder


def test_tier_form_changes_through_the_writer_and_a_new_default_takes_over(browser, who):
    saved(
        browser,
        "/admin/billing/tier/add/",
        brand=who.brand.pk,
        rank=2,
        slug="pro",
        name="Pro",
        payer="included_then_prepaid",
        is_default="on",
        **{
            "limits-TOTAL_FORMS": 2,
            "limits-0-unit": "tokens",
            "limits-0-window": "month",
            "limits-0-scope": "organization",
            "limits-0-amount": "1,000,000",
            "limits-0-is_allotment": "on",
            "limits-1-unit": "nanos",
            "limits-1-window": "month",
            "limits-1-scope": "key",
            "limits-1-amount": "50.00",
        },
    )
    pro, basic = Tier.objects.get(slug="pro"), Tier.objects.get(slug="basic")
    assert (pro.is_default, basic.is_default) == (True, False)
    assert {(limit.unit, limit.amount) for limit in pro.limits.all()} == {
        ("tokens", 1_000_000),
        ("nanos", 50_000_000_000),
    }
    assert pro.model_slugs is None
    assert [*AuditEvent.objects.filter(subject="pro").order_by("id").values_list("action", flat=True)] == [
        *("tier.created", "tier.limit_set", "tier.limit_set")
    ]
    assert noted("tier.created").address == "127.0.0.1"


def test_limits_are_changed_and_removed_through_the_writers(browser):
    tier = Tier.objects.get()
    url = f"/admin/billing/tier/{tier.pk}/change/"
    assert fields_of(browser.get(url))["limits-0-amount"] == "50.00"
    saved(browser, url, label="best")
    assert noted("tier.changed").after == {"label": "best"}
    count = AuditEvent.objects.filter(action="tier.limit_set").count()
    saved(browser, url, **{"limits-0-amount": "0.5"})
    assert TierLimit.objects.get().amount == 500_000_000
    assert AuditEvent.objects.filter(action="tier.limit_set").count() == count + 1
    saved(browser, url, **{"limits-0-DELETE": "on"})
    assert not TierLimit.objects.exists()
    assert noted("tier.limit_removed").before["amount"] == 500_000_000


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"limits-0-amount": "many"}, "plain decimal"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "1.5"}, "whole number"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "9007199254740992"}, "more than a limit may be"),
        ({"limits-0-amount": "9007200"}, "more than a limit may be"),
        ({"limits-0-is_allotment": "on"}, "An allotment is of requests"),
        ({"limits-0-unit": "tokens", "limits-0-amount": "5", "limits-0-is_allotment": "on"}, "Only where the balance"),
        ({"model_slugs": "nobody"}, "No such model"),
        ({"payer": "included"}, "does not fit"),
        ({"rank": "2"}, "Second has it: each tier of a ladder has its own rank"),
        ({"slug": "second"}, "Second has it: each tier of a ladder has its own slug"),
        ({"is_default": ""}, "make another tier the default"),
        ({"upgrade_rule": "{"}, "Enter a valid JSON"),
        ({"upgrade_rule": '{"all": [{"fact": "luck"}]}'}, "with the facts utilisation (percent, days, within, of)"),
        ({"upgrade_rule": '{"all": []}'}, "at least one condition"),
        (
            {"upgrade_rule": '{"all": [{"fact": "utilisation", "percent": 101, "days": 1, "within": 1}]}'},
            "`percent` is from 1 to 100",
        ),
        (
            {"upgrade_rule": '{"all": [{"fact": "active_days", "days": 8, "within": 7}]}'},
            "`days` is at least 1 and at most `within`",
        ),
        ({"upgrade_rule": RULE, "label": "premium"}, "Nobody enters this tier by use alone"),
        ({"upgrade_rule": RULE, "monthly_price_nanos": "20"}, "Nobody enters this tier by use alone"),
        ({"upgrade_rule": RULE, "is_listed": ""}, "Nobody enters this tier by use alone"),
        (
            {
                "limits-0-unit": "tokens",
                "limits-0-window": "minute",
                "limits-0-amount": "5",
                "limits-0-is_allotment": "on",
            },
            "An allotment is of a day, a month or a lifetime",
        ),
        (
            limit(1, unit="nanos", window="month", amount="7"),
            "This tier limits spend per month and organization already",
        ),
        (
            limit(1, unit="concurrent", window="day", amount="7")
            | limit(2, unit="concurrent", window="minute", amount="9"),
            "This tier limits concurrent per organization already",
        ),
    ],
)
def test_tier_form_says_what_is_wrong(browser, who, changes, text):
    ladder.save_tier(Tier(brand=who.brand, rank=2, slug="second", name="Second"), actor="test")
    assert text in str(refused(browser, f"/admin/billing/tier/{Tier.objects.get(slug='basic').pk}/change/", **changes))


def test_a_rule_is_edited_as_it_is_laid_out_and_said_in_words(browser, who):
    second = ladder.save_tier(Tier(brand=who.brand, rank=2, slug="second", name="Second"), actor="test")
    url = f"/admin/billing/tier/{second.pk}/change/"
    assert "None: this tier is given by hand." in browser.get(url).content.decode()
    saved(browser, url, upgrade_rule=RULE)
    page = browser.get(url).content.decode()
    assert "Calls on 2 of the last 7 days<br>3 days since the last change of tier" in page
    assert fields_of(browser.get(url))["upgrade_rule"].startswith('{\n  "all": [\n')
    assert noted("tier.changed").after["upgrade_rule"]["cool_down_days"] == 3
    saved(browser, url, name="2nd")
    second.refresh_from_db()
    assert (second.rule_version, second.name) == (1, "2nd"), "a rule that nobody touched is the same rule"


def test_a_swap_of_two_limits_in_one_go_is_no_double(browser):
    url = f"/admin/billing/tier/{Tier.objects.get().pk}/change/"
    saved(browser, url, **limit(1, unit="nanos", window="day", amount="3"))
    saved(browser, url, **{"limits-1-window": "lifetime", "limits-1-amount": "4"})
    assert {(row.window, row.amount) for row in TierLimit.objects.all()} == {
        ("month", 50 * 10**9),
        ("lifetime", 4 * 10**9),
    }


def test_the_writer_itself_refuses_a_second_limit_on_a_counter(who):
    tier = Tier.objects.get()
    ladder.save_limit(TierLimit(tier=tier, unit="concurrent", window="day", amount=4), actor="test")
    with pytest.raises(ValidationError, match="already"):
        ladder.save_limit(TierLimit(tier=tier, unit="concurrent", window="minute", amount=5), actor="test")


def test_the_page_of_a_customer_leads_to_its_tier_and_exceptions(browser, who):
    page = browser.get(f"/admin/keys/organization/{who.organization.pk}/change/").content.decode()
    override = LimitOverride.objects.get()
    assert "Basic, since" in page
    assert f'href="/admin/billing/tierassignment/{who.organization.pk}/change/"' in page
    assert f'href="/admin/billing/limitoverride/{override.pk}/change/">5 requests per day and organization</a>' in page
    fresh = cast.organization(who.brand)
    page = browser.get(f"/admin/keys/organization/{fresh.pk}/change/").content.decode()
    links = re.findall(r'href="(/admin/billing/[^"]*)"', html.unescape(page))
    assert f"/admin/billing/tierassignment/add/?organization={fresh.pk}" in links
    assert f"/admin/billing/limitoverride/add/?organization={fresh.pk}" in links
    for link in links:
        assert browser.get(link).status_code == 200, link
    assert browser.get("/admin/keys/organization/add/").status_code == 200


def test_an_organization_is_put_on_a_tier_with_a_reason(browser, who):
    pro = ladder.save_tier(Tier(brand=who.brand, rank=2, slug="pro", name="Pro"), actor="test")
    url = f"/admin/billing/tierassignment/{who.organization.pk}/change/"
    assert "reason" in refused(browser, url, tier=pro.pk)
    saved(browser, url, tier=pro.pk, reason="asked for it")
    assert TierAssignment.objects.get().tier == pro
    change = TierChange.objects.latest("id")
    assert (change.to_tier, change.reason, str(change.actor)[:8]) == (pro, "asked for it", "operator")
    other = ladder.save_tier(Tier(brand=cast.brand(), rank=1, slug="theirs", name="Theirs"), actor="test")
    assert "another brand" in str(refused(browser, url, tier=other.pk, reason="x"))
    fresh = cast.organization(who.brand)
    saved(browser, "/admin/billing/tierassignment/add/", organization=fresh.pk, tier=pro.pk, reason="new")
    assert TierAssignment.objects.get(organization=fresh).tier == pro


# Money and usage


def test_an_exception_to_a_limit_is_put_changed_and_ended_through_the_writer(browser, who):
    page = "/admin/billing/limitoverride/"
    given = {
        "organization": who.organization.pk,
        "unit": "nanos",
        "window": "month",
        "scope": "organization",
        "model": "",
        "amount": "75.00",
        "reason": "launch week",
        "expires_at_0": "2099-01-01",
        "expires_at_1": "00:00:00",
    }
    assert browser.post(f"{page}add/", given).status_code == 302
    found = LimitOverride.objects.get(unit="nanos")
    assert (found.amount, found.reason) == (75 * 10**9, "launch week")
    assert "75.00" in browser.get(f"{page}{found.pk}/change/").content.decode()
    assert browser.post(f"{page}{found.pk}/change/", given | {"amount": "80"}).status_code == 302
    assert LimitOverride.objects.get(unit="nanos").amount == 80 * 10**9
    assert browser.post(f"{page}{found.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not LimitOverride.objects.filter(unit="nanos").exists()
    said = AuditEvent.objects.filter(organization=who.organization, action__startswith="limit.override")
    assert [event.action.rpartition("_")[2] for event in said.order_by("id")] == ["put", "put", "ended"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"amount": "many"}, "whole number"),
        ({"expires_at_0": "2020-01-01"}, "has passed"),
        ({"reason": ""}, "This field is required"),
    ],
)
def test_an_exception_that_makes_no_sense_is_refused_at_its_field(browser, who, changes, text):
    given = {
        "organization": who.organization.pk,
        "unit": "requests",
        "window": "month",
        "scope": "organization",
        "amount": "75",
        "reason": "launch week",
        "expires_at_0": "2099-01-01",
        "expires_at_1": "00:00:00",
    }
    answer = browser.post("/admin/billing/limitoverride/add/", given | changes)
    assert text in answer.content.decode()
    assert not LimitOverride.objects.filter(window="month").exists()


def test_a_grant_is_posted_by_the_ledger_and_a_form_sent_twice_gives_once(browser, who):
    url = "/admin/billing/grant/add/"
    sent = fields_of(browser.get(url))
    sent |= {"organization": who.organization.pk, "amount": "2.50", "kind": "compensation", "reason": "Outage"}
    balance = ledger.balance_nanos(who.organization)
    for _ in range(2):
        assert browser.post(url, sent).status_code == 302
    assert ledger.balance_nanos(who.organization) == balance + 2_500_000_000
    assert CounterChange.objects.filter(balance_nanos=2_500_000_000).count() == 1
    grant = Grant.objects.latest("id")
    assert grant.posting.kind == Posting.Kind.GRANT
    assert noted("grant.given").address == "127.0.0.1"
    page = browser.post(url, {**sent, "amount": "3"}, follow=True)
    assert "posted already" in said_on(page)[-1]
    for amount in ("0", "-1", "ten"):
        assert "amount" in refused(browser, url, **{**sent, "amount": amount})


def test_a_price_that_looks_like_a_slip_is_asked_about(browser, who):
    url = "/admin/billing/rate/add/"
    given = {"model": who.model.pk, "input": "2.00", "output": "0.4"}
    said = refused(browser, url, **given)
    assert "Input goes from 0.20 to 2.00: a factor of 10 or more." in said["__all__"][0]
    assert "confirmed" in refused(browser, url, **given, confirmed_reason="A new model")
    assert "confirmed" in refused(browser, url, **given, confirmed="on")
    saved(browser, url, **given, confirmed="on", confirmed_reason="A new model")
    assert noted("price.set").after["confirmed"] == "A new model"


def test_a_bank_transfer_is_paid_credit_under_its_own_reference(browser, who):
    url = "/admin/billing/grant/add/"
    sent = {"organization": who.organization.pk, "amount": "100", "reason": "Transfer", "payment": "INV  7"}
    assert "payment" in refused(browser, url, **sent, kind="promotional")
    for _ in range(2):  # two forms, one transfer
        saved(browser, url, **sent, kind="paid", priority="2", expires_at_0="2099-01-01", expires_at_1="00:00:00")
    grant = Grant.objects.latest("id")
    assert grant.posting.reference == f"bank:{who.brand.pk}:INV 7"
    assert (grant.posting.kind, grant.priority) == (Posting.Kind.TOP_UP, 2)
    assert grant.expires_at == datetime(2099, 1, 1, tzinfo=UTC)
    assert Posting.objects.filter(reference__startswith="bank:").count() == 1
    assert "expires_at" in refused(
        browser, url, **sent, kind="paid", expires_at_0="2020-01-01", expires_at_1="00:00:00"
    )


def test_a_balance_is_adjusted_and_refunded_by_new_entries(browser, who):
    url = "/admin/billing/posting/add/"
    balance = ledger.balance_nanos(who.organization)
    sent = {"organization": who.organization.pk, "memo": "Paid back"}
    saved(browser, url, **sent, kind="refund", takes="1", amount="1.5")
    saved(browser, url, **sent, kind="adjustment", takes="", amount="0.25")
    assert ledger.balance_nanos(who.organization) == balance - 1_250_000_000
    kinds = Posting.objects.order_by("-id").values_list("kind", "memo")[:2]
    assert list(kinds) == [("adjustment", "Paid back"), ("refund", "Paid back")]
    assert noted("balance.moved").address == "127.0.0.1"
    assert "takes" in refused(browser, url, **sent, kind="refund", takes="", amount="1")
    assert "amount" in refused(browser, url, **sent, kind="refund", takes="1", amount="0")
    assert "organization" in refused(browser, url, kind="refund", takes="1", amount="1", memo="x")


def test_codes_are_made_and_changed_through_their_writer(browser, who):
    url = "/admin/billing/promocode/add/"
    given = {"brand": who.brand.pk, "code": "spring-26", "amount_nanos": "2.50", "claims_max": "10"}
    assert "code" in refused(browser, url, **{**given, "code": "no spaces!"})
    saved(browser, url, **given)
    made = PromoCode.objects.get(code="SPRING-26")
    assert made.amount_nanos == 2_500_000_000
    saved(browser, f"/admin/billing/promocode/{made.pk}/change/", claims_max="20")
    assert noted("promo_code.changed").after["claims_max"] == 20


def test_calls_are_found_by_their_id_and_by_customer(browser, who):
    event = UsageEvent.objects.get()
    for term, found in (
        (str(event.call_id), True),
        (who.organization.public_id, True),
        ("01890000-0000-7000-8000-000000000000", False),
        ("org_nobody", False),
    ):
        page = browser.get(f"/admin/billing/usageevent/?q={term}")
        assert (str(event.call_id) in page.content.decode()) == found
    page = browser.get(f"/admin/billing/usageevent/{event.pk}/change/").content.decode()
    for text in (who.organization.name, who.key.hint, who.model.slug, "$0.000000007", "curl/8"):
        assert text in page


def test_a_long_list_is_not_counted_to_its_end(browser, monkeypatch):
    monkeypatch.setattr(pages, "COUNTED_MAX", 1)
    assert pages.Bounded(Posting.objects.order_by("id"), 50).count == 1
    assert Posting.objects.count() > 1
    assert browser.get("/admin/billing/posting/").status_code == 200


def test_a_dead_letter_is_booked_from_its_page(browser, monkeypatch):
    letter = DeadLetter.objects.get()
    said = act(browser, "deadletter", "retry", letter)
    assert any("stays" in message for message in said)
    retried: list[int] = []
    monkeypatch.setattr("billing.dead_letters.retry", retried.append)
    assert act(browser, "deadletter", "retry", letter) == ["Booked: 1."]
    assert retried == [letter.pk]


def test_a_finding_about_an_engine_is_resolved_by_hand(browser):
    finding = first("enginefinding")
    browser.post("/admin/billing/enginefinding/", {"action": "resolve", "_selected_action": [finding.pk]})
    finding.refresh_from_db()
    assert finding.resolved_at is not None
