"""What the dashboard shows of limits is what the gateway counts: /usage and its headers say the same figures."""

from __future__ import annotations

from datetime import UTC, datetime

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
    gateway.shop.inference.engine.control.update({"tokens_per_second": 40})
    body = {"model": "aion-v3", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 64, "stream": True}
    with gateway.client.stream("POST", "/chat/completions", json=body, headers=customer.headers) as response:
        next(response.iter_bytes())
        running = read(customer.organization)
        assert running["organization.tokens.day"].posted == 0
        assert running["organization.tokens.day"].held >= 64
        assert running["organization.concurrent"].posted == 1
    assert running["organization.tokens.day"].left == 100_000 - running["organization.tokens.day"].held


def _all(organization: Organization) -> tuple[Gauge, ...]:
    tier, _ = ladder.standing_of(organization)
    return gauges.of(organization, tier, datetime.now(UTC)).gauges
