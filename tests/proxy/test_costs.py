"""What a call cost is told in its own answer, and is what the books say."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from billing import money
from tests.proxy.shop import HELLO, Gateway, read_events

pytestmark = pytest.mark.django_db(transaction=True)
ASKED = [{"params": {"include": "cost"}}, {"headers": {"X-Include": "other, cost"}}]


def post(gateway: Gateway, asked: dict[str, Any], **fields: Any) -> httpx.Response:
    body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 16, **fields}
    return gateway.client.post("/chat/completions", json=body, **asked)


def test_a_whole_answer_says_what_it_cost(gateway: Gateway) -> None:
    answer = gateway.chat("demo:tokens=5")
    event = gateway.event_of(answer)
    assert event.cost_nanos > 0
    assert answer.headers["x-cost-nanos"] == str(event.cost_nanos)
    assert "cost" not in answer.json()["usage"], "nobody asked"


@pytest.mark.parametrize("asked", ASKED)
def test_usage_says_it_where_asked(gateway: Gateway, asked: dict[str, Any]) -> None:
    answer = post(gateway, asked)
    event = gateway.event_of(answer)
    assert answer.json()["usage"]["cost"] == money.amount(event.cost_nanos)
    assert answer.headers["x-cost-nanos"] == str(event.cost_nanos)


@pytest.mark.parametrize("asked", ASKED)
def test_a_stream_says_it_with_its_last_event(gateway: Gateway, asked: dict[str, Any]) -> None:
    answer = post(gateway, asked, stream=True)
    events = read_events(answer.content)
    usages = [event["usage"] for event in events if isinstance(event, dict) and event.get("usage")]
    assert [usage["cost"] for usage in usages] == [money.amount(gateway.event_of(answer).cost_nanos)]
    assert "x-cost-nanos" not in answer.headers, "the head left before anybody knew"


def test_a_stream_that_was_not_asked_says_nothing(gateway: Gateway) -> None:
    answer = post(gateway, {}, stream=True, stream_options={"include_usage": True})
    assert b'"cost"' not in answer.content
