"""The demo engine speaks as vLLM does, counts honestly, and fails as asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.demo import speech
from tests.inference import Inference, demo_engine


@pytest.fixture(scope="module")
def inference() -> Iterator[Inference]:
    with demo_engine() as running:
        yield running


@pytest.fixture
def client(inference: Inference) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=inference.base_url, api_key="none", max_retries=0) as client:
        yield client


def chat(inference: Inference, text: str = "hello", request_id: str = "", **fields: Any) -> httpx.Response:
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": text}]} | fields
    return httpx.post(f"{inference.base_url}/chat/completions", json=body, headers={"x-request-id": request_id})


def events(response: httpx.Response) -> list[Any]:
    texts = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_same_request_same_words_and_other_request_other_words(inference):
    first, again, other = (chat(inference, text).json()["choices"][0]["message"] for text in ("a", "a", "b"))
    assert first == again != other


def test_usage_is_what_the_tokenizer_says(inference):
    answer = chat(inference, "How many tokens are these?", max_tokens=50).json()
    message = {"role": "user", "content": "How many tokens are these?"}
    prompt = httpx.post(f"{inference.root}/tokenize", json={"model": "demo-chat", "messages": [message]}).json()
    text = answer["choices"][0]["message"]["content"]
    made = httpx.post(f"{inference.root}/tokenize", json={"model": "demo-chat", "prompt": text}).json()
    assert answer["usage"]["prompt_tokens"] == prompt["count"] == len(prompt["tokens"])
    assert answer["usage"]["completion_tokens"] == made["count"]
    assert prompt["max_model_len"] == 32_768


def test_tools_are_part_of_the_prompt(inference):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": "x"}]}
    counts = [
        httpx.post(f"{inference.root}/tokenize", json=body | extra).json()["count"] for extra in ({}, {"tools": tools})
    ]
    assert counts[0] < counts[1] == chat(inference, "x", tools=tools).json()["usage"]["prompt_tokens"]


@given(st.text())
def test_never_more_tokens_than_bytes(text):
    assert len(speech.tokenize(text)) <= len(text.encode(errors="replace"))
    assert "".join(speech.tokenize(text)) == text


def test_stream_says_what_the_whole_answer_says(inference):
    whole = chat(inference, max_tokens=40).json()
    seen = events(chat(inference, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert seen[-1] == "[DONE]"
    assert seen[-2]["choices"] == []
    assert seen[-2]["usage"] == whole["usage"]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in seen[:-2])
    assert text == whole["choices"][0]["message"]["content"]
    assert seen[-3]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert not any("usage" in event for event in seen[:-2])


def test_no_usage_in_a_stream_unless_asked(inference):
    assert not any("usage" in event for event in events(chat(inference, stream=True))[:-1])


def test_running_usage_is_each_choices_own_and_the_final_one_their_sum(inference):
    options = {"include_usage": True, "continuous_usage_stats": True}
    seen = events(chat(inference, "x", stream=True, stream_options=options, n=2, max_tokens=60))
    newest = {event["choices"][0]["index"]: event["usage"] for event in seen[:-2]}
    counts = [usage["completion_tokens"] for usage in newest.values()]
    assert seen[-2]["usage"]["completion_tokens"] == sum(counts)
    assert len(counts) == 2


def test_max_tokens_and_stop_are_respected(inference):
    answer = chat(inference, "demo:fill", max_tokens=33).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (33, "length")
    text = chat(inference).json()["choices"][0]["message"]["content"]
    word = text.split()[6]
    cut = chat(inference, stop=[word]).json()
    assert cut["choices"][0]["message"]["content"] == text[: text.index(word)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["usage"]["completion_tokens"] == len(speech.tokenize(text[: text.index(word) + len(word)]))


def test_cached_tokens_by_salt(inference):
    text = "a long prompt " * 20
    for salt, expected in (("one", 0), ("one", 64), ("two", 0)):
        usage = chat(inference, text, cache_salt=salt).json()["usage"]
        details = usage["prompt_tokens_details"]
        assert (details["cached_tokens"] if details else 0) == expected, usage


def test_tool_call_on_request(inference, client):
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(
        model="demo-chat", messages=[{"role": "user", "content": "x"}], tools=tools, tool_choice="required"
    )
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, answer.choices[0].finish_reason) == ("weather", "tool_calls")
    json.loads(call.function.arguments)
    with client.chat.completions.stream(
        model="demo-chat", messages=[{"role": "user", "content": "x"}], tools=tools, tool_choice="required"
    ) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments


def test_reasoning_model_thinks_in_tags(inference):
    text = chat(inference, model="demo-reasoning").json()["choices"][0]["message"]["content"]
    assert text.startswith("<think>")
    assert "</think>\n" in text


def test_completions_and_embeddings(inference, client):
    done = client.completions.create(model="demo-chat", prompt="once upon", max_tokens=12)
    assert done.usage.completion_tokens == 12
    assert len(speech.tokenize(done.choices[0].text)) == 12
    rows = client.embeddings.create(model="demo-embed", input=["a b", "c"], encoding_format="float")
    assert rows.usage.prompt_tokens == 3
    assert [len(row.embedding) for row in rows.data] == [64, 64]


def test_models_and_health(inference, client):
    rows = {row.id: row.max_model_len for row in client.models.list()}
    assert rows["demo-chat"] == 32_768
    assert httpx.get(f"{inference.root}/health").status_code == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"model": "demo-loading"}, 503),
        ({"model": "demo-broken"}, 500),
        ({"messages": []}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 40_000}, 400),
        ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400),
    ],
)
def test_refusals_look_like_vllms(inference, fields, status):
    response = chat(inference, **fields)
    assert response.status_code == status
    assert response.json()["error"]["code"] == status


def test_client_that_leaves_is_noticed_at_once(inference):
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": "demo:fill demo:rate=50"}], "stream": True}
    headers = {"x-request-id": "leaver"}
    url = f"{inference.base_url}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers) as response:
        lines = response.iter_lines()
        for _ in range(12):
            next(lines)
    left_at = time.time()
    entry = inference.entry("leaver")
    assert entry["end"] == "aborted"
    assert entry["gone_at"] - left_at < 0.05
    assert 3 <= entry["output_tokens"] <= 10


def test_client_that_leaves_a_whole_call_stops_it(inference):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{inference.base_url}/chat/completions",
            json={"model": "demo-chat", "messages": [{"role": "user", "content": "demo:fill demo:rate=20"}]},
            headers={"x-request-id": "whole-leaver"},
            timeout=0.2,
        )
    assert inference.entry("whole-leaver")["output_tokens"] < 20


@pytest.mark.parametrize(
    ("fault", "end"), [("die=3", "died"), ("nodone=3", "nodone"), ("error=3", "error"), ("tokens=7", "stop")]
)
def test_faults_in_a_stream(inference, fault, end):
    text = b""
    body = {"model": "demo-chat", "messages": [{"role": "user", "content": f"demo:{fault}"}], "stream": True}
    url, headers = f"{inference.base_url}/chat/completions", {"x-request-id": fault}
    cut = False
    with httpx.stream("POST", url, json=body, headers=headers) as response:
        try:
            for piece in response.iter_raw():
                text += piece
        except httpx.RemoteProtocolError:
            cut = True
    assert cut == (end == "died")
    assert (b"[DONE]" in text) == (end in ("error", "stop"))
    assert (b'"error"' in text) == (end == "error")
    entry = inference.entry(fault)
    assert (entry["end"], entry["output_tokens"]) == (end, 7 if end == "stop" else 3)


@pytest.mark.parametrize("lie", ["over", "under", "negative", "missing", "text"])
def test_lies_are_in_the_answer_and_never_in_the_log(inference, lie):
    said = (
        chat(inference, f"demo:{lie} demo:tokens=10", request_id=lie).json().get("usage", {}).get("completion_tokens")
    )
    assert said == {"over": 100_100, "under": 5, "negative": -11, "missing": None, "text": "10"}[lie]
    assert inference.entry(lie)["output_tokens"] == 10


def test_hang_and_stall_stay_silent(inference):
    for text in ("demo:hang", "demo:stall=2"):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{inference.base_url}/chat/completions",
                json={"model": "demo-chat", "messages": [{"role": "user", "content": text}], "stream": True},
                headers={"x-request-id": text},
                timeout=0.2,
            )
        assert inference.entry(text)["end"] == "aborted"


def test_control_sets_faults_for_models_and_markers(inference):
    rules = [{"model": "demo-large", "do": "status=429"}, {"marker": "magic", "do": "tokens=5"}]
    httpx.post(f"{inference.root}/control", json={"rules": rules, "loading": False})
    try:
        assert chat(inference, model="demo-large").status_code == 429
        assert chat(inference, "some magic").json()["usage"]["completion_tokens"] == 5
        httpx.post(f"{inference.root}/control", json={"loading": True})
        assert chat(inference).status_code == httpx.get(f"{inference.root}/health").status_code == 503
    finally:
        httpx.post(f"{inference.root}/control", json={"rules": [], "loading": False})
    assert chat(inference).status_code == 200


def test_slots_bound_what_runs_at_once():
    with demo_engine(slots=2, tokens_per_second=100) as small:
        threads = [
            threading.Thread(target=chat, args=(small, "demo:tokens=10"), kwargs={"request_id": f"s{i}"})
            for i in range(6)
        ]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun > 0.28  # three rounds of 0.1 s


def test_api_key_is_wanted_when_set():
    with demo_engine(api_key="k") as guarded:
        assert chat(guarded).status_code == 401


def test_metrics_are_the_sums_of_the_log(tmp_path):
    with demo_engine(log_file=tmp_path / "log") as fresh:
        for i in range(3):
            chat(fresh, f"number {i}", request_id=str(i))
        chat(fresh, "demo:status=500")
        entries = [json.loads(line) for line in httpx.get(f"{fresh.root}/log").text.splitlines()]
        metrics = httpx.get(f"{fresh.root}/metrics").text
        mine = [entry for entry in entries if entry["model"] == "demo-chat"]
        made = sum(entry["output_tokens"] for entry in mine)
        assert f'vllm:generation_tokens_total{{engine="0",model_name="demo-chat"}} {float(made)}' in metrics
        assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == entries
        assert [entry["end"] for entry in entries][-1] == "refused"
        assert httpx.get(f"{fresh.root}/log?request_id=1").text.count("\n") == 1
