"""The openai SDK for Node against the app."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.nodejs import tool
from tests.proxy.shop import HELLO, Gateway, splitting_brand

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ask(sdk: Path, gateway: Gateway) -> Any:
    def asked(
        what: str, *, brand: str = "dialogix", secret: str = "", options: dict[str, Any] | None = None, **body: Any
    ) -> dict[str, Any]:
        wish = json.dumps({"what": what, "body": body, "options": options or {}})
        base_url = f"{gateway.root}/{brand}/v1"
        command = [*tool("node"), str(sdk / "ask.mjs"), base_url, secret or gateway.shop.secret, wish]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return asked


def test_calls_work(ask: Any) -> None:
    body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 24}
    whole = ask("chat", **body)
    assert whole["id"] == f"chatcmpl-{whole['request']}"
    streamed = ask("stream", **body, stream_options={"include_usage": True})
    assert streamed["text"] == whole["text"]
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert "aion-v3" in ask("models")["found"]
    assert ask("embeddings", model="aion-embed", input=["a", "b"])["vectors"] == 2


def test_typed_errors_carry_code_and_are_not_retried_where_told(ask: Any, gateway: Gateway) -> None:
    body = {"messages": HELLO, "max_tokens": 16}
    shop = gateway.shop
    for fields, secret, kind, code, times in (
        ({"model": "aion-v3"}, "ak-nobody", "AuthenticationError", "invalid_api_key", 1),
        ({"model": "nobody"}, "", "NotFoundError", "model_not_found", 1),
        ({"model": "aion-v3", "temperature": 3}, "", "BadRequestError", "invalid_value", 1),
        ({"model": "aion-v3"}, shop.customer(credit="").issued.secret, "RateLimitError", "insufficient_quota", 1),
        ({"model": "aion-broken"}, "", "InternalServerError", "engine_error", 2),
    ):
        answer = ask("chat", secret=secret, options={"maxRetries": 1}, **(body | fields))
        assert answer["error"]["kind"] == kind
        assert answer["error"]["code"] == code
        assert answer["error"]["requestID"]
        assert answer["asked"] == times


def test_a_stream_that_breaks_raises_in_the_middle(ask: Any) -> None:
    answer = ask("stream", model="aion-v3", messages=[{"role": "user", "content": "demo:die=4"}])
    assert answer["error"]["code"] == "engine_error"
    assert answer["error"]["chunks"] >= 4
    assert answer["asked"] == 1


def test_responses_whole_and_streamed(ask: Any, gateway: Gateway) -> None:
    body = {"model": "aion-v3", "input": "demo:tokens=9", "max_output_tokens": 32}
    whole = ask("response", **body)
    assert whole["id"] == f"resp_{whole['request']}"
    streamed = ask("responseStream", **body)
    assert streamed["text"] == streamed["final"] == whole["text"]
    assert streamed["usage"] == whole["usage"]
    secret = splitting_brand(gateway.shop)
    thinking = {"model": "thinker", "input": "demo:tokens=40", "max_output_tokens": 64}
    split = ask("response", brand="labs", secret=secret, **thinking)
    assert split["parts"] == ["reasoning", "output_text"]
    streamed = ask("responseStream", brand="labs", secret=secret, **thinking)
    assert streamed["text"] == streamed["final"] == split["text"]
    assert streamed["thought"] == split["thought"]
    assert streamed["parts"] == ["reasoning", "output_text"]
    cut = ask("responseStream", brand="labs", secret=secret, **(thinking | {"max_output_tokens": 16}))
    assert (cut["status"], cut["text"]) == ("incomplete", "")


def test_a_streamed_response_that_breaks_rejects(ask: Any) -> None:
    answer = ask("responseStream", model="aion-v3", input="demo:die=4")
    assert answer["error"]["code"] == "engine_error"
    tool = {"type": "function", "name": "look_up", "parameters": {"type": "object"}, "strict": False}
    called = ask("responseStream", model="aion-v3", input="demo:tool", tools=[tool], tool_choice="required")
    assert called["calls"] == ["look_up"]
