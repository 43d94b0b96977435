"""Calls through the real app: real PostgreSQL and Redis, and the demo engine."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from billing.money import nanos
from billing.snapshot import Capabilities
from tests.proxy.shop import HELLO, Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def cost_nanos(usage: dict[str, Any]) -> int:
    """The shop's price list, computed apart from billing: 0.20, 0.05 cached, 0.60 per million, rounded up once."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    picos = (usage["prompt_tokens"] - cached) * 200_000 + cached * 50_000 + usage["completion_tokens"] * 600_000
    return int(-(-picos // 1000))


def test_a_whole_call_is_answered_metered_and_charged(gateway: Gateway) -> None:
    response = gateway.chat(metadata={"team": "a"}, user="ann", headers={"user-agent": "tests/1"})
    assert response.status_code == 200, response.text
    answer, call_id = response.json(), response.headers["x-request-id"]
    assert answer.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["id"] == f"chatcmpl-{call_id}"
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "aion-v3"
    assert response.headers["cache-control"] == "no-store"
    event = gateway.event_of(response)
    did = gateway.shop.inference.entry(call_id)
    assert str(event.call_id) == call_id
    assert (did["prompt_tokens"], did["output_tokens"]) == (
        answer["usage"]["prompt_tokens"],
        answer["usage"]["completion_tokens"],
    )
    assert event.output_tokens == did["output_tokens"]
    assert event.uncached_input_tokens + (event.cache_read_tokens or 0) == did["prompt_tokens"]
    assert event.cost_nanos == event.list_cost_nanos == cost_nanos(answer["usage"])
    assert (event.usage_source, event.http_status, event.stream) == ("final", 200, False)
    assert (event.metadata, event.user, event.agent) == ({"team": "a"}, "ann", "tests/1")
    assert event.engine_id == gateway.shop.engine.id
    assert event.first_token_ms is not None
    assert event.address == "127.0.0.1"


def test_streams_say_usage_only_when_asked(gateway: Gateway) -> None:
    *chunks, done = gateway.stream().events
    assert done == b"[DONE]"
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], "aion-v3")
    }
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")

    reply = gateway.stream(stream_options={"include_usage": True})
    *chunks, last, done = reply.events
    assert done == b"[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["id"] == chunks[0]["id"]
    event = gateway.event_of(reply)
    assert event.stream
    assert event.usage_source == "final"
    assert event.output_tokens == last["usage"]["completion_tokens"]
    assert event.cost_nanos == cost_nanos(last["usage"])


def test_what_was_said_is_what_the_engine_said(gateway: Gateway) -> None:
    """The same request is answered alike, whole and streamed, and the text is untouched."""
    prompt = 'Tell me of ducks, "quoted" ones and ünusual ones.'
    whole = gateway.chat(prompt).json()
    assert gateway.stream(prompt).text == whole["choices"][0]["message"]["content"]


def test_completions_and_embeddings_are_metered_by_the_same_meter(gateway: Gateway) -> None:
    client = gateway.client
    whole = client.post("/completions", json={"model": "aion-v3", "prompt": "Once", "max_tokens": 20})
    answer = whole.json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"]
    body = {"model": "aion-v3", "prompt": "Once", "max_tokens": 20, "stream": True}
    streamed = client.post("/completions", json=body)
    assert streamed.text.endswith("data: [DONE]\n\n")
    response = client.post("/embeddings", json={"model": "aion-embed", "input": ["a b c", "d"]})
    embedded = response.json()
    assert embedded["model"] == "aion-embed"
    assert len(embedded["data"]) == 2
    assert embedded["usage"]["completion_tokens"] == 0
    first, second, third = (gateway.event_of(answered) for answered in (whole, streamed, response))
    assert (first.endpoint, second.endpoint, third.endpoint) == ("completions", "completions", "embeddings")
    assert first.output_tokens == second.output_tokens == answer["usage"]["completion_tokens"]
    assert third.uncached_input_tokens == embedded["usage"]["prompt_tokens"]
    refused = client.post("/embeddings", json={"model": "aion-v3", "input": "x"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_several_choices_are_held_and_charged(gateway: Gateway) -> None:
    whole = gateway.chat(n=3, max_tokens=10)
    answer = whole.json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    reply = gateway.stream(n=2, max_tokens=10, stream_options={"include_usage": True})
    assert gateway.event_of(whole).output_tokens == answer["usage"]["completion_tokens"]
    assert gateway.event_of(reply).output_tokens == reply.events[-2]["usage"]["completion_tokens"]


def test_an_engine_that_counts_one_choice_gets_one_choice(gateway: Gateway) -> None:
    shop = gateway.shop
    engine = shop.new_engine(
        "one", shop.inference.base_url, capabilities=Capabilities(counts_every_choice=False, running_usage="")
    )
    shop.new_model("one", "demo-chat", engine=engine)
    refused = gateway.chat(model="one", n=2)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert gateway.chat(model="one", n=1).status_code == 200


def test_an_engine_gets_our_fields_and_only_allowed_ones(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    upstream = gateway.worker.upstream
    plain = upstream.send

    async def send(engine: Any, path: str, body: bytes, *rest: Any, **named: Any) -> Any:
        seen.append(orjson.loads(body))
        return await plain(engine, path, body, *rest, **named)

    monkeypatch.setattr(upstream, "send", send)
    messages = [{"role": "developer", "content": "Be kind."}, *HELLO]
    response = gateway.chat(
        messages=messages, top_k=5, cache_salt="mine", priority=-9, session="x", max_tokens=30, stream=True, user="ann"
    )
    assert response.headers["x-dropped-fields"] == "cache_salt, priority, session"
    (body,) = seen
    assert body.keys() == {
        *("model", "messages", "top_k", "max_tokens", "stream", "stream_options", "cache_salt", "priority")
    }
    assert body["model"] == "demo-chat"
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert body["max_tokens"] == 30
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert body["cache_salt"] not in ("mine", "")
    assert body["priority"] == 0
    gateway.chat(headers=gateway.shop.customer().headers)
    assert seen[1]["cache_salt"] != body["cache_salt"]
    assert seen[1]["max_tokens"] == 64


def test_a_hold_that_does_not_fit_lowers_max_tokens_and_says_so(gateway: Gateway) -> None:
    headers = gateway.shop.customer({"unit": "tokens", "window": "day", "amount": 300}).headers
    response = gateway.chat("demo:fill", max_tokens=4000, headers=headers)
    applied = int(response.headers["x-max-tokens-applied"])
    assert 16 <= applied < 300
    assert response.json()["usage"]["completion_tokens"] == applied
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert int(response.headers["x-ratelimit-limit-tokens"]) == 300
    refused = response
    while refused.status_code == 200:  # what the bound kept of the first is left for a second
        refused = gateway.chat("demo:fill", max_tokens=4000, headers=headers)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert int(refused.headers["retry-after"]) <= 86_400
    assert int(refused.headers["x-ratelimit-remaining-tokens"]) < 300


def test_the_tokenizer_is_asked_before_the_bound_refuses(gateway: Gateway) -> None:
    """Six thousand bytes of prompt are some thousand tokens: by its bytes the call would not fit, by its tokens it
    does."""
    headers = gateway.shop.customer({"unit": "tokens", "window": "day", "amount": 4_000}).headers
    response = gateway.chat("word " * 1200, max_tokens=20, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] < 3_000


def test_a_default_length_gives_way_to_a_long_prompt(gateway: Gateway) -> None:
    shop = gateway.shop
    shop.new_model("short", "demo-chat", context_length=2_000, max_completion_tokens=2_000, default_max_tokens=1_500)
    response = gateway.chat("word " * 900, model="short", max_tokens=None)
    assert response.status_code == 200, response.text
    too_long = gateway.chat("word " * 3000, model="short", max_tokens=None)
    assert too_long.status_code == 400
    assert too_long.json()["error"]["code"] == "context_length_exceeded"


def test_prompts_are_cached_per_organization_and_billed_so(gateway: Gateway) -> None:
    prompt = "Once upon a time there was a long story about a duck. " * 20
    ours, theirs = gateway.shop.customer().headers, gateway.shop.customer().headers
    answers = [gateway.chat(prompt, headers=headers) for headers in (ours, ours, theirs)]
    first, second, third = (answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers)
    assert first == third == 0
    assert second > 0
    assert gateway.event_of(answers[1]).cache_read_tokens == second


@pytest.mark.parametrize("lie", ["over", "negative", "missing", "text"])
def test_impossible_usage_is_never_billed_as_it_stands(gateway: Gateway, lie: str) -> None:
    response = gateway.chat(f"demo:{lie}", max_tokens=32)
    usage = response.json()["usage"]
    assert 0 <= usage["completion_tokens"] <= 32
    event = gateway.event_of(response)
    assert event.flags
    assert 0 <= event.cost_nanos <= event.held_nanos
    assert event.output_tokens == usage["completion_tokens"]


@pytest.mark.parametrize("lie", ["negative", "text"])
def test_a_stream_whose_usage_lies_is_charged_for_no_more_than_was_made(gateway: Gateway, lie: str) -> None:
    event = gateway.event_of(gateway.stream(f"demo:{lie} demo:tokens=8", max_tokens=32))
    assert (event.output_tokens, event.usage_source) == (8, "estimated")


def test_a_model_without_a_price_is_refused(gateway: Gateway) -> None:
    gateway.shop.new_model("unpriced", "demo-chat", per_million=None)
    refused = gateway.chat(model="unpriced")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "price_missing")
    assert refused.headers["x-should-retry"] == "false"


def test_money_that_is_gone_refuses_by_name(gateway: Gateway) -> None:
    poor = gateway.shop.customer(credit="")
    refused = gateway.chat(headers=poor.headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "balance" in refused.json()["error"]["message"]
    assert refused.headers["x-should-retry"] == "false"
    gateway.shop.grant(poor.organization, nanos("1"))
    assert gateway.chat(headers=poor.headers).status_code == 200


def test_every_answer_shows_the_limits(gateway: Gateway) -> None:
    headers = gateway.shop.customer(
        {"unit": "requests", "window": "minute", "amount": 2}, {"unit": "tokens", "window": "day", "amount": 10**6}
    ).headers
    first = gateway.chat(headers=headers)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert first.headers["x-ratelimit-limit-tokens"] == str(10**6)
    gateway.chat(headers=headers)
    third = gateway.chat(headers=headers)
    assert third.status_code == 429
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert third.headers["x-should-retry"] == "true"
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert int(third.headers["retry-after-ms"]) <= 60_000
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
