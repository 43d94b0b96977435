"""What the dashboard shows of limits is what the gateway counts: /usage and its headers say the same figures."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from billing import gauges, ladder
from billing.gauges import Gauge
from keys.models import Organization
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def read(organization: Organization) -> dict[str, Gauge]:
    tier, _ = ladder.standing_of(organization)
    reading = gauges.of(organization, tier, datetime.now(UTC))
    assert reading.is_live
    return {gauge.name: gauge for gauge in reading.gauges}


def test_gauges_say_what_usage_and_headers_say(gateway: Gateway) -> None:
    customer = gateway.shop.customer(
        {"unit": "tokens", "window": "lifetime", "amount": 100_000},
        {"unit": "requests", "window": "day", "amount": 50},
        {"unit": "requests", "window": "minute", "amount": 50},
        {"unit": "concurrent", "window": "minute", "amount": 8},
        {"unit": "tokens", "window": "month", "amount": 90_000, "scope": "model"},
        {"unit": "requests", "window": "day", "amount": 60, "scope": "key"},
    )
    used = 0
    for number in range(1, 4):
        used += gateway.chat(headers=customer.headers).json()["usage"]["total_tokens"]
        said = gateway.client.get("/usage", headers=customer.headers)
        found = read(customer.organization)
        assert found["organization.tokens.lifetime"].posted == used == said.json()["tokens_used"]
        assert found["organization.tokens.lifetime"].left == said.json()["tokens_remaining"]
        assert found["organization.requests.day"].posted == number == said.json()["daily_stats"][-1]["requests"]
        assert found["organization.requests.minute"].posted == number
        assert found["key.requests.day"].posted == number
        assert found["organization.concurrent"].posted == 0
    by_model = [gauge for gauge in _all(customer.organization) if gauge.name == "model.tokens.month" and gauge.posted]
    assert [(gauge.model and gauge.model.slug, gauge.posted) for gauge in by_model] == [("aion-v3", used)]


def test_what_a_running_call_holds_is_shown_apart(gateway: Gateway) -> None:
    customer = gateway.shop.customer(
        {"unit": "tokens", "window": "day", "amount": 100_000}, {"unit": "concurrent", "window": "minute", "amount": 8}
    )
    gateway.shop.inference.engine.control.update({"tokens_per_second": 4})
    messages = [{"role": "user", "content": "demo:tokens=64"}]
    body = {"model": "aion-v3", "messages": messages, "max_tokens": 64, "stream": True}
    with gateway.client.stream("POST", "/chat/completions", json=body, headers=customer.headers) as response:
        next(response.iter_bytes())
        running = read(customer.organization)
        assert running["organization.tokens.day"].posted == 0
        assert running["organization.tokens.day"].held >= 64
        assert running["organization.concurrent"].posted == 1
    assert running["organization.tokens.day"].left == 100_000 - running["organization.tokens.day"].held


def test_a_month_that_begins_on_another_day_is_the_same_everywhere(gateway: Gateway) -> None:
    """The account's month ends tomorrow, whatever the calendar says."""
    shop, tomorrow = gateway.shop, datetime.now(UTC).date() + timedelta(days=1)
    brand = shop.new_brand("anchored", "an-", month_anchor=tomorrow.day)
    shop.new_tier("anchored", {"unit": "requests", "window": "month", "amount": 1}, brand=brand, is_default=True)
    shop.new_model("small", "demo-chat", brand=brand)
    organization = shop.new_organization("monthly", credit="10", brand=brand)
    headers = {"authorization": f"Bearer {shop.new_key(organization).secret}"}
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    first, second = (
        gateway.client.post(f"{gateway.root}/anchored/v1/chat/completions", json=body, headers=headers)
        for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC)
    hours = (midnight - datetime.now(UTC)).total_seconds() / 3600
    said = re.match(r"(?:(\d+)h)?", second.headers["x-ratelimit-reset-requests"])
    assert said is not None
    assert abs(int(said[1] or 0) - hours) <= 1
    gauge = read(organization)["organization.requests.month"]
    assert (gauge.posted, gauge.resets_at) == (1, midnight)


def _all(organization: Organization) -> tuple[Gauge, ...]:
    tier, _ = ladder.standing_of(organization)
    return gauges.of(organization, tier, datetime.now(UTC)).gauges
