"""The stand-in for Stripe keeps the promises that the house relies on, through Stripe's own SDK."""

import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import stripe

from portal.demo.stripe.service import FakeStripe
from tests.stripes import KEY, SECRET, control, fake_stripe


@pytest.fixture
def till():
    with fake_stripe() as running:
        yield running


def intent_of(client, amount=1000, *, key="", method="pm_card_visa", **more):
    customer = client.v1.customers.create({"email": "a@example.com"}).id
    card = client.v1.payment_methods.attach(method, {"customer": customer}).id
    options = {"idempotency_key": key} if key else {}
    params = {
        "amount": amount,
        "currency": "usd",
        "customer": customer,
        "payment_method": card,
        "off_session": True,
        "confirm": True,
        "metadata": {"top_up": "top_1"},
    }
    return client.v1.payment_intents.create(params | more, options)


def session_of(client, amount=2500, **more):
    item = {"price_data": {"currency": "usd", "unit_amount": amount, "product_data": {"name": "Credit"}}, "quantity": 1}
    return client.v1.checkout.sessions.create(
        {
            "mode": "payment",
            "line_items": [item],
            "success_url": "http://localhost:1/done?s={CHECKOUT_SESSION_ID}",
            "cancel_url": "http://localhost:1/back",
            "client_reference_id": "top_1",
        }
        | more
    )


def customer_params():
    return {"email": "a@example.com"}


def test_the_same_key_and_question_get_the_same_answer(till):
    client = till.client()
    first = client.v1.customers.create(customer_params(), {"idempotency_key": "k"})
    again = client.v1.customers.create(customer_params(), {"idempotency_key": "k"})
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert client.v1.customers.create(customer_params(), {"idempotency_key": "other"}).id != first.id


def test_the_same_key_for_another_question_is_an_error(till):
    client = till.client()
    client.v1.customers.create(customer_params(), {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError) as refused:
        client.v1.customers.create({"email": "b@example.com"}, {"idempotency_key": "k"})
    assert refused.value.http_status == 400


def test_the_same_key_while_the_first_runs_is_a_conflict(till):
    till.knobs.update({"rules": [{"do": "slow=400", "path": "/v1/customers"}]})
    client = till.client()
    first = threading.Thread(target=lambda: client.v1.customers.create(customer_params(), {"idempotency_key": "k"}))
    first.start()
    time.sleep(0.15)
    with pytest.raises(stripe.StripeError) as refused:
        till.client().v1.customers.create(customer_params(), {"idempotency_key": "k"})
    first.join()
    assert refused.value.http_status == 409
    assert len(till.account.all("customer")) == 1


def test_a_decline_is_kept_and_a_wrong_question_is_not(till):
    client = till.client()
    customer = client.v1.customers.create({}).id
    card = client.v1.payment_methods.attach("pm_card_chargeDeclined", {"customer": customer}).id
    params = {"amount": 1000, "currency": "usd", "customer": customer, "payment_method": card, "confirm": True}
    for _ in range(2):
        with pytest.raises(stripe.CardError) as declined:
            client.v1.payment_intents.create(params, {"idempotency_key": "k"})
        assert declined.value.code == "card_declined"
    assert len(till.account.all("payment_intent")) == 1
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.create({"amount": 10, "currency": "usd"}, {"idempotency_key": "small"})
    client.v1.payment_intents.create({"amount": 100, "currency": "usd"}, {"idempotency_key": "small"})
    assert till.fake.log(KEY) == []


def test_a_lost_reply_is_found_again_by_its_key(till):
    till.knobs.update({"rules": [{"do": "lose", "path": "/v1/payment_intents"}]})
    client = till.client()
    customer = client.v1.customers.create({}).id
    card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    params = {"amount": 1000, "currency": "usd", "customer": customer, "payment_method": card, "confirm": True}
    with pytest.raises(stripe.APIConnectionError):
        client.v1.payment_intents.create(params, {"idempotency_key": "k"})
    assert till.money() == 1000
    assert client.v1.payment_intents.create(params, {"idempotency_key": "k"}).status == "succeeded"
    assert till.money() == 1000


@pytest.mark.parametrize(("do", "error"), [("status=429", stripe.RateLimitError), ("status=500", stripe.APIError)])
def test_a_refusal_before_the_work_leaves_nothing(till, do, error):
    till.knobs.update({"rules": [{"do": do, "path": "/v1/customers"}]})
    client = till.client()
    with pytest.raises(error):
        client.v1.customers.create(customer_params(), {"idempotency_key": "k"})
    assert till.account.all("customer") == []
    assert client.v1.customers.create(customer_params(), {"idempotency_key": "k"}).id


def test_a_failure_after_the_work_is_what_the_key_repeats(till):
    till.knobs.update({"rules": [{"do": "fail", "path": "/v1/customers"}]})
    client = till.client()
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            client.v1.customers.create(customer_params(), {"idempotency_key": "k"})
    assert len(till.account.all("customer")) == 1


def test_cards_decline_or_ask_as_their_numbers_promise(till):
    client = till.client()
    with pytest.raises(stripe.CardError) as asked:
        intent_of(client, method="pm_card_authenticationRequired")
    assert asked.value.code == "authentication_required"
    assert '"payment_intent": {"id": "pi_' in str(asked.value.http_body)
    assert intent_of(client, method="pm_card_authenticationRequired", off_session=False).status == "requires_action"
    with pytest.raises(stripe.CardError):
        intent_of(client, method="pm_card_chargeCustomerFail")
    assert intent_of(client).status == "succeeded"


def test_checkout_is_paid_on_its_page_once(till):
    client = till.client()
    session = session_of(client)
    page = urllib.request.urlopen(session.url)
    assert "no money moves" in (text := page.read().decode())
    assert "25.00 USD" in text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "script" not in text
    status, _place, text = till.post(session.url, card="pm_card_chargeDeclined")
    assert (status, till.money()) == (402, 0)
    assert "declined" in text
    status, place, _text = till.post(session.url, card="pm_card_visa")
    assert (status, place) == (303, f"http://localhost:1/done?s={session.id}")
    assert "This page is over" in till.post(session.url, card="pm_card_visa")[2]
    paid = client.v1.checkout.sessions.retrieve(session.id)
    assert (paid.status, paid.payment_status, till.money()) == ("complete", "paid", 2500)


def test_three_d_secure_is_asked_on_the_page(till):
    session = session_of(till.client())
    status, _place, text = till.post(session.url, card="pm_card_authenticationRequired")
    assert status == 200
    assert "Your bank asks" in text
    till.post(session.url, card="pm_card_authenticationRequired", passed="no")
    assert till.money() == 0
    assert till.post(session.url, card="pm_card_authenticationRequired", passed="yes")[0] == 303
    assert till.money() == 2500


def test_tax_is_added_to_what_is_paid_not_to_the_subtotal(till):
    session = session_of(till.client(), automatic_tax={"enabled": True})
    assert (session.amount_subtotal, session.amount_total) == (2500, 3000)


def test_refunds_disputes_and_their_ends_are_in_the_log_and_the_balance(till):
    client = till.client()
    intent = intent_of(client)
    part = client.v1.refunds.create({"payment_intent": intent.id, "amount": 300})
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 701})
    control(till, "/control/refund", refund=part.id, status="failed")
    dispute = control(till, "/control/dispute", payment_intent=intent.id)
    control(till, "/control/close_dispute", dispute=dispute["id"], status="won")
    assert [row["kind"] for row in till.fake.log(KEY)] == [
        "payment",
        "refund",
        "refund_failed",
        "dispute",
        "dispute_won",
    ]
    transactions = client.v1.balance_transactions.list({"limit": 100})
    assert sum(row.amount for row in transactions.data) == till.money() == 1000


def test_events_are_listed_newest_first_and_by_page(till):
    client = till.client()
    for _ in range(3):
        client.v1.customers.create({})
    intent_of(client)
    kinds = [event.type for event in client.v1.events.list({"limit": 2}).auto_paging_iter()]
    assert kinds[0] == "payment_intent.succeeded"
    assert kinds.count("customer.created") == 4
    some = client.v1.events.list({"types": ["customer.created"], "created": {"gte": 0}})
    assert {event.type for event in some.data} == {"customer.created"}


class Listener:
    def __init__(self):
        self.bodies: list[tuple[bytes, str]] = []
        self.answers: list[int] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                listener.bodies.append((body, self.headers["Stripe-Signature"]))
                self.send_response(listener.answers.pop(0) if listener.answers else 200)
                self.end_headers()

            def log_message(self, *_args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def events(self, count):
        deadline = time.monotonic() + 5
        while len(self.bodies) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        return [stripe.Webhook.construct_event(body, signature, SECRET).type for body, signature in self.bodies]


@pytest.fixture
def listener(till):
    found = Listener()
    control(till, "/control", accounts={KEY: {"url": found.url, "secrets": ["whsec_other", SECRET]}})
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_webhooks_are_signed_and_sent_again_until_answered(till, listener):
    listener.answers = [500]
    till.client().v1.customers.create({})
    assert listener.events(2) == ["customer.created"] * 2


def test_webhooks_are_lost_doubled_and_disordered_when_told(till, listener):
    client = till.client()
    till.knobs.update({"hooks": {"drop": True}})
    client.v1.customers.create({})
    client.v1.events.list()  # what the stand-in does after an answer is done before it gives the next
    till.knobs.update({"hooks": {"duplicate": 1}})
    client.v1.customers.create({})
    assert listener.events(2) == ["customer.created"] * 2
    listener.bodies.clear()
    till.knobs.update({"hooks": {"reorder": True}})
    client.v1.payment_intents.create({"amount": 1000, "currency": "usd"})
    session = session_of(client)
    till.post(session.url, card="pm_card_visa")
    kinds = listener.events(5)
    assert kinds.index("checkout.session.completed") < kinds.index("payment_intent.succeeded")
    assert kinds.index("payment_intent.succeeded") < kinds.index("charge.succeeded")


def test_what_it_knows_outlives_a_restart(tmp_path):
    file = tmp_path / "stripe.json"
    fake = FakeStripe(state_file=file)
    made = fake.account(KEY).new("customer", email="a@example.com", metadata={})
    fake.settle()
    assert FakeStripe(state_file=file).account(KEY).get("customer", made["id"]) == made
