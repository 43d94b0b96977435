"""POST /responses through the real proxy: whole and streamed, metered as the chat call that it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import answers
from proxy.reasoning import split
from tests.inference import script, scripted_engine
from tests.proxy.shop import Gateway, Shop
from tests.proxy.test_engine_killed import killable
from tests.proxy.test_reasoning import cut_texts
from tests.proxy.test_reasoning_split import BESIDE_A_SERVER, Lab, says, through_the_proxy

pytestmark = [pytest.mark.django_db(transaction=True), BESIDE_A_SERVER]

CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
REST = {"index": 0, "function": {"arguments": "1}"}}


@pytest.fixture(scope="module")
def lab(gateway: Gateway) -> Iterator[Lab]:
    with scripted_engine() as url:
        made = Lab(gateway, url)
        yield made
        made.client.close()


def ask(lab: Lab, said: Any, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "thinker", "input": said, "max_output_tokens": 400} | fields
    return lab.client.post("/responses", json=body, headers=headers)


def whole(lab: Lab, said: Any, **fields: Any) -> dict[str, Any]:
    answer = ask(lab, said, **fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def read_events(body: bytes) -> list[dict[str, Any]]:
    """Every event; each has an `event:` line with its type, and their numbers run on."""
    found = []
    for frame in body.split(b"\n\n")[:-1]:
        if frame.startswith(b":"):
            continue
        name, data = frame.split(b"\n")
        event: dict[str, Any] = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(lab: Lab, said: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = ask(lab, said, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read_events(answer.content)


def text_of(response: dict[str, Any], kind: str = "output_text") -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == kind)


def deltas(events: list[dict[str, Any]], kind: str = "output_text") -> str:
    return "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    items = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
    return {name: value for name, value in response.items() if name not in ("id", "created_at")} | {"output": items}


# the documented shape -------------------------------------------------------------------------------------------------


def test_a_whole_response_has_every_documented_field(lab: Lab) -> None:
    answer = ask(lab, script(says("Hello! How can I help?")), model="plain", metadata={"a": "b"}, user="ann")
    found = answer.json()
    call_id = answer.headers["x-request-id"]
    assert found["id"] == f"resp_{call_id}"
    assert found["object"] == "response"
    assert abs(found["created_at"] - time.time()) < 30
    assert (found["model"], found["status"], found["error"]) == ("plain", "completed", None)
    (item,) = found["output"]
    assert (item["type"], item["status"], item["role"]) == ("message", "completed", "assistant")
    assert item["id"] == f"msg_{call_id}"
    (part,) = item["content"]
    assert (part["type"], part["text"]) == ("output_text", "Hello! How can I help?")
    assert found["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 21,
    }
    assert found["metadata"] == {"a": "b"}
    event = lab.shop.event(call_id)
    assert (event.metadata, event.user) == ({"a": "b"}, "ann")


def test_thought_is_the_first_part_of_the_message(lab: Lab) -> None:
    prompt = script(says("<think>Let me think through this...</think>The answer is 42."))
    content = whole(lab, prompt)["output"][0]["content"]
    assert content[0] == {"type": "reasoning", "text": "Let me think through this..."}
    assert (content[1]["type"], content[1]["text"]) == ("output_text", "The answer is 42.")
    assert len(content) == 2
    unsplit = whole(lab, prompt, reasoning_split=False)
    assert text_of(unsplit) == "<think>Let me think through this...</think>The answer is 42."


def test_input_or_messages_and_parts(lab: Lab) -> None:
    prompt = script(says("ok"))
    for fields in (
        {"input": prompt},
        {"input": [{"role": "user", "content": prompt}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": prompt}]}]},
        {"input": None, "messages": [{"role": "user", "content": prompt}]},
        {"input": prompt, "instructions": "Be brief."},
    ):
        assert text_of(whole(lab, None, **fields)) == "ok"
    both = ask(lab, prompt, messages=[{"role": "user", "content": prompt}])
    assert both.status_code == 400
    assert both.json()["error"]["param"] == "input"


def test_a_response_cut_at_its_length_is_incomplete(lab: Lab) -> None:
    prompt = script(says("Once upon"), finish="length")
    found = whole(lab, prompt, model="plain")
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert found["output"][0]["status"] == "incomplete"
    last = streamed(lab, prompt, model="plain")[-1]
    assert last["type"] == "response.incomplete"
    assert without_ids(last["response"]) == without_ids(found)


def test_calls_of_functions_are_items(lab: Lab) -> None:
    prompt = script([{"content": "I ask."}, {"tool_calls": [CALL]}, {"tool_calls": [REST]}], finish="tool_calls")
    events = streamed(lab, prompt, model="plain")
    (message, call) = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "I ask."
    assert {name: call[name] for name in ("type", "call_id", "name", "arguments", "status")} == {
        "type": "function_call",
        "call_id": "c1",
        "name": "f",
        "arguments": '{"a": 1}',
        "status": "completed",
    }
    assert deltas(events, "function_call_arguments") == '{"a": 1}'
    only = script([{"tool_calls": [CALL | {"function": {"name": "f", "arguments": "{}"}}]}], finish="tool_calls")
    for found in (whole(lab, only, model="plain"), streamed(lab, only, model="plain")[-1]["response"]):
        assert [(item["type"], item["arguments"]) for item in found["output"]] == [("function_call", "{}")]


def test_images_are_items_and_text_in_parts_is_text(lab: Lab) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    ways: list[list[dict[str, Any]]] = [
        [{"content": "Here."}, {"images": [picture]}],
        [{"content": [{"type": "text", "text": "Here."}, picture]}],
    ]
    for way in ways:
        for model in ("plain", "tagger"):
            once = whole(lab, script(way), model=model)
            for found in (once, streamed(lab, script(way), model=model)[-1]["response"]):
                assert text_of(found) == "Here."
                assert [item["type"] for item in found["output"]] == ["message", "image_generation_call"]
                assert found["output"][1]["result"] == "AAAA"


# the stream -----------------------------------------------------------------------------------------------------------


def test_the_events_come_in_the_documented_order(lab: Lab) -> None:
    events = streamed(lab, script(says("Hel", "lo")), model="plain")
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["id"] == events[-1]["response"]["id"]
    assert events[-1]["response"]["usage"]["output_tokens"] == 2
    item = events[2]["item"]["id"]
    assert {event["item_id"] for event in events if "item_id" in event} == {item}


def test_thought_is_streamed_in_an_item_of_its_own(lab: Lab) -> None:
    events = streamed(lab, script(says("<think>Let ", "me", "</think>", "4", "2")))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "content_part.done"),
        *("content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert deltas(events, "reasoning_text") == "Let me"
    parts = [(e["content_index"], e["part"]) for e in events if e["type"] == "response.content_part.done"]
    assert parts[1] == (0, {"type": "reasoning", "text": "Let me"})
    assert (parts[2][0], parts[2][1]["text"]) == (1, "42")


@through_the_proxy
@given(cut=cut_texts(), model=st.sampled_from(["thinker", "plain"]), cuts=st.lists(st.integers(0, 3000)))
def test_a_stream_cut_anywhere_is_its_unsplit_text_byte_for_byte(
    lab: Lab, cut: list[str], model: str, cuts: list[int]
) -> None:
    fields: dict[str, Any] = {"model": model, "reasoning_split": True}
    text = "".join(cut)
    events = streamed(lab, script(says(*cut), cuts=cuts), **fields)
    found = events[-1]["response"]
    unsplit = streamed(lab, script(says(text)), **fields)
    assert without_ids(found)["output"] == without_ids(unsplit[-1]["response"])["output"]
    assert deltas(events) == text_of(found) == split(text, opened=model == "thinker").content
    assert deltas(events, "reasoning_text") == deltas(unsplit, "reasoning_text") == text_of(found, "reasoning")
    once = whole(lab, script(says(text)), **fields)
    assert text_of(once) == text_of(found)
    assert text_of(once, "reasoning") == split(text, opened=model == "thinker").reasoning


@through_the_proxy
@given(cut=cut_texts())
def test_without_reasoning_split_the_text_is_the_engines(lab: Lab, cut: list[str]) -> None:
    events = streamed(lab, script(says(*cut)), reasoning_split=False)
    assert deltas(events) == text_of(events[-1]["response"]) == "".join(cut)


def test_a_whole_response_is_what_a_streamed_one_ends_with(lab: Lab) -> None:
    for prompt in (script(says("<think>a</think>b")), script(says("")), script([{"reasoning": "a"}, *says("b")])):
        last = streamed(lab, prompt, metadata={"a": "b"}, instructions="Be brief.")[-1]
        assert last["type"] == "response.completed"
        once = whole(lab, prompt, metadata={"a": "b"}, instructions="Be brief.")
        different = {"usage"}  # the script counts its pieces
        assert {k: v for k, v in without_ids(last["response"]).items() if k not in different} == {
            k: v for k, v in without_ids(once).items() if k not in different
        }


# money ----------------------------------------------------------------------------------------------------------------


def test_it_is_charged_as_the_chat_call_it_is(lab: Lab) -> None:
    prompt = script(says("<think>", "Let me see.", "</think>", "4", "2"))
    messages = [{"role": "user", "content": prompt}]
    charged = set()
    for stream in (False, True):
        chat = lab.client.post(
            "/chat/completions",
            json={"model": "thinker", "messages": messages, "max_tokens": 400, "stream": stream},
        )
        for answer in (chat, ask(lab, prompt, stream=stream)):
            event = lab.shop.event(answer.headers["x-request-id"])
            assert (event.usage_source, event.end_reason, event.http_status) == ("final", "stop", 200)
            charged.add((event.uncached_input_tokens, event.output_tokens, event.reasoning_tokens, event.cost_nanos))
    assert charged == {(20, 5, 2, 20 * 200 + 5 * 600)}


def test_an_engine_that_dies_ends_the_stream_with_an_error_and_what_came_is_charged(lab: Lab) -> None:
    answer = ask(lab, script(says("a", "b", "c", "d"), die=3), model="plain", stream=True)
    events = read_events(answer.content)
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    assert events[-2]["response"]["status"] == "failed"
    assert events[-2]["response"]["error"]["code"] == "server_error"
    assert text_of(events[-2]["response"]) == "abc"
    assert events[-1]["error"]["code"] == events[-1]["code"] == "engine_error"
    event = lab.shop.event(answer.headers["x-request-id"])
    assert (event.end_reason, event.output_tokens) == ("upstream_cut", 3)
    assert event.cost_nanos > 0
    assert lab.shop.holds() == 0


def test_an_engine_killed_in_a_stream_ends_it_with_an_error(lab: Lab, gateway: Gateway) -> None:
    shop = gateway.shop
    with killable() as (url, process):
        shop.new_model("doomed", "demo-chat", engine=shop.new_engine("doomed", url))
        body = {"model": "doomed", "stream": True, "input": "demo:fill demo:rate=40", "max_output_tokens": 200}
        with gateway.client.stream("POST", "/responses", json=body) as response:
            content = b""
            for piece in response.iter_raw():
                content += piece
                if content.count(b"event: response.output_text.delta") == 5:
                    process.kill()
    events = read_events(content)
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    assert events[-1]["error"]["code"] == "engine_error"
    seen = sum(1 for event in events if event["type"] == "response.output_text.delta")
    event = shop.event(response.headers["x-request-id"])
    assert event.end_reason == "upstream_cut"
    assert 5 <= seen <= event.output_tokens <= seen + 1
    assert event.cost_nanos > 0
    assert shop.holds() == 0


def test_trouble_after_a_long_wait_is_an_event_that_sdks_raise(gateway: Gateway, monkeypatch: Any) -> None:
    monkeypatch.setattr(answers, "COMMIT_SECONDS", 0.2)
    gateway.shop.new_model("never", "demo-chat", first_byte_ms=1_500)
    body = {"model": "never", "stream": True, "input": "demo:hang"}
    answer = gateway.client.post("/responses", json=body)
    assert answer.status_code == 200  # the head had to leave before the trouble was known
    (event,) = read_events(answer.content)
    assert (event["type"], event["error"]["code"]) == ("error", "engine_timeout")
    assert gateway.shop.event(answer.headers["x-request-id"]).cost_nanos == 0


def test_a_client_that_leaves_pays_for_what_was_made(lab: Lab) -> None:
    body = {"model": "plain", "stream": True, "input": script(says(*"abcdefghij" * 8), pause_ms=50)}
    with lab.client.stream("POST", "/responses", json=body) as response:
        seen = 0
        for line in response.iter_lines():
            seen += line.startswith("event: response.output_text.delta")
            if seen == 3:
                break
    event = lab.shop.event(response.headers["x-request-id"])
    assert (event.end_reason, event.http_status) == ("client_gone", 499)
    assert 3 <= event.output_tokens < 80
    assert event.cost_nanos > 0
    assert lab.shop.holds() == 0


def test_an_idempotency_key_gives_the_same_response_again(lab: Lab) -> None:
    prompt, headers = script(says("once")), {"Idempotency-Key": "responses-1"}
    first, second = (ask(lab, prompt, headers=headers) for _ in range(2))
    assert second.headers["idempotent-replayed"] == "true"
    assert first.content == second.content


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"store": True},
        {"conversation": "conv_1"},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "file_search", "vector_store_ids": []}]},
    ],
)
def test_what_does_not_exist_here_is_refused_by_name(lab: Lab, fields: dict[str, Any]) -> None:
    answer = ask(lab, "Hi", **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert error["param"].startswith(next(iter(fields)))


def test_a_prompt_past_the_context_is_called_input(gateway: Gateway) -> None:
    answer = gateway.client.post("/responses", json={"model": "aion-v3", "input": "word " * 40_000})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")


def test_a_key_needs_its_scope(gateway: Gateway, shop: Shop) -> None:
    key = shop.new_key(shop.organization, scopes=["chat"])
    headers = {"authorization": f"Bearer {key.secret}"}
    answer = gateway.client.post("/responses", json={"model": "aion-v3", "input": "Hi"}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "insufficient_scope"


def test_every_brand_has_it(gateway: Gateway) -> None:
    """Without reasoning_split, which is another brand's, the text stays as the engine gives it."""
    body = {"model": "aion-reasoning", "input": "Hi", "max_output_tokens": 60, "reasoning_split": True}
    answer = gateway.client.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-dropped-fields"] == "reasoning_split"
    assert text_of(answer.json()).startswith("<think>")
    refused = gateway.client.post("/responses", json={"model": "aion-embed", "input": "Hi"})
    assert refused.status_code == 400
