"""Stripe for tests: the demo's stand-in, in this process, on loopback, in a thread of its own."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import stripe

from billing import cards, ledger, stripe_accounts, top_ups
from billing.payment_models import StripeAccount, StripeCustomer, TopUp
from keys.models import Brand, Organization
from portal.demo.stripe.account import Account
from portal.demo.stripe.service import FakeStripe
from tests.inference import served

KEY = "sk_test_brand_0001"
SECRET = "whsec_test_0001"


class Stripe:
    """A running fake. `fake.knobs`, `fake.log(KEY)` and `account` may be read and set from the test's thread."""

    def __init__(self, fake: FakeStripe, port: int) -> None:
        self.fake = fake
        self.base_url = f"http://127.0.0.1:{port}"

    @property
    def account(self) -> Account:
        return self.fake.account(KEY)

    @property
    def knobs(self) -> Any:
        return self.fake.knobs

    def client(self, **options: Any) -> stripe.StripeClient:
        return stripe.StripeClient(KEY, base_addresses={"api": self.base_url}, **({"max_network_retries": 0} | options))

    def money(self) -> int:
        """What Stripe received and still has of everybody, in minor units."""
        return sum(moved["amount"] for moved in self.fake.log(KEY))

    def post(self, url: str, **form: str) -> tuple[int, str, str]:
        """As a browser sends a form of its pages: status, location, page."""
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", parts.path, urlencode(form), kind)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("location", ""), answer.read().decode()
        finally:
            connection.close()


@contextmanager
def fake_stripe() -> Iterator[Stripe]:
    fake = FakeStripe()
    with served(fake) as port:
        yield Stripe(fake, port)


def connected(running: Stripe, brand: Brand, **options: Any) -> StripeAccount:
    """The brand takes payments through the fake."""
    return stripe_accounts.connect(
        brand=brand, secret_key=KEY, actor="operator", webhook_secret=SECRET, api_base=running.base_url, **options
    )


def keep_card(running: Stripe, organization: Organization, card: str = "pm_card_visa") -> StripeCustomer:
    row = cards.customer(stripe_accounts.active(organization.brand), organization)
    method = running.client().v1.payment_methods.attach(card, {"customer": row.customer_id})
    cards.keep(row, method.id)
    return row


def begin(organization: Organization, units: int = 25, **options: Any) -> TopUp:
    wanted: dict[str, Any] = {
        "amount_nanos": units * 10**9,
        "return_url": "http://localhost/t/?top_up={top_up}",
        "actor": "test",
    }
    return top_ups.start(organization=organization, **wanted, **options)


def credited(organization: Organization) -> int:
    """Minor units (cents) of the wallet, exactly."""
    nanos = ledger.balance_nanos(organization)
    assert nanos % 10**7 == 0
    return nanos // 10**7


def control(running: Stripe, path: str, **wish: Any) -> Any:
    """What banks do, and an operator of the fake."""
    request = urllib.request.Request(running.base_url + path, json.dumps(wish).encode(), method="POST")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
