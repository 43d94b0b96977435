"""On the wire: a further account of somebody pays for what its tier includes, from the next request on."""

import httpx
import pytest

from billing.money import nanos
from keys import organizations
from tests.proxy.shop import ACTOR, HELLO, Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_further_account_is_refused_until_it_can_pay_and_free_again_when_it_is_no_further_one(
    gateway: Gateway,
) -> None:
    shop = gateway.shop
    customer = shop.customer({"unit": "requests", "window": "day", "amount": 100}, credit="", payer="included")
    body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 16}

    def call() -> httpx.Response:
        return httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=customer.headers, timeout=10)

    assert call().status_code == 200
    organizations.change(organization=customer.organization, actor=ACTOR, is_further=True)
    refused = call()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "prepaid balance" in refused.json()["error"]["message"]
    shop.grant(customer.organization, nanos("1"))
    paid = gateway.event_of(call())
    assert (paid.payer, paid.cost_nanos) == ("prepaid", paid.list_cost_nanos)
    assert paid.cost_nanos > 0
    organizations.change(organization=customer.organization, actor=ACTOR, is_further=False)
    free = gateway.event_of(call())
    assert (free.payer, free.cost_nanos) == ("included", 0)
