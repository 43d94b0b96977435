"""What a call cost is told in its own answer, and is what the books say."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from billing import money
from proxy.dialects import DIALECTS
from tests.proxy.shop import HELLO, Gateway, read_events
from tests.proxy.test_responses import read_events as read_response_events

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


# Every dialect, every kind of answer


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_surface_says_it_on_every_kind_of_answer(gateway: Gateway, dialect: str) -> None:
    shop = gateway.shop
    brand = shop.new_brand(f"told-{dialect}", f"t{dialect[:4]}-", dialect=dialect)
    shop.new_tier(f"told-{dialect}", brand=brand, is_default=True)
    shop.new_model("chat", "demo-chat", brand=brand)
    shop.new_model("embed", "demo-embed", brand=brand, context_length=8_192, features=["embeddings"])
    key = shop.new_key(shop.new_organization("told", credit="10", brand=brand)).secret
    headers = {"authorization": f"Bearer {key}", "x-include": "cost"}
    answers = {}
    with httpx.Client(base_url=f"{gateway.root}/{brand.slug}/v1", headers=headers, timeout=30) as client:
        for name, path, body in CALLS:
            answers[name] = client.post(path, json=body)
            assert answers[name].status_code == 200, answers[name].text
    for name, answer in answers.items():
        cost = gateway.event_of(answer).cost_nanos
        assert cost > 0, name
        assert usage_of(name, answer)["cost"] == money.amount(cost), name
        if "stream" not in name:
            assert answer.headers["x-cost-nanos"] == str(cost), name


CHAT: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 16}
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("chat", "/chat/completions", CHAT),
    ("chat streamed", "/chat/completions", CHAT | {"stream": True}),
    ("completion", "/completions", {"model": "chat", "prompt": "Hello", "max_tokens": 16}),
    ("response", "/responses", {"model": "chat", "input": "Hello", "max_output_tokens": 16}),
    ("response streamed", "/responses", {"model": "chat", "input": "Hello", "max_output_tokens": 16, "stream": True}),
    ("embedding", "/embeddings", {"model": "embed", "input": "Hello"}),
)


def usage_of(name: str, answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any]
    if name == "response streamed":
        last = read_response_events(answer.content)[-1]
        assert last["type"] in {"response.completed", "response.incomplete"}
        found = last["response"]["usage"]
    elif "stream" in name:
        found = read_events(answer.content)[-2]["usage"]
    else:
        found = answer.json()["usage"]
    return found


# An answer from record


def test_an_answer_from_record_says_what_the_first_one_cost_to_who_asks(gateway: Gateway) -> None:
    """Once charged: the same id and the same cost, whether or not the first one was asked for it."""
    for index, asks in enumerate([(False, True), (True, False)]):
        customer = gateway.shop.customer()
        headers = customer.headers | {"idempotency-key": f"once-{index}"}
        answers = [gateway.chat(headers=headers | ({"x-include": "cost"} if told else {})) for told in asks]
        cost = gateway.event_of(answers[0]).cost_nanos
        assert "idempotent-replayed" in answers[1].headers
        for told, answer in zip(asks, answers, strict=True):
            assert answer.headers["x-cost-nanos"] == str(cost)
            assert answer.json()["usage"].get("cost") == (money.amount(cost) if told else None)
