"""A limit that refuses says what it is, what is used and when it resets: in every dialect's body and headers, for each
window and unit, by the brand's own midnight."""

from __future__ import annotations

import itertools
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from billing import prices
from billing.models import Model, Payer
from keys.models import Brand
from proxy.dialects import DIALECTS
from tests.proxy.shop import ACTOR, Gateway

pytestmark = pytest.mark.django_db(transaction=True)
ZONE = ZoneInfo("Asia/Kolkata")
AMOUNTS = {"requests": 1, "tokens": 27, "credits": 3}
"""What one call takes: eleven tokens of prompt, of which five are the message's bytes, and sixteen of answer."""
MESSAGE = "\n" * 5
_numbers = itertools.count(100)
BODY = {"messages": [{"role": "user", "content": MESSAGE}], "max_tokens": 16}


@pytest.fixture(scope="module")
def stands(gateway: Gateway) -> dict[str, tuple[Brand, Model]]:
    """A brand of each dialect, with one model that counts credits."""
    found = {}
    for dialect in DIALECTS:
        slug = f"says-{dialect}"
        brand = gateway.shop.new_brand(slug, f"{slug}_", dialect=dialect, timezone=str(ZONE), default_model="one")
        fields = {"tokens_per_message": 3, "tokens_per_call": 3}
        model = gateway.shop.new_model("one", "demo-chat", brand=brand, per_million=None, **fields)
        prices.set_price(
            model=model,
            actor=ACTOR,
            per_million={"input": "1", "output": "1"},
            credits_per_request=1,
            credits_per_1000_tokens=70,
        )
        found[dialect] = brand, model
    return found


def end_of(window: str) -> datetime:
    now = datetime.now(ZONE)
    day = now.date() + timedelta(days=1)
    if window == "month":
        day = (now.date().replace(day=1) + timedelta(days=32)).replace(day=1)
    return datetime(day.year, day.month, day.day, tzinfo=ZONE).astimezone(UTC)


def seconds_of(duration: str) -> float:
    """Of Go's notation."""
    factors = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * factors[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


def used_up(gateway: Gateway, stand: tuple[Brand, Model], unit: str, window: str) -> tuple[httpx.Response, float]:
    """The refusal of the second call, and when it came, with a customer to whom one call is allowed."""
    brand, shop = stand[0], gateway.shop
    shop.inference.engine.control.update({"rules": [{"do": "fill"}]})
    amount = AMOUNTS[unit]
    limit = {"unit": unit, "window": window, "amount": amount}
    slug = f"{unit}-{window}"
    rank = 10 + len(AMOUNTS) * ("minute", "day", "month").index(window) + list(AMOUNTS).index(unit)
    tier = shop.new_tier(slug, limit, brand=brand, rank=rank, payer=Payer.INCLUDED)
    key = shop.new_key(shop.new_organization(slug, brand=brand, tier=tier)).secret
    url, headers = f"{gateway.root}/{brand.slug}/v1/chat/completions", {"authorization": f"Bearer {key}"}
    first = gateway.client.post(url, json=BODY, headers=headers)
    assert first.status_code == 200, first.text
    deadline = time.monotonic() + 5
    while (answer := gateway.client.post(url, json=BODY, headers=headers)).status_code == 429:
        if (
            "in_flight" not in answer.text or time.monotonic() > deadline
        ):  # the first one settles right behind its answer
            break
    return answer, time.time()


def reset_in_body(name: str, body: dict[str, Any]) -> datetime:
    if name == "aimichat":
        said = str(body["resetAt"])
    else:
        found = re.search(r"resets at (\S+Z)", body["error"]["message"])
        assert found is not None, body
        said = found[1]
    return datetime.fromisoformat(said)


def reset_in_headers(name: str, headers: httpx.Headers, unit: str, at: float) -> datetime:
    if name == "aimichat":
        return datetime.fromisoformat(headers["x-ratelimit-reset"])
    return datetime.fromtimestamp(at + seconds_of(headers[f"x-ratelimit-reset-{unit}"]), UTC)


@pytest.mark.parametrize("unit", AMOUNTS)
@pytest.mark.parametrize("window", ["minute", "day", "month"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_limit_that_refuses_says_limit_used_and_reset(
    gateway: Gateway, stands: dict[str, tuple[Brand, Model]], name: str, window: str, unit: str
) -> None:
    amount = AMOUNTS[unit]
    answer, at = used_up(gateway, stands[name], unit, window)
    assert answer.status_code == 429
    body = answer.json()
    if name == "aimichat":
        assert (body["limit"], body["used"]) == (amount, amount)
        assert answer.headers["x-ratelimit-limit"] == str(amount)
        assert answer.headers["x-ratelimit-remaining"] == "0"
    else:
        message = body["error"]["message"]
        says = (f"{amount} of {amount} used", f"{amount} {unit} per {window}, {amount} used")
        assert any(words in message for words in says), message
        assert answer.headers[f"x-ratelimit-limit-{unit}"] == str(amount)
        assert answer.headers[f"x-ratelimit-remaining-{unit}"] == "0"
    if name == "axione":
        assert answer.headers[f"x-ratelimit-used-{unit}"] == str(amount)
    in_body, in_headers = reset_in_body(name, body), reset_in_headers(name, answer.headers, unit, at)
    assert abs(in_body - in_headers) <= timedelta(seconds=3)
    if window == "minute":
        assert timedelta(seconds=55) < in_body - datetime.fromtimestamp(at, UTC) <= timedelta(seconds=121)
    else:
        assert in_body == end_of(window)
        assert abs(float(answer.headers["retry-after"]) - (in_body.timestamp() - at)) <= 3


def customer(
    gateway: Gateway,
    stand: tuple[Brand, Model],
    *limits: dict[str, Any],
    payer: Payer = Payer.INCLUDED,
    credit: str = "",
    **key: Any,
) -> tuple[str, dict[str, str]]:
    """Where to call, and with what headers, on a tier of one's own."""
    brand, shop = stand[0], gateway.shop
    number = next(_numbers)
    tier = shop.new_tier(f"own-{number}", *limits, brand=brand, rank=number, payer=payer)
    organization = shop.new_organization(f"own-{number}", brand=brand, tier=tier, credit=credit)
    secret = shop.new_key(organization, **key).secret
    return f"{gateway.root}/{brand.slug}/v1/chat/completions", {"authorization": f"Bearer {secret}"}


def first_refusal(gateway: Gateway, url: str, headers: dict[str, str]) -> tuple[int, httpx.Response]:
    """How many calls were served, and the refusal of the next one."""
    gateway.shop.inference.engine.control.update({"rules": [{"do": "fill"}]})
    served, deadline = 0, time.monotonic() + 5
    while True:
        answer = gateway.client.post(url, json=BODY, headers=headers)
        if answer.status_code == 200:
            served += 1
        elif "in_flight" not in answer.text or time.monotonic() > deadline:
            return served, answer


def shown(name: str, headers: httpx.Headers, unit: str) -> tuple[str | None, str | None]:
    """(limit, remaining) of the rate headers."""
    tail = "" if name == "aimichat" else f"-{unit}"
    return headers.get(f"x-ratelimit-limit{tail}"), headers.get(f"x-ratelimit-remaining{tail}")


Stands = dict[str, tuple[Brand, Model]]
ALL_NAMES = pytest.mark.parametrize("name", DIALECTS)


@ALL_NAMES
def test_a_lifetime_that_is_used_up_never_resets(gateway: Gateway, stands: Stands, name: str) -> None:
    limit = {"unit": "requests", "window": "lifetime", "amount": 1}
    served, answer = first_refusal(gateway, *customer(gateway, stands[name], limit))
    assert (served, answer.status_code) == (1, 429)
    assert shown(name, answer.headers, "requests") == ("1", "0")
    assert not [header for header in answer.headers if header.startswith("x-ratelimit-reset")]
    assert answer.headers["x-should-retry"] == "false"
    if name == "aimichat":
        body = answer.json()
        assert (body["message"], body["limit"], body["used"]) == ("Total request limit reached", 1, 1)
        assert body["resetAt"] is None
    elif name == "dialogix":
        assert "You have used up the 1 requests of your tier." in answer.text
    else:
        assert "1 requests in total, 1 used" in answer.text
    assert "resets at" not in answer.text


@ALL_NAMES
def test_calls_at_once_say_how_many_may_run(gateway: Gateway, stands: Stands, name: str) -> None:
    limits = {"unit": "concurrent", "window": "minute", "amount": 1}, {"unit": "credits", "window": "day", "amount": 99}
    url, headers = customer(gateway, stands[name], *limits)
    gateway.shop.inference.engine.control.update({"rules": [{"do": "fill rate=40"}]})
    with gateway.client.stream("POST", url, json=BODY | {"stream": True}, headers=headers) as running:
        assert running.status_code == 200
        answer = gateway.client.post(url, json=BODY, headers=headers)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert "1 running requests" in answer.text
    if name == "aimichat":
        assert (answer.json()["limit"], answer.json()["used"]) == (1, 1)
        assert shown(name, answer.headers, "concurrent") == ("1", "0")


@ALL_NAMES
def test_a_spend_that_is_used_up_names_no_sums(gateway: Gateway, stands: Stands, name: str) -> None:
    """A call of eleven tokens and sixteen costs 27,000 nanos."""
    limit = {"unit": "nanos", "window": "month", "amount": 27_000}
    served, answer = first_refusal(gateway, *customer(gateway, stands[name], limit, payer=Payer.PREPAID, credit="1"))
    assert (served, answer.status_code) == (1, stands[name][0].money_refusal_status)
    assert "27,000" not in answer.text
    assert "27000" not in answer.text + str(answer.headers)
    if name == "aimichat":
        assert answer.json()["message"] == "Monthly spend limit reached"
    else:
        assert f"spend per month, resets at {end_of('month'):%Y-%m-%dT%H:%M:%SZ}" in answer.text
    assert answer.headers["x-should-retry"] == "false"


@ALL_NAMES
def test_of_a_day_and_a_month_that_are_used_up_the_month_is_named(gateway: Gateway, stands: Stands, name: str) -> None:
    limits = [{"unit": "requests", "window": window, "amount": amount} for window, amount in (("day", 2), ("month", 2))]
    served, answer = first_refusal(gateway, *customer(gateway, stands[name], *limits))
    assert (served, answer.status_code) == (2, 429)
    assert reset_in_body(name, answer.json()) == end_of("month")
    assert shown(name, answer.headers, "requests") == ("2", "0")


@ALL_NAMES
def test_a_used_up_allotment_is_not_named_while_the_balance_pays(gateway: Gateway, stands: Stands, name: str) -> None:
    limits = (
        {"unit": "requests", "window": "day", "amount": 2},
        {"unit": "requests", "window": "month", "amount": 1, "is_allotment": True},
    )
    stand = stands[name]
    included = Payer.INCLUDED_THEN_PREPAID
    served, answer = first_refusal(gateway, *customer(gateway, stand, *limits, payer=included, credit="5"))
    assert (served, answer.status_code) == (2, 429)
    assert shown(name, answer.headers, "requests") == ("2", "0")
    assert reset_in_body(name, answer.json()) == end_of("day")
    served, answer = first_refusal(gateway, *customer(gateway, stand, *limits, payer=included))
    assert served == 1, "and nothing pays past it"
    assert shown(name, answer.headers, "requests") == ("1", "0")
    assert reset_in_body(name, answer.json()) == end_of("month")


@ALL_NAMES
def test_headers_show_the_limit_that_refused_not_one_with_room(gateway: Gateway, stands: Stands, name: str) -> None:
    limits = {"unit": "credits", "window": "day", "amount": 900}, {"unit": "requests", "window": "month", "amount": 5}
    own = [{"unit": "requests", "window": "day", "amount": 1}]
    url, headers = customer(gateway, stands[name], *limits, limits=own)
    served, answer = first_refusal(gateway, url, headers)
    assert (served, answer.status_code) == (1, 429)
    assert shown(name, answer.headers, "requests") == ("1", "0")
    if name == "aimichat":
        assert answer.headers["x-ratelimit-reset"] == f"{end_of('day'):%Y-%m-%dT%H:%M:%SZ}"
        assert answer.json()["limit"] == 1
    else:
        assert shown(name, answer.headers, "credits")[0] == "900", "other units show what they have left"
