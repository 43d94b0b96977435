"""A brand's own rules for request fields, and brands whose keys are for plain chat."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.endpoints import CHAT, EMBEDDINGS, Endpoint
from proxy.refusals import Declined, Problem
from proxy.requests import Asked, accepted, read
from tests.proxy.records import brand, model

HELLO = [{"role": "user", "content": "hello"}]
RULES: dict[str, dict[str, Any]] = {
    "temperature": {"min": 0, "max": 1, "default": 0.7},
    "max_tokens": {"min": 1, "max": 8000, "default": 4096},
    "top_k": {"min": 1, "default": 40},
    "aspect_ratio": {"values": ["1:1", "16:9"]},
    "seed": {"max": 10},
}
OURS = brand(parameters=RULES)
DRAWS = ("top_k", "aspect_ratio")


def asked(endpoint: Endpoint = CHAT, extras: Any = (), **fields: Any) -> Asked:
    return read({"messages": HELLO, **fields}, endpoint, model(default_max_tokens=256), extras, OURS)


def refused(of: Any = OURS, extras: Any = DRAWS, **fields: Any) -> Problem:
    with pytest.raises(Declined) as caught:
        read({"messages": HELLO, **fields}, CHAT, model(), extras, of)
    return caught.value.problem


def test_a_documented_default_is_sent_where_the_request_says_nothing() -> None:
    assert asked().fields["temperature"] == 0.7
    assert asked(temperature=None).fields["temperature"] == 0.7
    assert asked(temperature=0).fields["temperature"] == 0
    assert "top_k" not in asked().fields, "the model does not take it"
    assert asked(extras=DRAWS).fields["top_k"] == 40
    assert asked(extras=DRAWS, top_k=5).fields["top_k"] == 5


def test_a_documented_length_is_wanted_and_not_asked_for() -> None:
    assert (asked().output_wanted, asked().length_field) == (4096, "")
    assert asked(max_tokens=7).output_wanted == 7
    small = model(max_completion_tokens=1024, default_max_tokens=256)
    assert read({"messages": HELLO}, CHAT, small, (), OURS).output_wanted == 1024
    without = brand(parameters={"temperature": {"default": 1}})
    assert read({"messages": HELLO}, CHAT, small, (), without).output_wanted == 256


def test_defaults_of_a_chat_do_not_reach_embeddings() -> None:
    found = read({"input": "x"}, EMBEDDINGS, model(), (), OURS)
    assert (found.fields, found.output_wanted) == ({"input": "x"}, 0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 1.5}, "1.5 is not from 0 to 1"),
        ({"temperature": 5}, "5 is not from 0 to 1"),
        ({"temperature": -0.1}, "-0.1 is not from 0 to 1"),
        ({"temperature": "warm"}, "expected a number from 0 to 1"),
        ({"temperature": True}, "expected a number from 0 to 1"),
        ({"max_tokens": 8001}, "8001 is not from 1 to 8000"),
        ({"max_completion_tokens": 0}, "0 is not from 1 to 8000"),
        ({"top_k": 0}, "0 is not at least 1"),
        ({"seed": 11}, "11 is not at most 10"),
        ({"aspect_ratio": "2:1"}, "expected one of 1:1, 16:9"),
    ],
)
def test_a_value_out_of_the_brands_range_is_refused_by_name_and_range(fields: dict[str, Any], words: str) -> None:
    found = refused(**fields)
    assert (found.status, found.param) == (400, next(iter(fields)))
    assert words in found.message
    assert f"'{found.param}'" in found.message


def test_what_a_model_takes_is_told() -> None:
    talks = accepted(model(features=("chat", "tools")), ("top_k", "rid"))
    assert {"temperature", "tools", "top_k", "stop", "max_tokens"} <= set(talks)
    assert not {"model", "messages", "rid", "store"} & set(talks)
    assert "tools" not in accepted(model(features=("chat",)), ())
    own = brand(conversation_days=30, splits_reasoning=True)
    assert {"session_id", "reasoning_split"} <= set(accepted(model(), (), own))
    assert not {"session_id", "reasoning_split"} & set(accepted(model(), (), brand()))
    assert "tools" not in accepted(model(features=("chat", "tools")), (), PLAIN)
    assert "dimensions" in accepted(model(features=("embeddings",)), ())


PLAIN = brand(is_plain_chat=True)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "auto"},
        {"functions": [{"name": "f"}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    ],
)
def test_plain_chat_is_all_that_some_keys_may(fields: dict[str, Any]) -> None:
    found = refused(of=PLAIN, **fields)
    assert (found.status, found.code) == (403, "chat_only")


def test_plain_chat_takes_text_in_any_form() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    fine: list[dict[str, Any]] = [{"messages": parts}, {"tools": []}, {"tools": None}, {"stop": "x", "temperature": 2}]
    for fields in fine:
        assert read({"messages": HELLO} | fields, CHAT, model(), (), PLAIN).endpoint is CHAT
    assert refused(of=PLAIN, messages=[1]).status == 400
    assert refused(of=PLAIN, messages="x").status == 400
