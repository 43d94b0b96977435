"""Floods that are refused are answered by the worker itself; who is served, is served on."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext

import httpx
import pytest

from billing.money import nanos
from keys import tokens
from keys.caller import SHARDS
from proxy import guard as guarding
from proxy.guard import Guard
from proxy.refusals import Declined
from tests.proxy.shop import HELLO, Customer, Gateway, Shop, serve

pytestmark = pytest.mark.django_db(transaction=True)

REFUSALS, UNKNOWN = 30, 20
BODY = {"model": "aion-v3", "messages": HELLO, "max_tokens": 16}
TOO_MANY = "too_many_refused_requests"


@pytest.fixture(scope="module")
def gateway(shop: Shop) -> Iterator[Gateway]:
    with serve(shop) as served:
        yield served


@pytest.fixture(autouse=True)
def _narrow_guard(request: pytest.FixtureRequest) -> None:
    if "gateway" in request.fixturenames:
        request.getfixturevalue("gateway").worker.guard = Guard(REFUSALS, UNKNOWN)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def unknown_key() -> str:
    return tokens.mint("ak-", os.urandom(tokens.RANDOM_BYTES))


def call(gateway: Gateway, secret: str) -> httpx.Response:
    return gateway.client.post("/chat/completions", json=BODY, headers={"authorization": f"Bearer {secret}"})


def codes(answers: list[httpx.Response]) -> Counter[str]:
    return Counter(answer.json()["error"]["code"] if answer.status_code != 200 else "served" for answer in answers)


def asked(shop: Shop) -> Counter[str]:
    """Commands so far that calls cause: not the refusal log's one entry a second, nor the worker's regular look at the
    epochs of all shards, which is that many GETs at once."""
    stats = shop.store.info("commandstats")
    names = ("get", "eval", "evalsha", "hmget", "hget")
    return Counter({name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names})


def since(before: Counter[str], shop: Shop) -> Counter[str]:
    spent = asked(shop) - before
    spent["get"] %= SHARDS
    return spent


def at_rest(shop: Shop) -> Counter[str]:
    """`asked`, once what earlier calls left to be done is done."""
    deadline = time.monotonic() + 10
    found = asked(shop)
    while time.monotonic() < deadline:
        time.sleep(0.15)
        if (now := asked(shop)) == found:
            break
        found = now
    return found


def exhausted(shop: Shop) -> Customer:
    return shop.customer({"unit": "requests", "window": "lifetime", "amount": 0}, credit="1", payer="prepaid")


def test_a_flood_of_keys_that_nobody_has_is_put_off_without_asking_anybody(gateway: Gateway) -> None:
    shop = gateway.shop
    assert gateway.chat().status_code == 200
    first = [call(gateway, unknown_key()) for _ in range(UNKNOWN)]
    assert {answer.status_code for answer in first} == {401}
    before = at_rest(shop)
    flood = [call(gateway, unknown_key()) for _ in range(100)]
    spent = since(before, shop)
    found = codes(flood)
    assert set(found) <= {TOO_MANY, "invalid_api_key"}
    # Every second one key in three is looked up again, with two commands at the most (and a sweep's).
    assert found["invalid_api_key"] <= 3
    assert spent.total() <= 2 * found["invalid_api_key"] + 10, spent
    refused = next(answer for answer in flood if answer.status_code == 429)
    assert (int(refused.headers["retry-after"]), refused.headers["x-should-retry"]) >= (1, "true")
    assert f"{UNKNOWN} unknown API keys per minute from your address" in refused.json()["error"]["message"]
    assert {gateway.chat().status_code for _ in range(5)} == {200}  # the same address, a key that the worker knows


def test_past_the_bounds_nothing_is_asked_at_all(gateway: Gateway) -> None:
    """By a clock that stands still nobody is due for another look."""
    gateway.worker.guard = Guard(1, 1, clock=Clock())
    secret = exhausted(gateway.shop).issued.secret
    assert codes([call(gateway, secret), call(gateway, unknown_key())]).keys() == {
        "insufficient_quota",
        "invalid_api_key",
    }
    before = at_rest(gateway.shop)
    flood = [call(gateway, bad) for _ in range(60) for bad in (secret, unknown_key())]
    assert codes(flood) == {TOO_MANY: 120}
    assert since(before, gateway.shop).total() <= 2  # a beat of the worker's own may fall in between


def test_a_key_that_is_met_for_the_first_time_behind_a_flood_is_served_when_it_comes_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "PUT_OFF_SECONDS", 0.2)
    honest = gateway.shop.customer(credit="1").issued.secret
    for _ in range(UNKNOWN + 5):
        call(gateway, unknown_key())
    put_off = call(gateway, honest)
    assert (put_off.status_code, put_off.json()["error"]["code"]) == (429, TOO_MANY)
    for _ in range(20):
        call(gateway, unknown_key())
    time.sleep(0.2)
    assert call(gateway, honest).status_code == 200


def test_keys_that_are_somebodys_never_count_for_their_address(gateway: Gateway) -> None:
    customer = gateway.shop.customer(credit="1").organization
    for _ in range(UNKNOWN + 5):
        assert call(gateway, gateway.shop.new_key(customer).secret).status_code == 200


def test_a_flood_by_a_key_without_quota_is_refused_under_its_own_name(gateway: Gateway) -> None:
    customer, other = exhausted(gateway.shop), gateway.shop.customer(credit="1")
    secret = customer.issued.secret
    first = [call(gateway, secret) for _ in range(REFUSALS)]
    assert codes(first).keys() == {"insufficient_quota"}
    before = at_rest(gateway.shop)
    flood = [call(gateway, secret) for _ in range(100)]
    spent = since(before, gateway.shop)
    found = codes(flood)
    assert found.keys() <= {TOO_MANY, "insufficient_quota"}
    assert found[TOO_MANY] >= 90
    assert spent.total() <= 3 * found["insufficient_quota"] + 10, (spent, found)
    refused = next(answer for answer in flood if answer.json()["error"]["code"] == TOO_MANY)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert int(refused.headers["retry-after-ms"]) <= 60_000 / REFUSALS
    assert call(gateway, other.issued.secret).status_code == 200


def test_a_top_up_ends_it_with_the_next_call_that_is_judged(gateway: Gateway) -> None:
    shop = gateway.shop
    organization = shop.new_organization("empty")
    secret = shop.new_key(organization).secret
    assert codes([call(gateway, secret) for _ in range(REFUSALS + 20)])[TOO_MANY] >= 18
    shop.grant(organization, nanos("1"))
    began = time.monotonic()
    while (answer := call(gateway, secret)).status_code != 200:  # does not wait as it is told
        assert answer.json()["error"]["code"] == TOO_MANY
    assert time.monotonic() - began <= 60 / REFUSALS + 0.5
    assert codes([call(gateway, secret) for _ in range(REFUSALS + 10)]) == {"served": REFUSALS + 10}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "PUT_OFF_MAX", 50)
    guard = Guard(REFUSALS, 1, clock=Clock())

    class Stranger:
        address = "192.0.2.1"
        counted_at = None

    for number in range(500):
        with pytest.raises(Declined) if number else nullcontext():
            guard.look_up(Stranger(), number.to_bytes(4, "big"))  # type: ignore[arg-type]
    assert len(guard._put_off) == 50
