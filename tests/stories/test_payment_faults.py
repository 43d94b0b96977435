"""Top-ups, automatic top-ups and refunds while Stripe fails in every way the stand-in knows: in the end the books hold
what the stand-in's own log says moved, and reconcile finds nothing."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from billing import auto_top_ups, reconcile_stripe, reversals, stripe_events, stripe_gateway, top_ups
from billing.payment_models import StripeEvent, TopUp
from tests import cast as casting
from tests.stripes import KEY, SECRET, begin, connected, control, credited, fake_stripe, keep_card

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

CUSTOMERS, SESSIONS, INTENTS, REFUNDS = "/v1/customers", "/v1/checkout/sessions", "/v1/payment_intents", "/v1/refunds"
ALL = (CUSTOMERS, SESSIONS, INTENTS, REFUNDS)


def rules(do, *paths, times=1, method="POST"):
    return {"rules": [{"do": do, "path": path, "times": times, "method": method} for path in paths]}


KNOBS = {
    "none": {},
    "lose every reply once": rules("lose", *ALL),
    "lose every reply three times": rules("lose", *ALL, times=3),
    "429 before the work": rules("status=429", *ALL),
    "500 before the work": rules("status=500", *ALL),
    "500 after the work, kept under its key": rules("fail", *ALL[1:]),
    "slower than we wait": rules("slow=600", *ALL),
    "questions fail": rules("status=500", "/v1/", times=12, method="GET"),
    "replies to questions are lost": rules("lose", "/v1/", times=12, method="GET"),
    "webhooks dropped": {"hooks": {"drop": True}},
    "webhooks doubled": {"hooks": {"duplicate": 2}},
    "webhooks out of order": {"hooks": {"reorder": True}},
    "webhooks late": {"hooks": {"delay_ms": 400}},
    "everything at once": rules("lose", *ALL) | {"hooks": {"duplicate": 1, "reorder": True, "delay_ms": 100}},
    "cards decline": {"decline": True},
    "banks ask": {"challenge": True},
}


@pytest.fixture(scope="module")
def running():
    with fake_stripe() as found:
        yield found


@pytest.fixture
def till(running, monkeypatch, live_server, settings):
    running.fake.__init__()
    settings.DEFAULT_BRAND = ""
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    monkeypatch.setattr(stripe_gateway, "TIMEOUT_SECONDS", 0.4)
    return running


@pytest.mark.parametrize("knob", KNOBS, ids=lambda name: name.replace(" ", "-"))
def test_the_books_hold_what_stripe_received(till, live_server, knob):
    brand = casting.brand(slug="faults")
    account = connected(till, brand)
    hook = f"{live_server.url}/faults/webhooks/stripe/{account.public_id}/"
    control(till, "/control", accounts={KEY: {"url": hook, "secrets": [SECRET]}})
    pays, by_itself, back, back_late = (casting.organization(brand) for _ in range(4))
    keep_card(till, by_itself)
    auto_top_ups.put(
        organization=by_itself,
        threshold_nanos=5 * 10**9,
        amount_nanos=20 * 10**9,
        monthly_cap_nanos=100 * 10**9,
        actor="owner",
    )
    refunded = [paid(till, organization) for organization in (back, back_late)]
    control(till, "/control", **KNOBS[knob])

    till_open(till, pays)
    auto_top_ups.run(datetime.now(UTC))
    for row in refunded:
        with suppress(stripe_gateway.Unknown, reversals.NotRefundable):
            reversals.refund(top_up=row, actor="operator", reason="asked for", credit_nanos=10 * 10**9)
    with suppress(stripe_gateway.Unknown):
        auto_top_ups.run(datetime.now(UTC))
    if knob in ("none", "webhooks doubled"):
        assert heard(till), "no webhook came through the door"
    later = time_passes()

    for organization in (pays, by_itself, back, back_late):
        assert credited(organization) == received(till, organization), organization
    refuses = knob in ("cards decline", "banks ask")
    assert credited(by_itself) == (0 if refuses else 2000)
    assert credited(back) == credited(back_late) == 1500
    assert [str(found) for found in reconcile_stripe.differences(later + timedelta(minutes=10))] == []


def heard(till, within_seconds=5.0):
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if any(status == 200 for _event, status in till.fake.deliveries.sent):
            return StripeEvent.objects.filter(source=StripeEvent.Source.WEBHOOK).exists()
        time.sleep(0.02)
    return False


def paid(till, organization):
    row = begin(organization)
    till.post(row.checkout_url, card="pm_card_visa")
    return top_ups.look(row, datetime.now(UTC))


def till_open(till, organization):
    """Somebody who tries again until there is a page to pay on, and pays there once."""
    for _ in range(6):
        try:
            row = begin(organization)
        except stripe_gateway.Unknown:
            continue
        till.post(row.checkout_url, card="pm_card_visa")
        return


def received(till, organization):
    """Minor units, from the log of the stand-in alone."""
    named = set(organization.top_ups.values_list("public_id", flat=True))
    return sum(moved["amount"] for moved in till.fake.log(KEY) if moved["metadata"].get("top_up") in named)


def time_passes():
    """Jobs run as their schedule has them, for two hours of theirs; the moment it came to."""
    now = datetime.now(UTC)
    for minutes in (0, 2, 5, 11, 25, 50, 80, 120):
        later = now + timedelta(minutes=minutes)
        stripe_events.poll(later)
        stripe_events.look_around(later)
        while stripe_events.work(later):
            pass
    assert not StripeEvent.objects.filter(due_at__isnull=False).exists()
    assert not TopUp.objects.filter(kind="auto", state__in=["created", "open"]).exists()
    return later


def test_reconcile_names_what_is_missing_on_either_side(till):
    organization = casting.organization(casting.brand())
    connected(till, organization.brand)
    row = paid(till, organization)
    later = datetime.now(UTC) + timedelta(minutes=10)
    assert list(reconcile_stripe.differences(later)) == []
    till.client().v1.refunds.create({"payment_intent": row.payment_intent, "amount": 500})
    other = begin(organization)
    till.post(other.checkout_url, card="pm_card_visa")
    named = [found.check for found in reconcile_stripe.differences(later)]
    assert sorted(named) == ["stripe payment", "stripe refund or dispute"]
    till.account.objects.clear()
    assert [found.found for found in reconcile_stripe.differences(later)] == ["not there"]
    till.knobs.update(rules("status=500", "/v1/", method="GET", times=9))
    assert list(reconcile_stripe.differences(later)) == []  # a stand-in that is away
