from typing import Any

import orjson
import pytest

from proxy.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from proxy.fields import NEVER
from proxy.refusals import Declined
from proxy.requests import Asked, dropped_header, model_named, read
from tests.proxy.records import model

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Asked:
    return read({"model": "aion-v3", "messages": HELLO} | fields, CHAT, model(extra_fields=("top_k",)), {"top_k"})


def refused(endpoint: Endpoint = CHAT, **fields: Any) -> tuple[int, str | None]:
    body = {"messages": HELLO, "prompt": "x", "input": "x"} | fields
    with pytest.raises(Declined) as caught:
        read(body, endpoint, model(), ())
    assert caught.value.problem.message
    return caught.value.problem.status, caught.value.problem.param


def test_a_plain_request_is_sent_as_it_is() -> None:
    asked = chat(temperature=0.5, stop=["a"], seed=3)
    assert asked.fields == {"messages": HELLO, "temperature": 0.5, "stop": ["a"], "seed": 3}
    assert (asked.choices, asked.stream, asked.include_usage, asked.dropped) == (1, False, False, [])
    assert asked.output_wanted == 4096
    assert asked.length_field == ""


def test_the_whole_chat_schema_is_known() -> None:
    """Every field of the openai SDK's own request type: none may be "unknown" to us."""
    from openai.types.chat import completion_create_params

    from proxy import fields

    declared = set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert declared <= set(fields.CHAT)


def test_the_whole_schemas_of_completions_and_embeddings_are_known() -> None:
    from openai.types import completion_create_params, embedding_create_params

    from proxy import fields

    assert set(completion_create_params.CompletionCreateParamsBase.__annotations__) | {"stream"} <= set(
        fields.COMPLETIONS
    )
    assert set(embedding_create_params.EmbeddingCreateParams.__annotations__) <= set(fields.EMBEDDINGS)


def test_unknown_fields_are_dropped_and_named_and_declared_extras_pass() -> None:
    asked = chat(top_k=5, min_p=0.1, session="x")
    assert asked.fields["top_k"] == 5
    assert asked.dropped == ["min_p", "session"]
    assert dropped_header(asked.dropped) == b"min_p, session"


@pytest.mark.parametrize("name", sorted(NEVER))
def test_dangerous_fields_never_pass_whatever_is_declared(name: str) -> None:
    asked = read({"messages": HELLO, name: 1}, CHAT, model(extra_fields=(name,)), {name})
    assert name not in asked.fields
    assert asked.dropped == [name]


def test_idle_fields_are_named_only_when_they_would_have_changed_something() -> None:
    assert chat(store=False, service_tier="auto", modalities=["text"]).dropped == []
    assert chat(store=True, service_tier="priority", web_search_options={}).dropped == [
        "store",
        "service_tier",
        "web_search_options",
    ]


def test_what_the_gateway_keeps_does_not_reach_the_engine() -> None:
    asked = chat(user="ann", metadata={"team": "a"}, stream=True, stream_options={"include_usage": True})
    assert asked.fields.keys() == {"messages"}
    assert (asked.user, asked.metadata, asked.stream, asked.include_usage) == ("ann", {"team": "a"}, True, True)


def test_null_means_absent() -> None:
    asked = chat(temperature=None, max_tokens=None, n=None, stop=None, tools=None, stream=None, user=None)
    assert asked.fields.keys() == {"messages"}
    assert asked.output_wanted == 4096


@pytest.mark.parametrize("value", [0, -1, 2**63, 1e9, "5", True, 5.0, [], 8193])
def test_wrong_output_lengths_are_refused_by_name(value) -> None:
    assert refused(max_tokens=value) == (400, "max_tokens")
    assert refused(max_completion_tokens=value) == (400, "max_completion_tokens")


@pytest.mark.parametrize("value", [0, -1, 10**6, "1", True, 1.5])
def test_wrong_choices_are_refused(value) -> None:
    assert refused(n=value) == (400, "n")


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1},
        {"temperature": "hot"},
        {"temperature": True},
        {"top_p": -0.1},
        {"presence_penalty": 3},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {"1": 101}},
        {"top_logprobs": 21},
        {"logprobs": 1},
        {"stop": [1]},
        {"stop": ["x"] * 17},
        {"seed": 1.5},
        {"stream": "true"},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"tools": {}},
        {"tools": [{"type": "function"}]},
        {"tool_choice": 1},
        {"user": 5},
        {"metadata": {"a": 1}},
        {"metadata": {str(n): "x" for n in range(17)}},
        {"metadata": {"a" * 65: "x"}},
        {"verbosity": "loud"},
        {"modalities": ["text", "audio"]},
    ],
)
def test_values_out_of_range_are_refused_naming_the_field(fields: dict[str, Any]) -> None:
    assert refused(**fields) == (400, next(iter(fields)))


def test_the_smaller_of_both_lengths_counts() -> None:
    assert chat(max_tokens=100, max_completion_tokens=50).output_wanted == 50
    asked = chat(max_tokens=20, max_completion_tokens=50)
    assert (asked.output_wanted, asked.length_field) == (20, "max_tokens")


def test_n_multiplies_the_hold() -> None:
    asked = chat(n=3)
    assert asked.choices == 3
    assert asked.fields["n"] == 3


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hi", "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "root", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "assistant", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
            "messages[0].content[0].type",
        ),
        ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
        ([{"role": "assistant", "content": "x", "tool_calls": ["x"]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "x"}] * 10_001, "messages"),
    ],
)
def test_wrong_messages_are_refused_saying_where(messages, param: str) -> None:
    assert refused(messages=messages) == (400, param)


def test_every_role_and_tool_messages_are_accepted() -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "user", "content": "hi", "name": "ann"},
    ]
    asked = chat(messages=messages)
    assert asked.fields["messages"] == messages
    assert asked.has_developer


def test_unknown_keys_of_messages_and_parts_are_left_out_and_named() -> None:
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
    asked = chat(messages=[{"role": "user", "content": [part], "priority": 1}])
    assert asked.fields["messages"] == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert asked.dropped == ["messages.content.cache_control", "messages.priority"]


def test_declared_modalities_pass_as_data_urls_only() -> None:
    seeing = model(modalities={"image_url": 1600})

    def asked(url: str) -> Asked:
        part = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        return read({"messages": [{"role": "user", "content": [part]}]}, CHAT, seeing, ())

    assert asked("data:image/png;base64,AAAA").prompt_tokens_max == 50 + 10 + 1600
    with pytest.raises(Declined) as caught:
        asked("http://169.254.169.254/latest")
    assert caught.value.problem.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize("prompt", ["hi", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_completions_take_every_form_of_prompt(prompt) -> None:
    asked = read({"prompt": prompt, "n": 2}, COMPLETIONS, model(), ())
    texts = 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else 2
    assert asked.choices == 2 * texts


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [1, "a"], [-1], [True], {}, None, [["a"]]])
def test_wrong_prompts_are_refused(prompt) -> None:
    assert refused(COMPLETIONS, prompt=prompt) == (400, "prompt")
    assert refused(EMBEDDINGS, input=prompt) == (400, "input")


def test_best_of_only_when_it_is_n() -> None:
    assert read({"prompt": "x", "best_of": 1}, COMPLETIONS, model(), ()).choices == 1
    assert refused(COMPLETIONS, best_of=5) == (400, "best_of")


def test_embeddings_generate_nothing() -> None:
    asked = read({"input": ["ab", "c"], "dimensions": 8}, EMBEDDINGS, model(), ())
    assert (asked.output_wanted, asked.prompt_tokens_max) == (0, 3 + 2 * 10 + 50)


def test_the_model_is_named_or_the_brand_has_a_default() -> None:
    assert model_named({"model": "x"}, "y") == "x"
    assert model_named({}, "y") == "y"
    for body in ({}, {"model": 5}, {"model": "x" * 300}):
        with pytest.raises(Declined) as caught:
            model_named(body, "")
        assert caught.value.problem.param == "model"


def test_dropped_names_cannot_break_a_header() -> None:
    assert dropped_header(["a\r\nb: c", "ü", "x" * 100, "good.name"]) == b"?, ?, ?, good.name"
    assert dropped_header([f"f{n}" for n in range(30)]).endswith(b"and 10 more")


def test_extras_that_could_reach_the_prompt_are_in_the_bound() -> None:
    plain = chat().prompt_tokens_max
    value = {"thinking": "x" * 1000}
    asked = read({"messages": HELLO, "kwargs": value}, CHAT, model(), {"kwargs"})
    assert asked.prompt_tokens_max >= plain + len(orjson.dumps(value))
