"""The stand-in's subscriptions: what the SDK sees of them while its time moves on, and that its log has every cent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import stripe

from tests.stripes import control, fake_stripe


@pytest.fixture
def till():
    with fake_stripe() as running:
        yield running


def price(till, cents=1000):
    asked = {"currency": "usd", "unit_amount": cents, "recurring": {"interval": "month"}}
    return till.client().v1.prices.create({**asked, "product_data": {"name": "Plus"}}).id


def subscribe(till, card="pm_card_visa", cents=1000, **more):
    """The session that was paid, and the subscription."""
    v1 = till.client().v1
    asked = {"mode": "subscription", "line_items": [{"price": price(till, cents), "quantity": 1}], **more}
    session = v1.checkout.sessions.create(
        {**asked, "customer": v1.customers.create({}).id, "success_url": "http://x/?a=1", "cancel_url": "http://x/"}
    )
    till.post(session.url, card=card)
    session = v1.checkout.sessions.retrieve(session.id)
    return session, session.subscription and v1.subscriptions.retrieve(session.subscription)


def told(till):
    return [event["type"] for event in reversed(till.account.all("event")) if event["type"].startswith(("cust", "inv"))]


def period_end(subscription):
    return datetime.fromtimestamp(subscription["items"].data[0].current_period_end, UTC)


def test_a_month_is_paid_by_checkout_and_the_next_by_itself(till):
    session, subscription = subscribe(till)
    assert (session.status, session.payment_status, subscription.status) == ("complete", "paid", "active")
    first = period_end(subscription)
    control(till, "/control/advance", days=32)
    v1 = till.client().v1
    subscription = v1.subscriptions.retrieve(subscription.id)
    assert (first - datetime.now(UTC)).days in range(27, 31)
    assert period_end(subscription).day == first.day
    invoices = v1.invoices.list({"subscription": subscription.id}).data
    assert [(row.status, row.amount_paid, row.billing_reason) for row in invoices] == [
        ("paid", 1000, "subscription_cycle"),
        ("paid", 1000, "subscription_create"),
    ]
    assert all(row.payments.data[0].payment.payment_intent.startswith("pi_") for row in invoices)
    assert till.money() == 2000
    assert told(till).count("invoice.paid") == 2
    assert "customer.subscription.created" in told(till)


def test_a_declined_card_begins_nothing_and_one_declined_later_ends_it_after_four_tries(till):
    session, subscription = subscribe(till, "pm_card_chargeDeclined")
    assert (session.status, subscription, till.money()) == ("open", None, 0)
    _, subscription = subscribe(till, "pm_card_chargeCustomerFail")
    control(till, "/control/advance", days=32)
    v1 = till.client().v1
    assert v1.subscriptions.retrieve(subscription.id).status == "past_due"
    control(till, "/control/advance", days=20)
    assert v1.subscriptions.retrieve(subscription.id).status == "canceled"
    assert told(till).count("invoice.payment_failed") == 4
    assert told(till)[-1] == "customer.subscription.deleted"
    assert till.money() == 1000


def test_another_price_is_settled_at_once_and_a_cheaper_one_leaves_a_balance(till):
    _, subscription = subscribe(till)
    v1, item = till.client().v1, subscription["items"].data[0].id

    def to(cents):
        asked = {"items": [{"id": item, "price": price(till, cents)}], "proration_behavior": "always_invoice"}
        return v1.subscriptions.update(subscription.id, asked)

    to(5000)
    assert till.money() == pytest.approx(5000, abs=2)  # hardly any of the month is over
    to(1000)
    control(till, "/control/advance", days=32)
    assert till.money() == pytest.approx(5000, abs=2)  # the balance has paid the next month
    till.knobs.decline = True
    with pytest.raises(stripe.CardError):
        to(9000)
    assert v1.subscriptions.retrieve(subscription.id)["items"].data[0].price.unit_amount == 1000


def test_its_holder_cancels_goes_on_and_pays_with_another_card_at_the_portal(till):
    _, subscription = subscribe(till, "pm_card_chargeCustomerFail")
    v1 = till.client().v1
    page = v1.billing_portal.sessions.create({"customer": subscription.customer, "return_url": "http://x/"})
    for act, ends in (("cancel", True), ("resume", False)):
        till.post(page.url, subscription=subscription.id, act=act)
        assert v1.subscriptions.retrieve(subscription.id).cancel_at_period_end is ends
    control(till, "/control/advance", days=32)
    _status, _location, shown = till.post(page.url, subscription=subscription.id, card="pm_card_visa")
    assert "renews" in shown
    assert (v1.subscriptions.retrieve(subscription.id).status, till.money()) == ("active", 2000)
    till.post(page.url, subscription=subscription.id, act="cancel")
    control(till, "/control/advance", days=32)
    assert (v1.subscriptions.retrieve(subscription.id).status, till.money()) == ("canceled", 2000)
