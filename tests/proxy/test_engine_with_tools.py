"""A model whose engine executes tools (agentic): the gateway executes none, calls the engine once, and meters all that
the engine reports, seen or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from billing.snapshot import Capabilities
from tests.inference import served
from tests.proxy.shop import Gateway, read_events

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = {"prompt_tokens": 700, "completion_tokens": 150, "total_tokens": 850}
"""What three rounds with two tool calls between them took in all; the answer alone is five tokens."""
ANSWER = "It is sunny in Bern."
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


class Agent:
    """An engine that looks up the weather by itself. `asked`: the bodies it got."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = orjson.loads(body)
        self.asked.append(asked)
        stream = asked.get("stream") is True
        kind = b"text/event-stream" if stream else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": _stream() if stream else _whole()})


def _whole() -> bytes:
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return orjson.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": ROUNDS})


def _stream() -> bytes:
    def event(choices: list[Any], **more: Any) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({"object": "chat.completion.chunk", "choices": choices} | more)

    said = event([{"index": 0, "delta": {"role": "assistant", "content": ANSWER}, "finish_reason": None}])
    ended = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    return said + ended + event([], usage=ROUNDS) + b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def agent(gateway: Gateway) -> Iterator[Agent]:
    engine = Agent()
    with served(engine) as port:
        shop = gateway.shop
        row = shop.new_engine("agent", f"http://127.0.0.1:{port}/v1", capabilities=Capabilities())
        # What the tools' results may add to a prompt is held for as a constant of the model.
        shop.new_model("aion-v3-tools", "agent", engine=row, tokens_per_call=1_000)
        shop.new_model("too-small", "agent", engine=row)
        yield engine


def ask(gateway: Gateway, model: str = "aion-v3-tools", **fields: Any) -> httpx.Response:
    return gateway.chat("How is the weather?", model=model, tools=TOOLS, max_tokens=200, **fields)


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_asked_once_and_paid_for_every_round(gateway: Gateway, agent: Agent, stream: bool) -> None:
    agent.asked.clear()
    answer = ask(gateway, stream=stream)
    assert answer.status_code == 200, answer.text
    assert len(agent.asked) == 1
    assert agent.asked[0]["tools"] == TOOLS
    assert ANSWER.encode() in answer.content
    event = gateway.event_of(answer)
    assert (event.uncached_input_tokens, event.output_tokens, event.usage_source) == (700, 150, "final")
    assert event.cost_nanos == -(-(700 * 200_000 + 150 * 600_000) // 1000)
    if not stream:
        assert {name: answer.json()["usage"][name] for name in ROUNDS} == ROUNDS
    else:
        assert read_events(answer.content)[-1] == b"[DONE]"


def test_what_goes_past_the_hold_is_charged_at_the_hold_and_flagged(gateway: Gateway, agent: Agent) -> None:
    """Where the model's row does not say what tools may add. Nobody pays more than was reserved."""
    event = gateway.event_of(ask(gateway, "too-small"))
    assert event.uncached_input_tokens < 700
    assert event.output_tokens == 150
    assert event.flags
