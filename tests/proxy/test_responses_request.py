"""POST /responses → the chat call that answers it, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.refusals import Declined
from proxy.requests import Asked
from proxy.responses.request import read_response
from tests.proxy.records import model


def asked(**body: Any) -> Asked:
    return read_response({"input": "Hi"} | body, model(), ())[0]


def refused(**body: Any) -> tuple[int, str, str | None, str]:
    with pytest.raises(Declined) as caught:
        read_response({name: value for name, value in body.items() if value is not ...}, model(), ())
    problem = caught.value.problem
    return problem.status, problem.code, problem.param, problem.message


TEXT = {"type": "input_text", "text": "Hi"}


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"input": "Hi"}, [{"role": "user", "content": "Hi"}]),
        ({"input": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}]),
        (
            {"input": [{"type": "message", "role": "user", "content": [TEXT, TEXT]}]},
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "Hi"}]}],
        ),
        ({"input": None, "messages": [{"role": "user", "content": "Hi"}]}, [{"role": "user", "content": "Hi"}]),
        (
            {"input": "Hi", "instructions": "Be brief."},
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        ),
        (
            {
                "input": [
                    {"role": "user", "content": "How warm is it?"},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [
                            {"type": "reasoning", "text": "A tool."},
                            {"type": "output_text", "text": "I ask.", "annotations": []},
                        ],
                    },
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
                    {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c1", "output": "20"},
                    {"type": "function_call_output", "call_id": "c2", "output": [TEXT]},
                ]
            },
            [
                {"role": "user", "content": "How warm is it?"},
                {
                    "role": "assistant",
                    "content": "I ask.",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "20"},
                {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "Hi"}]},
            ],
        ),
    ],
)
def test_every_form_of_input_becomes_messages(fields: dict[str, Any], messages: list[Any]) -> None:
    assert asked(**fields).fields["messages"] == messages


def test_fields_become_those_of_chat() -> None:
    found = asked(
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        user="ann",
        metadata={"a": "b"},
        tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "s", "schema": {}, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "low"},
        stream=True,
    )
    assert found.output_wanted == 50
    assert found.stream
    assert (found.user, found.metadata) == ("ann", {"a": "b"})
    assert found.dropped == []
    assert found.fields == {
        "temperature": 0.5,
        "top_p": 0.9,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "strict": True}},
        "verbosity": "low",
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "file_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]}, "input[0]"),
    ],
)
def test_what_does_not_exist_here_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    status, code, found, message = refused(**({"input": "Hi"} | fields))
    assert (status, code) == (400, "unsupported_parameter")
    assert found is not None
    assert found.startswith(param)
    assert message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "Hi", "messages": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "robot", "content": "x"}], "instructions": "y"}, "input[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": "Hi"}, "messages"),
        ({"input": "Hi", "instructions": 5}, "instructions"),
        ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "Hi", "max_output_tokens": 10**9}, "max_output_tokens"),
        ({"input": "Hi", "temperature": 3}, "temperature"),
        ({"input": "Hi", "metadata": {"a": 1}}, "metadata"),
        ({"input": "Hi", "text": {"format": {"type": "xml"}}}, "text.format"),
        ({"input": "Hi", "text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"input": "Hi", "reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"input": "Hi", "store": "yes"}, "store"),
        ({"input": "Hi", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "Hi", "tools": [{"type": "function", "name": "f"}], "tool_choice": "any"}, "tool_choice"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]}, "input[0].output"),
    ],
)
def test_wrong_values_are_refused_as_they_are_called_here(fields: dict[str, Any], param: str) -> None:
    status, code, found, message = refused(**fields)
    assert (status, code, found) == (400, "invalid_value", param)
    assert f"'{param}'" in message


def test_a_request_without_input_says_which_field_is_missing() -> None:
    assert refused(model="x")[:3] == (400, "missing_required_parameter", "input")


def test_fields_without_effect_are_named_unless_they_ask_for_what_happens_anyway() -> None:
    quiet = {"truncation": "disabled", "service_tier": "auto", "include": [], "store": False, "background": False}
    assert asked(**quiet, stream_options={"include_obfuscation": False}, previous_response_id=None).dropped == []
    loud = {"truncation": "auto", "include": ["reasoning.encrypted_content"], "n": 3, "max_tokens": 5, "new": 1}
    assert asked(**loud).dropped == ["include", "max_tokens", "n", "new", "truncation"]
    assert asked(**loud).choices == 1
