"""Paid plans, as the people of an account see them: nothing in an address gives a tier, only what Stripe says."""

from datetime import UTC, datetime

import pytest
from django.core import mail

from billing import ladder, stripe_gateway
from billing.models import Notice, Tier
from billing.subscription_models import Subscription
from keys.models import AuditEvent, Role
from portal import notify
from tests import cast as casting
from tests.billing import plans
from tests.billing.plans import advance, clock, earned, hear, tier_of
from tests.portal.managing import program
from tests.stripes import connected, fake_stripe


@pytest.fixture(scope="module")
def running():
    with fake_stripe() as found:
        yield found


@pytest.fixture
def tiers(cast):
    return plans.tiers_of(cast.brand)


@pytest.fixture
def till(running, cast, tiers, monkeypatch):
    running.fake.__init__()
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    connected(running, cast.brand)
    return running


def path(cast, name="balance/plan/"):
    return f"/{cast.organization.public_id}/{name}"


def text(answer):
    return answer.content.decode()


def press(cast, **button):
    return casting.browser_of(cast.owner).post(path(cast), button, follow=True)


def test_without_an_account_at_stripe_the_pages_say_so(cast, tiers):
    owner = casting.browser_of(cast.owner)
    assert "Payments by card are not set up here" in text(owner.get(path(cast)))
    assert "balance/plan/" not in text(owner.get(path(cast, "limits/")))
    assert "not set up here" in text(press(cast, subscribe="plus"))
    assert not Subscription.objects.exists()


def test_from_the_ladder_to_stripe_and_back_on_the_tier(till, cast):
    owner = casting.browser_of(cast.owner)
    limits = text(owner.get(path(cast, "limits/")))
    assert "Get Plus" in limits
    assert "Get Busy" not in limits
    assert f"{till.base_url}/c/pay/" in text(press(cast, subscribe="plus"))
    row = Subscription.objects.get()
    forged = f"{path(cast)}?plan={row.public_id}&returned=1"
    assert "Waiting for the payment" in text(owner.get(forged))
    assert tier_of(cast.organization) == "free"
    till.post(row.checkout_url, card="pm_card_visa")
    hear(clock(till))
    page = text(owner.get(forged))
    assert "Your plan" in page
    assert "Subscribe to" not in page
    assert ">$10.00<" in page
    assert (tier_of(cast.organization), earned(cast.organization)) == ("plus", 1000)
    assert "You moved up to Plus" in sent()


def sent():
    notify.deliver(now=datetime.now(UTC))
    return " ".join(str(message.subject) for message in mail.outbox)


def test_it_is_changed_cancelled_and_resumed_by_buttons_and_the_trail_says_who(till, cast, tiers):
    plans.subscribed(till, cast.organization, tiers["plus"])
    assert "Your plan is Pro now" in text(press(cast, change="pro"))
    assert "ends with the month" in text(press(cast, cancel="1"))
    assert "Go on after all" in text(casting.browser_of(cast.owner).get(path(cast)))
    assert "The plan goes on" in text(press(cast, resume="1"))
    assert "not sold by the month" in text(press(cast, change="busy"))
    assert press(cast, change="no-such").status_code == 404
    assert press(cast, nothing="1").status_code == 404
    noted = AuditEvent.objects.filter(action__startswith="plan.", organization=cast.organization).order_by("pk")
    assert [event.action for event in noted] == ["plan.begun", "plan.changed", "plan.cancelled", "plan.resumed"]
    till.knobs.update({"rules": [{"do": "status=500", "path": "/v1/subscriptions"}]})
    assert "does not answer just now" in text(press(cast, cancel="1"))


def test_whoever_stands_higher_is_told_so_and_nothing_else_is_offered_under_no_heading(till, cast, tiers):
    ladder.assign(organization=cast.organization, tier=tiers["pro"], actor="test", reason="by contract")
    page = " ".join(text(casting.browser_of(cast.owner).get(path(cast))).split())
    assert page.count("The account stands on Pro, which is higher. This plan takes its place.") == 1
    assert page.index("which is higher") < page.index("Subscribe to Plus") < page.index("Subscribe to Pro")
    plans.subscribed(till, cast.organization, tiers["pro"])
    assert "Other plans" in text(casting.browser_of(cast.owner).get(path(cast)))
    Tier.objects.filter(slug="plus").update(is_listed=False)
    assert "Other plans" not in text(casting.browser_of(cast.owner).get(path(cast)))


def test_an_unpaid_month_is_told_on_the_page_and_by_mail(till, cast, tiers):
    plans.subscribed(till, cast.organization, tiers["plus"], "pm_card_chargeCustomerFail")
    hear(advance(till, 32))
    owner = casting.browser_of(cast.owner)
    assert "could not be collected" in text(owner.get(path(cast)))
    assert Notice.objects.filter(kind="plan_unpaid").count() == 1
    assert "Your plan Plus could not be paid" in sent()


@pytest.mark.parametrize("who", ["member", "viewer", "stranger"])
def test_who_does_not_pay_neither_sees_nor_begins_one(till, cast, who):
    browser = casting.browser_of(getattr(cast, who))
    expected = 404 if who == "stranger" else 403
    assert browser.get(path(cast)).status_code == expected
    assert browser.post(path(cast), {"subscribe": "plus"}).status_code == expected
    if who != "stranger":
        assert "Get Plus" not in text(browser.get(path(cast, "limits/")))
    assert not Subscription.objects.exists()


def test_a_plan_of_another_account_is_not_shown(till, cast, tiers):
    theirs = plans.begin(cast.elsewhere, tiers["plus"])
    owner = casting.browser_of(cast.owner)
    assert owner.get(f"{path(cast)}?plan={theirs.public_id}&returned=1").status_code == 404


def test_a_program_begins_changes_and_ends_a_plan(till, cast):
    asks = program(cast.organization, Role.BILLING)
    assert [(row["tier"], row["monthly_price_nanos"]) for row in asks.get("/plans").json()["data"]] == [
        ("plus", 10 * 10**9),
        ("pro", 50 * 10**9),
    ]
    assert asks.get("/plan").status_code == 404
    assert asks.post("/plan", {"tier": "busy"}).status_code == 422
    assert asks.post("/plan", {"tier": "none"}).json()["errors"][0]["pointer"] == "/tier"
    assert asks.post("/plan/cancel").json()["code"] == "payment_not_accepted"
    begun = asks.post("/plan", {"tier": "plus"})
    assert begun.status_code == 201
    assert (begun.json()["state"], begun.json()["tier"]) == ("open", "plus")
    assert asks.post("/plan", {"tier": "plus"}).json()["id"] == begun.json()["id"]
    till.post(begun.json()["checkout_url"], card="pm_card_visa")
    hear(clock(till))
    running = asks.get("/plan").json()
    assert (running["state"], running["checkout_url"], running["ends_at"]) == ("active", None, None)
    assert tier_of(cast.organization) == "plus"
    assert asks.post("/plan/change", {"tier": "pro"}).json()["tier"] == "pro"
    ended = asks.post("/plan/cancel").json()
    assert ended["ends_at"] == ended["paid_until"]
    assert asks.post("/plan/resume").json()["ends_at"] is None
    hear(clock(till))
    invoices = asks.get("/plan/invoices").json()["data"]
    assert invoices[-1]["net_nanos"] == 10 * 10**9
    actors = set(AuditEvent.objects.filter(action__startswith="plan.").values_list("actor_name", flat=True))
    assert any(name.startswith("terraform (") for name in actors)
    assert program(cast.organization, Role.DEVELOPER).get("/plan").status_code == 403
