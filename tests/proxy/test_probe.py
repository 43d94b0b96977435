"""What the probe finds out: of the demo engine, of a real llama.cpp server, and of engines with other habits."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import orjson
import pytest
import uvicorn

from proxy.engine_kinds import KINDS, kind_of
from proxy.fields import NEVER
from proxy.probe import ProbeFailed, probe
from tests.inference import CAPABILITIES, Inference, demo_engine
from tests.llamacpp import llamacpp


async def test_demo_engine_is_a_vllm_that_can_do_everything():
    with demo_engine() as inference:
        found = await probe(inference.root)
    assert (found.kind, found.base_url) == ("vllm", inference.base_url)
    assert found.capabilities == _with_extras(CAPABILITIES, "vllm")
    models = {model.name_there: model for model in found.models}
    assert models["demo-chat"].features == ("chat", "completions", "tools")
    assert (models["demo-chat"].tokens_per_message, models["demo-chat"].tokens_per_call) == (4, 3)
    assert models["demo-reasoning"].is_reasoning
    assert models["demo-embed"].features == ("embeddings",)
    assert models["demo-large"].context_length == 131_072
    assert models["demo-loading"].trouble == "503: Loading model"
    assert models["demo-broken"].trouble.startswith("500: CUDA")


async def test_llamacpp_is_known_by_what_it_really_does(tmp_path):
    with llamacpp(tmp_path) as engine:
        found = await probe(engine.base_url)
    capabilities = found.capabilities
    assert found.kind == "llamacpp"
    assert capabilities.running_usage == "timings_per_token"
    assert capabilities.tokenize == "llamacpp"
    assert (capabilities.reports_cached, capabilities.sends_done) == (True, True)
    assert (capabilities.counts_every_choice, capabilities.stops_on_close) == (False, False)
    assert (capabilities.cache_salt, capabilities.priority) == (False, False)
    (model,) = found.models
    assert (model.name_there, model.context_length) == ("tiny-random", 4096)
    assert {"chat", "completions"} <= set(model.features)
    assert model.tokens_per_message > 0


async def test_only_the_named_models_are_looked_at():
    with demo_engine() as inference:
        found = await probe(inference.base_url, only=["demo-embed"])
        assert [model.name_there for model in found.models] == ["demo-embed"]
        with pytest.raises(ProbeFailed, match="does not list nobody"):
            await probe(inference.base_url, only=["nobody"])


class Habits:
    """An engine with habits of its own: `answer(path, body)` gives status and body. Anything else is 404."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, said = self.answer(scope["path"], orjson.loads(body) if body else {})
        said = said if isinstance(said, bytes) else orjson.dumps(said)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": said})


@contextmanager
def serving(answer: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(Habits(answer), host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.002)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


TRANSFORMERS_FIELDS = {"model", "messages", "max_tokens", "stream", "temperature", "tools", "tool_choice", "n"}


def transformers(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """As captured: unknown fields are a 422, usage comes with the finish, no [DONE], n is ignored."""
    if path == "/v1/models":
        return 200, {"object": "list", "data": [{"id": "org/model", "object": "model", "owned_by": "org"}]}
    if path != "/v1/chat/completions":
        return 404, {"detail": "Not Found"}
    if not body.keys() <= TRANSFORMERS_FIELDS:
        return 422, {"detail": f"Unexpected fields in the request: {body.keys() - TRANSFORMERS_FIELDS}"}
    usage = {"prompt_tokens": 4 + len(body["messages"]) * 5, "completion_tokens": 4, "total_tokens": 9}
    if body.get("stream"):
        events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("one", "two")]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "usage": usage})
        return 200, b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    choice = {"index": 0, "message": {"role": "assistant", "content": "one"}, "finish_reason": "length"}
    return 200, {"choices": [choice], "usage": usage}


def apart(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """As transformers, but with a reasoning parser."""
    status, said = transformers(path, body)
    return status, said.replace(b'"content":"one"', b'"reasoning":"one"') if isinstance(said, bytes) else said


async def test_where_thought_comes_in_a_field_it_is_always_marked(inference: Inference):
    with serving(apart) as url:
        (model,) = (await probe(url)).models
    assert model.is_reasoning
    assert {"reasoning", "marked_thought"} <= set(model.features)
    (thinker,) = (await probe(inference.base_url, only=["demo-reasoning"])).models
    assert "marked_thought" not in thinker.features


async def test_engine_that_knows_little_is_asked_for_little():
    with serving(transformers) as url:
        found = await probe(url)
    capabilities = found.capabilities
    assert found.kind == "transformers"
    assert capabilities.reports_usage
    assert not capabilities.sends_done
    assert (capabilities.running_usage, capabilities.tokenize) == ("", "")
    assert (capabilities.counts_every_choice, capabilities.cache_salt, capabilities.priority) == (False, False, False)
    (model,) = found.models
    assert (model.features, model.context_length) == (("chat", "tools"), 0)
    assert (model.tokens_per_message, model.tokens_per_call) == (5, 4)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"error": {"message": "no"}}), "refuses the key"),
        ((503, {"error": {"message": "Loading model"}}), "not ready .*Loading model"),
        ((404, b"<html>"), "no list of models"),
        ((200, {"object": "list", "data": []}), "lists no models"),
        ((200, {"data": [{"id": f"m{i}"} for i in range(99)]}), "Name the ones"),
    ],
)
async def test_what_cannot_be_registered_says_what_to_do(answer, message):
    with serving(lambda path, body: answer) as url, pytest.raises(ProbeFailed, match=message):
        await probe(url)


async def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ProbeFailed, match="cannot be reached"):
            await probe(f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(ProbeFailed, match="no http"):
        await probe("ftp://engine/v1")


async def test_key_is_sent():
    with demo_engine(api_key="secret") as inference:
        with pytest.raises(ProbeFailed, match="--key"):
            await probe(inference.base_url)
        assert (await probe(inference.base_url, api_key="secret", only=["demo-embed"])).kind == "vllm"


@pytest.mark.parametrize(
    ("owned_by", "server", "doors", "kind"),
    [
        ("vllm", "uvicorn", {}, "vllm"),
        ("somebody", "uvicorn", {"/version": {"version": "0.19.0"}}, "vllm"),
        ("sglang", "uvicorn", {"/version": None}, "sglang"),
        ("llamacpp", "", {}, "llamacpp"),
        ("", "llama.cpp", {}, "llamacpp"),
        ("org", "", {"/info": {"model_id": "m", "max_concurrent_requests": 128, "version": "3"}}, "tgi"),
        ("openai", "cloudflare", {}, ""),
    ],
)
def test_kinds_give_themselves_away(owned_by, server, doors, kind):
    assert kind_of(owned_by, server, doors) == kind


def test_no_kind_lets_dangerous_fields_through():
    assert not any(set(kind.extra_fields) & NEVER for kind in KINDS.values())


def _with_extras(capabilities: Any, kind: str) -> Any:
    return msgspec.structs.replace(capabilities, extra_fields=KINDS[kind].extra_fields)
