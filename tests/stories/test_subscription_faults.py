"""Paid plans begun, renewed and cancelled while Stripe fails in every way the stand-in knows: in the end revenue is
what the stand-in's own log says it received, every tier is what its subscription says, and reconcile finds nothing."""

import time
from contextlib import suppress
from datetime import timedelta

import pytest

from billing import reconcile_stripe, stripe_gateway, subscriptions
from billing.payment_models import StripeEvent
from tests import cast as casting
from tests.billing import plans
from tests.billing.plans import advance, begin, clock, earned, hear, received, subscribed, tier_of
from tests.stories.test_payment_faults import rules
from tests.stripes import KEY, SECRET, connected, control, credited, fake_stripe

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

CUSTOMERS, PRICES, SESSIONS, SUBSCRIPTIONS = (
    f"/v1/{name}" for name in ("customers", "prices", "checkout/sessions", "subscriptions")
)
ALL = (CUSTOMERS, PRICES, SESSIONS, SUBSCRIPTIONS)

KNOBS = {
    "none": {},
    "lose every reply twice": rules("lose", *ALL, times=2),
    "429, then 500, before the work": {
        "rules": [*rules("status=429", *ALL)["rules"], *rules("status=500", *ALL)["rules"]]
    },
    "500 after the work, kept under its key": rules("fail", PRICES, SESSIONS),
    "slower than we wait": rules("slow=600", PRICES, SESSIONS, SUBSCRIPTIONS),
    "questions fail": rules("status=500", "/v1/", times=12, method="GET"),
    "webhooks dropped": {"hooks": {"drop": True}},
    "webhooks doubled": {"hooks": {"duplicate": 2}},
    "webhooks out of order": {"hooks": {"reorder": True}},
    "webhooks late": {"hooks": {"delay_ms": 400}},
    "everything at once": rules("lose", *ALL) | {"hooks": {"duplicate": 1, "reorder": True, "delay_ms": 100}},
    "cards decline": {"decline": True},
    "banks ask": {"challenge": True},
}
REFUSE = ("cards decline", "banks ask")


@pytest.fixture(scope="module")
def running():
    with fake_stripe() as found:
        yield found


@pytest.fixture
def till(running, monkeypatch, settings):
    running.fake.__init__()
    settings.DEFAULT_BRAND = ""
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    monkeypatch.setattr(stripe_gateway, "TIMEOUT_SECONDS", 0.4)
    return running


@pytest.mark.parametrize("knob", KNOBS, ids=lambda name: name.replace(" ", "-"))
def test_revenue_is_what_stripe_received_and_tiers_are_what_it_says(till, live_server, knob):
    brand = casting.brand(slug="plans")
    account, tiers = connected(till, brand), plans.tiers_of(brand)
    hook = f"{live_server.url}/plans/webhooks/stripe/{account.public_id}/"
    control(till, "/control", accounts={KEY: {"url": hook, "secrets": [SECRET]}})
    buys, renews, stops = everybody = [casting.organization(brand) for _ in range(3)]
    for organization in (renews, stops):
        subscribed(till, organization, tiers["plus"])
    control(till, "/control", **KNOBS[knob])

    try_until(lambda: pay(till, begin(buys, tiers["plus"])))
    try_until(lambda: subscriptions.cancel(organization=stops, actor="test"))
    if knob == "webhooks doubled":
        assert heard(till), "no webhook came through the door"
    time_passes(till)
    advance(till, 32)  # one month is due
    time_passes(till)
    refuses = knob in REFUSE
    assert [tier_of(one) for one in everybody] == (["free"] * 3 if refuses else ["plus", "plus", "free"])

    for organization in everybody:
        assert earned(organization) == received(till, organization), organization
        assert credited(organization) == 0
    assert [earned(one) for one in everybody] == ([0, 1000, 1000] if refuses else [2000, 2000, 1000])
    assert {row["status"] for row in till.account.all("subscription")} <= {"active", "past_due", "canceled"}
    assert [str(found) for found in reconcile_stripe.differences(clock(till) + timedelta(minutes=10))] == []


def pay(till, row):
    till.post(row.checkout_url, card="pm_card_visa")


def try_until(work):
    """Somebody who clicks again while the page says that Stripe does not answer."""
    for _ in range(8):
        with suppress(stripe_gateway.Unknown):
            work()
            return


def heard(till, within_seconds=5.0):
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if any(status == 200 for _event, status in till.fake.deliveries.sent):
            return StripeEvent.objects.filter(source=StripeEvent.Source.WEBHOOK).exists()
        time.sleep(0.02)
    return False


def time_passes(till):
    """Jobs run as their schedule has them, for some days of the stand-in's: past the grace of what is not paid."""
    for minutes in (0, 5, 60, 3 * 24 * 60):
        hear(advance(till, minutes / (24 * 60)))
    assert not StripeEvent.objects.filter(due_at__isnull=False).exists()
