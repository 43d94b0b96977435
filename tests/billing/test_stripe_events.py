"""Webhooks and the poller: recorded once, worked on in any order, any number of times, or never sent at all."""

import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from billing import stripe_events, stripe_gateway
from billing.payment_models import Reversal, StripeCustomer, StripeEvent, TopUp
from portal.demo.stripe.hooks import signature
from tests import cast as casting
from tests.stripes import SECRET, begin, control, credited

pytestmark = pytest.mark.django_db


def now():
    return datetime.now(UTC)


def told(till, customer, events):
    """Every event as a webhook would record it."""
    account = customer.brand.stripe_accounts.get()
    for event in events:
        body = json.dumps(event)
        found = stripe_gateway.verified(body.encode(), signature(body, [SECRET], int(now().timestamp())), (SECRET,))
        stripe_events.record(account, found, "webhook")


def a_life(till, customer):
    """A payment, a part of it refunded, the rest disputed and won, another part refunded and failed."""
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    intent = till.account.all("payment_intent")[0]["id"]
    client = till.client()
    client.v1.refunds.create({"payment_intent": intent, "amount": 500})
    dispute = control(till, "/control/dispute", payment_intent=intent)
    control(till, "/control/close_dispute", dispute=dispute["id"], status="won")
    till.knobs.update({"refunds_wait": True})
    failed = client.v1.refunds.create({"payment_intent": intent, "amount": 700})
    control(till, "/control/refund", refund=failed.id, status="failed")
    return till.account.all("event")


@pytest.mark.parametrize("seed", range(4))
def test_any_order_any_number_of_times(till, customer, seed):
    events = a_life(till, customer)
    disorder = random.Random(seed)
    events = [event for event in events for _ in range(disorder.randint(1, 3))]
    disorder.shuffle(events)
    for event in events:
        told(till, customer, [event])
        if disorder.random() < 0.3:
            stripe_events.work(now())
    while stripe_events.work(now()):
        pass
    assert credited(customer) == till.money() == 2000
    assert StripeEvent.objects.filter(due_at__isnull=False).count() == 0
    assert StripeEvent.objects.count() == len({event["id"] for event in events})


def test_what_never_arrived_is_listed(till, customer):
    a_life(till, customer)
    assert stripe_events.poll(now()) > 0
    assert stripe_events.poll(now()) == 0
    while stripe_events.work(now()):
        pass
    assert credited(customer) == till.money() == 2000
    assert set(StripeEvent.objects.values_list("source", flat=True)) == {"poller"}


def test_a_payment_that_nobody_tells_of_is_looked_at(till, customer):
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    stripe_events.look_around(now())
    assert credited(customer) == 0  # not yet its time
    stripe_events.look_around(now() + timedelta(minutes=2))
    assert credited(customer) == 2500


def test_while_stripe_is_away_events_wait(till, customer):
    row = begin(customer)
    till.post(row.checkout_url, card="pm_card_visa")
    told(till, customer, till.account.all("event"))
    till.knobs.update({"rules": [{"do": "status=500", "path": "/v1/", "method": "GET", "times": 99}]})
    assert stripe_events.work(now()) == 0
    waiting = StripeEvent.objects.filter(due_at__isnull=False)
    assert all(event.error and event.due_at > now() for event in waiting)
    till.knobs.update({"rules": []})
    assert stripe_events.work(now()) == 0
    stripe_events.work(now() + timedelta(minutes=5))
    assert credited(customer) == 2500


def test_what_is_none_of_ours_changes_nothing(till, customer):
    till.client().v1.payment_intents.create({"amount": 1000, "currency": "usd"})
    other = begin(casting.organization(customer.brand))
    TopUp.objects.filter(pk=other.pk).delete()
    till.post(other.checkout_url, card="pm_card_visa")
    till.client().v1.refunds.create({"payment_intent": till.account.all("payment_intent")[0]["id"]})
    told(till, customer, till.account.all("event"))
    while stripe_events.work(now()):
        pass
    assert not StripeEvent.objects.exclude(error="").exists()
    assert not Reversal.objects.exists()


def test_a_card_left_for_later_is_kept(till, customer):
    from billing import cards

    url = cards.setup_url(customer, return_url="http://localhost/")
    till.post(url, card="pm_card_mastercard")
    told(till, customer, till.account.all("event"))
    stripe_events.work(now())
    row = StripeCustomer.objects.get()
    assert (row.card_brand, row.card_last4) == ("mastercard", "4444")


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"\xff\xfe", "t={t},v1=00"),
        (b"{}", "t={t},v1=\u00fc"),
        (b"{}", ""),
        (b"{}", "t=x,v1=00"),
        (b"{}", "v1=00"),
        (b"{}", "t={t},v0={v}"),
        (b"not json", "t={t},v1={v}"),
        (b"[]", "t={t},v1={v}"),
        (b"null", "t={t},v1={v}"),
        (b'{"id": "evt_1"}', "t={t},v1={v}"),
        (b"[" * 100_000, "t={t},v1={v}"),
        (b'{"tampered": 1}', "t={t},v1=" + "0" * 64),
    ],
)
def test_whatever_is_wrong_is_one_refusal(body, header):
    at = int(now().timestamp())
    good = signature(body.decode("latin-1"), ["whsec_x"], at).partition("v1=")[2]
    with pytest.raises(stripe_gateway.SignatureRefused):
        stripe_gateway.verified(body, header.format(t=at, v=good), ("whsec_x",))


@pytest.mark.parametrize("seconds", [-301, 301, -86_400, 86_400])
def test_neither_old_nor_future_signatures_are_taken(seconds):
    body = json.dumps({"id": "evt_1", "type": "x", "created": 1, "livemode": False})
    at = int(now().timestamp()) + seconds
    with pytest.raises(stripe_gateway.SignatureRefused):
        stripe_gateway.verified(body.encode(), signature(body, ["whsec_x"], at), ("whsec_x",))


def test_the_secret_before_is_taken_while_one_rotates():
    body = json.dumps({"id": "evt_1", "type": "x", "created": 1, "livemode": False})
    signed = signature(body, ["whsec_old"], int(now().timestamp()))
    assert stripe_gateway.verified(body.encode(), signed, ("whsec_new", "whsec_old")).id == "evt_1"
    with pytest.raises(stripe_gateway.SignatureRefused):
        stripe_gateway.verified(body.encode(), signed, ())
