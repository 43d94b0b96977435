"""A limit that refuses says what it is, what is used and when it resets: in every dialect's body and headers, for each
window and unit, by the brand's own midnight."""

from __future__ import annotations

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
