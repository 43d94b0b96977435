import json
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import prompt_bound
from proxy.prompt_bound import of_chat, quoted_bytes, structure_bytes, text_bytes
from proxy.refusals import Declined
from tests.proxy.records import model

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(st.text())
def test_the_bound_of_a_text_is_no_less_than_any_form_of_it(text: str) -> None:
    bound = text_bytes(text)
    assert bound >= len(text.encode())
    for form in ("NFC", "NFKC"):
        assert bound >= len(normalize(form, text).encode())


def test_text_that_grows_in_compatibility_form_is_counted_grown() -> None:
    assert len("ﷺ".encode()) == 3
    assert text_bytes("ﷺ") == 33


def test_text_that_shrinks_in_compatibility_form_is_counted_as_sent() -> None:
    assert text_bytes("ＡＢＣ") == 9


@given(trees)
def test_structures_are_bounded_as_python_writes_them_with_indent_4(tree) -> None:
    bound = structure_bytes(tree)
    assert bound >= len(json.dumps(tree, indent=4, ensure_ascii=False).encode())
    assert bound >= len(json.dumps(tree, ensure_ascii=False).encode())


@given(st.text())
def test_quoted_text_is_bounded_as_json(text: str) -> None:
    assert quoted_bytes(text) >= len(json.dumps(text, ensure_ascii=False).encode()) - text.count("\x7f") * 5


def test_every_part_of_a_conversation_counts() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    arguments = json.dumps({"a": {"b": [1, 2, 3]}})
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "hello", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": 'a "quoted" result'},
    ]
    bound = of_chat({"messages": messages, "tools": tools}, model())
    rendered = [
        "hello",
        "ann",
        json.dumps(call, indent=4),
        json.dumps(json.loads(arguments), indent=4),
        "call_1",
        json.dumps('a "quoted" result'),
        json.dumps(tools, indent=4),
    ]
    assert bound >= 50 + 3 * 10 + sum(map(len, rendered))
    assert bound < 50 + 3 * 10 + 2 * sum(map(len, rendered))


def test_arguments_too_deep_to_write_again_are_refused() -> None:
    deep = "[" * 300 + "]" * 300
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": deep}}]}
    with pytest.raises(Declined):
        of_chat({"messages": [message]}, model())


def test_token_lists_count_as_themselves() -> None:
    assert prompt_bound.of_completion({"prompt": [[1, 2], [3]]}, model()) == 3 + 2 * 60
    assert prompt_bound.of_completion({"prompt": "abc", "suffix": "de"}, model()) == 5 + 60
