from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage import Usage
from proxy.dialects import dialect_named
from proxy.dialects.protocol import Stamp
from proxy.rewriting import StreamRewriter

STAMP = Stamp("chatcmpl-018f", 1_700_000_000, "aion-v3")


def rewriter(include_usage: bool = False) -> StreamRewriter:
    return StreamRewriter(dialect_named("openai"), STAMP, include_usage=include_usage)


def read(frame: bytes) -> dict[str, Any]:
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    assert frame.count(b"\n") == 2
    chunk: dict[str, Any] = orjson.loads(frame[6:-2])
    return chunk


def vllm(content: str, **extra) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": None}
    head = {"id": "chatcmpl-engine", "object": "chat.completion.chunk", "created": 5, "model": "/weights/secret"}
    return orjson.dumps(head | {"choices": [choice]} | extra)


def llamacpp(content: str, **extra) -> bytes:
    tail = {"created": 5, "id": "x", "model": "secret.gguf", "system_fingerprint": "b1-secret"}
    tail["object"] = "chat.completion.chunk"
    return orjson.dumps(
        {"choices": [{"finish_reason": None, "index": 0, "delta": {"content": content}}]} | tail | extra
    )


@pytest.mark.parametrize("shape", [vllm, llamacpp])
@pytest.mark.parametrize("running", [False, True])
def test_every_piece_of_a_stream_is_ours(shape, running: bool) -> None:
    rewrite = rewriter().rewrite
    for number, text in enumerate(["a", "b", 'quote " and ],"usage":{', "]}", "\n", "ü", "}]", 'choices":[']):
        extra = {"usage": {"prompt_tokens": 3, "completion_tokens": number}} if running else {}
        chunk = read(rewrite(shape(text, **extra)))
        assert chunk.keys() == {"id", "object", "created", "model", "choices"}
        assert (chunk["id"], chunk["created"], chunk["model"]) == (STAMP.id, STAMP.created, STAMP.model)
        assert chunk["choices"][0]["delta"]["content"] == text


@pytest.mark.parametrize("shape", [vllm, llamacpp])
def test_nothing_of_the_engine_leaves(shape) -> None:
    rewrite = rewriter().rewrite
    for extra in (
        {},
        {},
        {"timings": {"predicted_n": 3}},
        {"usage": None},
        {"prompt_token_ids": [{"x": "secret"}]},
        {},
    ):
        assert b"secret" not in rewrite(shape("hello", **extra))
        assert b"timings" not in rewrite(shape("hello", **extra))


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, running = rewriter(), rewriter(include_usage=True)
    plain.rewrite(vllm("first"))
    running.rewrite(vllm("first", usage={"prompt_tokens": 1}))
    monkeypatch.setattr("proxy.rewriting.orjson.loads", None)
    assert b"second" in plain.rewrite(vllm("second"))
    assert read_null_usage(running.rewrite(vllm("second", usage={"prompt_tokens": 2, "details": {"a": 1}})))


def read_null_usage(frame: bytes) -> bool:
    return frame.endswith(b'"usage":null}\n\n') and b"prompt_tokens" not in frame


def test_usage_alone_is_not_passed_and_ours_comes_last() -> None:
    rewrite = rewriter(include_usage=True)
    assert read(rewrite.rewrite(vllm("a")))["usage"] is None
    assert rewrite.rewrite(orjson.dumps({"id": "x", "choices": [], "usage": {"prompt_tokens": 5}})) == b""
    last = read(rewrite.usage(Usage(input=5, output=2)))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 5
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert last["object"] == "chat.completion.chunk"


texts = st.text(alphabet=st.sampled_from('ab"\\[]{},:us\n ')) | st.sampled_from(
    ['],"usage":{"a":1}}', '"choices":[', '],"', "}]", '{"choices":[{}]}']
)


@given(
    st.lists(texts, min_size=2, max_size=6),
    st.sampled_from([vllm, llamacpp]),
    st.lists(st.sampled_from(["", "usage", "timings", "logprobs"]), min_size=6, max_size=6),
)
def test_fast_or_long_the_content_is_the_engines(contents, shape, extras) -> None:
    rewrite = rewriter().rewrite
    for content, extra in zip(contents, extras, strict=False):
        piece = shape(content, **({extra: {"n": [1], "text": content}} if extra else {}))
        chunk = read(rewrite(piece))
        assert chunk["choices"] == orjson.loads(piece)["choices"]
        assert chunk.keys() == {"id", "object", "created", "model", "choices"}
