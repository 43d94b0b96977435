"""Paying, as the people of an account see it, and the door that Stripe's webhooks come in by."""

import json
from datetime import UTC, datetime

import pytest

from billing import auto_top_ups, stripe_events, stripe_gateway
from billing.models import Notice
from billing.payment_models import AutoTopUp, StripeEvent, TopUp
from portal import notify
from portal.demo.stripe.hooks import signature
from tests import cast as casting
from tests.stripes import SECRET, begin, connected, credited, fake_stripe, keep_card


@pytest.fixture(scope="module")
def running():
    with fake_stripe() as found:
        yield found


@pytest.fixture
def till(running, cast, monkeypatch):
    running.fake.__init__()
    monkeypatch.setattr(stripe_gateway, "RETRIES", 0)
    connected(running, cast.brand)
    return running


def path(cast, name):
    return f"/{cast.organization.public_id}/balance/{name}"


def pay_now(cast, amount="25", **more):
    return casting.browser_of(cast.owner).post(path(cast, "add/"), {"choice": amount, **more})


def test_without_an_account_the_pages_say_so(cast):
    owner = casting.browser_of(cast.owner)
    assert "Add credit" not in owner.get(path(cast, "")).content.decode()
    for name in ("add/", "automatic/"):
        assert "Payments by card are not set up here" in owner.get(path(cast, name)).content.decode()
    assert pay_now(cast).status_code == 200
    assert not TopUp.objects.exists()
    assert "not set up here" in owner.post(path(cast, "card/"), follow=True).content.decode()


def test_from_the_form_to_stripe_and_back_to_more_credit(till, cast):
    page = pay_now(cast)
    row = TopUp.objects.get()
    assert row.checkout_url.replace("&", "&amp;") in page.content.decode()
    assert f"{till.base_url}/c/pay/" in row.checkout_url
    _status, back, _page = till.post(row.checkout_url, card="pm_card_visa")
    assert back.startswith("http://testserver/")
    owner = casting.browser_of(cast.owner)
    assert "$25.00 of credit was added" in owner.get(back).content.decode()
    assert credited(cast.organization) == 2500
    assert ">$25.00<" in owner.get(path(cast, "")).content.decode()


def test_the_address_of_success_credits_nothing_unpaid(till, cast):
    pay_now(cast)
    row = TopUp.objects.get()
    back = f"{row.return_url}&returned=1"
    page = casting.browser_of(cast.owner).get(back).content.decode()
    assert "Waiting for the payment" in page
    assert 'http-equiv="refresh"' in page
    assert credited(cast.organization) == 0


def test_a_payment_of_another_account_is_not_shown(till, cast):
    row = begin(cast.elsewhere)
    answer = casting.browser_of(cast.owner).get(path(cast, f"payments/?top_up={row.public_id}"))
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"amount": "other", "other": "0.10"}, "least that can be paid is 0.50 USD"),
        ({"amount": "other", "other": "ten"}, "plain decimal"),
        ({"amount": "other", "other": "10.001"}, "multiples of 0.01"),
        ({"amount": "7"}, "Select a valid choice"),
        ({"amount": "25", "other": "12.34"}, "$25.00 is chosen above. Choose “Another amount” there"),
    ],
)
def test_what_cannot_be_paid_is_said(till, cast, fields, said):
    page = pay_now(cast, fields["amount"], other=fields.get("other", "")).content.decode()
    assert said in page
    assert not TopUp.objects.exists()


def test_while_stripe_is_away_the_page_says_so(till, cast):
    till.knobs.update({"rules": [{"do": "status=500", "path": "/v1/", "times": 9}]})
    assert "does not answer just now" in pay_now(cast).content.decode()


def test_payments_are_tried_so_often_only(till, cast):
    owner = casting.browser_of(cast.owner)
    answers = [owner.post(path(cast, "add/"), {"choice": "7"}).status_code for _ in range(21)]
    assert answers == [200] * 20 + [429]


def test_automatic_top_ups_are_set_and_turned_off(till, cast):
    owner = casting.browser_of(cast.owner)
    wish = {"threshold": "5", "amount": "20", "monthly_cap": "100", "on": "1"}
    assert "Keep a card first" in owner.post(path(cast, "automatic/"), wish).content.decode()
    keep_card(till, cast.organization)
    assert "at least" in owner.post(path(cast, "automatic/"), wish | {"monthly_cap": "10"}).content.decode().lower()
    page = owner.post(path(cast, "automatic/"), wish, follow=True).content.decode()
    assert "Automatic top-ups are on" in page
    assert "ending in 4242" in page
    assert AutoTopUp.objects.get().threshold_nanos == 5 * 10**9
    owner.post(path(cast, "automatic/"), {"off": "1"})
    assert not AutoTopUp.objects.get().is_on


def test_a_card_is_left_at_stripe_and_forgotten(till, cast):
    owner = casting.browser_of(cast.owner)
    assert f"{till.base_url}/c/pay/" in owner.post(path(cast, "card/"), {"keep": "1"}).content.decode()
    keep_card(till, cast.organization)
    assert "is forgotten" in owner.post(path(cast, "card/"), {"forget": "1"}, follow=True).content.decode()
    assert f"{till.base_url}/p/session/" in owner.post(path(cast, "stripe/")).content.decode()


def test_mails_tell_what_became_of_payments(till, cast, mailoutbox):
    from datetime import timedelta

    keep_card(till, cast.organization, "pm_card_authenticationRequired")
    auto_top_ups.put(
        organization=cast.organization,
        threshold_nanos=10**10,
        amount_nanos=2 * 10**10,
        monthly_cap_nanos=2 * 10**10,
        actor="owner",
    )
    auto_top_ups.run(datetime.now(UTC))
    row = begin(cast.organization)
    till.post(row.checkout_url, card="pm_card_visa")
    till.client().v1.refunds.create({"payment_intent": till.account.all("charge")[0]["payment_intent"]})
    stripe_events.look(row, datetime.now(UTC) + timedelta(seconds=1))
    stripe_events.poll(datetime.now(UTC))
    while stripe_events.work(datetime.now(UTC)):
        pass
    notify.deliver(now=datetime.now(UTC))
    said = "\n".join(f"{mail.subject}\n{mail.body}" for mail in mailoutbox)
    assert "Your bank wants you to confirm this payment of $20.00" in said
    assert "$25.00 of credit was added" in said
    assert "$25.00 of credit was taken back" in said
    assert Notice.objects.filter(sent_at=None).count() == 0


# Webhooks


def send(client, account, body, secret=SECRET):
    signed = signature(body, [secret], int(datetime.now(UTC).timestamp()))
    place = f"/webhooks/stripe/{account.public_id}/"
    return client.post(place, body, content_type="application/json", headers={"stripe-signature": signed})


def event(till, **more):
    till.client().v1.customers.create({})
    return json.dumps({**till.account.all("event")[0], **more})


def test_a_webhook_is_recorded_once_and_answered(till, cast, client):
    account = cast.brand.stripe_accounts.get()
    body = event(till)
    assert [send(client, account, body).status_code for _ in range(2)] == [200, 200]
    assert StripeEvent.objects.get().kind == "customer.created"


def test_webhooks_that_stripe_did_not_sign_leave_no_row(till, cast, client):
    account = cast.brand.stripe_accounts.get()
    assert send(client, account, event(till), "whsec_other").status_code == 400
    assert send(client, account, event(till, livemode=True)).status_code == 400
    assert send(client, account, "x" * 1_100_000).status_code == 400
    assert client.post(f"/webhooks/stripe/{account.public_id}/", b"\xff", content_type="x").status_code == 400
    assert client.get(f"/webhooks/stripe/{account.public_id}/").status_code == 405
    account.public_id = "pay_22222222222222222222"
    assert send(client, account, event(till)).status_code == 404
    assert not StripeEvent.objects.exists()


def test_a_webhook_needs_no_broker(till, cast, client, monkeypatch):
    from kombu.exceptions import OperationalError

    from portal.celery import app

    def gone(*_args, **_kwargs):
        raise OperationalError("no broker")

    monkeypatch.setattr(app, "send_task", gone)
    assert send(client, cast.brand.stripe_accounts.get(), event(till)).status_code == 200
    assert StripeEvent.objects.count() == 1
