"""The openai SDK against the app: what it raises, what it retries, how it streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from billing import engines
from keys import issuing
from tests.proxy.shop import HELLO, Gateway, splitting_brand

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[Any]:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.shop.secret, max_retries=2) as made:
        yield made


@pytest.fixture(scope="module")
def splitting_client(gateway: Gateway) -> Iterator[Any]:
    """Of a brand with reasoning_split."""
    with OpenAI(base_url=f"{gateway.root}/labs/v1", api_key=splitting_brand(gateway.shop), max_retries=0) as made:
        yield made


class Counted:
    """How often the SDK asked."""

    def __init__(self, gateway: Gateway, secret: str, **options: Any) -> None:
        self.asked = 0
        http_client = openai.DefaultHttpxClient(event_hooks={"request": [self._note]})
        self.client: Any = OpenAI(base_url=gateway.base_url, api_key=secret, http_client=http_client, **options)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def _note(self, request: Any) -> None:
        self.asked += 1

    def chat(self, **fields: Any) -> Any:
        usual: dict[str, Any] = {"model": "aion-v3", "messages": HELLO, "max_tokens": 16}
        return self.client.chat.completions.create(**(usual | fields))


NINE = [{"role": "user", "content": "demo:tokens=9"}]


def test_whole_and_streamed_calls(client: Any) -> None:
    answer = client.chat.completions.create(model="aion-v3", messages=NINE, max_tokens=32)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert f"chatcmpl-{answer._request_id}" == answer.id
    text = ""
    with client.chat.completions.create(model="aion-v3", messages=NINE, max_tokens=32, stream=True) as stream:
        for chunk in stream:
            assert chunk.id
            assert chunk.usage is None
            text += chunk.choices[0].delta.content or ""
    assert text == answer.choices[0].message.content
    with client.chat.completions.stream(
        model="aion-v3",
        messages=NINE,
        max_tokens=32,
        stream_options={"include_usage": True},
    ) as events:
        final = events.get_final_completion()
    assert final.usage is not None
    assert final.usage.completion_tokens == answer.usage.completion_tokens
    assert final.choices[0].message.content == text


def test_models_completions_and_embeddings(client: Any) -> None:
    assert "aion-v3" in [model.id for model in client.models.list()]
    assert client.models.retrieve("aion-v3").owned_by == "dialogix"
    assert client.completions.create(model="aion-v3", prompt="Once", max_tokens=8).choices[0].text
    vectors = client.embeddings.create(model="aion-embed", input=["a", "b"]).data
    assert len(vectors) == 2
    assert isinstance(vectors[0].embedding[0], float)


def test_typed_errors_carry_code_and_param_and_request_id(gateway: Gateway) -> None:
    shop = gateway.shop
    scoped = shop.new_key(shop.organization, scopes=["models"])
    for secret, fields, kind, code, param in (
        ("ak-nobody", {}, openai.AuthenticationError, "invalid_api_key", None),
        (scoped.secret, {}, openai.PermissionDeniedError, "insufficient_scope", None),
        (shop.secret, {"model": "nobody"}, openai.NotFoundError, "model_not_found", "model"),
        (shop.secret, {"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        (shop.secret, {"model": "aion-broken"}, openai.InternalServerError, "engine_error", None),
        (shop.secret, {"model": "aion-loading"}, openai.InternalServerError, "engine_not_ready", None),
        (shop.customer(credit="").issued.secret, {}, openai.RateLimitError, "insufficient_quota", None),
    ):
        with Counted(gateway, secret, max_retries=0) as caller, pytest.raises(kind) as caught:
            caller.chat(**fields)
        assert caught.value.code == code
        assert caught.value.param == param
        assert caught.value.request_id


def asked_until(gateway: Gateway, kind: type[openai.APIError], secret: str, max_retries: int = 5, **fields: Any) -> int:
    """How often the SDK asks before it raises."""
    with Counted(gateway, secret, max_retries=max_retries) as caller:
        with pytest.raises(kind):
            caller.chat(**fields)
        return caller.asked


def test_it_stops_retrying_where_told(gateway: Gateway) -> None:
    shop = gateway.shop
    assert asked_until(gateway, openai.RateLimitError, shop.customer(credit="").issued.secret) == 1
    orphan = shop.new_model("orphan", "demo-chat")
    for route in orphan.routes.all():
        engines.remove_route(route=route, actor="tests")
    assert asked_until(gateway, openai.InternalServerError, shop.secret, model="orphan") == 1
    key = shop.new_key(shop.organization)
    issuing.revoke(key=key.key, actor="tests")
    assert asked_until(gateway, openai.AuthenticationError, key.secret) == 1


def test_it_retries_where_that_can_help(gateway: Gateway) -> None:
    secret = gateway.shop.secret
    assert asked_until(gateway, openai.InternalServerError, secret, max_retries=1, model="aion-broken") == 2


def test_a_stream_that_breaks_raises_in_the_middle(gateway: Gateway) -> None:
    seen = 0
    with Counted(gateway, gateway.shop.secret) as caller:
        stream = caller.chat(messages=[{"role": "user", "content": "demo:die=4"}], stream=True)
        with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - the loop is what raises
            for _ in stream:
                seen += 1
        assert caller.asked == 1
    assert caught.value.code == "engine_error"
    assert seen >= 4


def test_an_idempotency_key_makes_retries_free(gateway: Gateway) -> None:
    with Counted(gateway, gateway.shop.secret) as caller:
        first, second = (caller.chat(extra_headers={"Idempotency-Key": "sdk-1"}) for _ in range(2))
    assert first.id == second.id


# responses ------------------------------------------------------------------------------------------------------------

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "look_up",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    "strict": False,
}


def test_responses_whole_and_streamed(client: Any) -> None:
    wish = {"model": "aion-v3", "input": "demo:tokens=9", "max_output_tokens": 32}
    answer = client.responses.create(**wish)
    assert answer.id == f"resp_{answer._request_id}"
    assert answer.status == "completed"
    assert answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    text = ""
    for event in client.responses.create(**wish, stream=True):
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == answer.output_text
    with client.responses.stream(model="aion-v3", input="demo:tokens=9", max_output_tokens=32) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == text
    assert final.usage.output_tokens == answer.usage.output_tokens


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the page's part "reasoning" is not in its types
def test_responses_with_thought_apart(splitting_client: Any) -> None:
    wish = {"model": "thinker", "input": "demo:tokens=40", "max_output_tokens": 64}
    answer = splitting_client.responses.create(**wish)
    assert [part.type for part in answer.output[0].content] == ["reasoning", "output_text"]
    thought = ""
    with splitting_client.responses.stream(**wish) as stream:
        for event in stream:
            thought += event.delta if event.type == "response.reasoning_text.delta" else ""
        final = stream.get_final_response()
    assert thought == answer.output[0].content[0].text
    assert final.output_text == answer.output_text
    assert [part.type for part in final.output[0].content] == ["reasoning", "output_text"]
    chat = splitting_client.chat.completions.create(
        model="thinker", messages=[{"role": "user", "content": "demo:tokens=40"}], max_tokens=64
    )
    assert chat.choices[0].message.reasoning == thought
    assert chat.choices[0].message.content == answer.output_text


def test_responses_call_functions_and_take_their_output(client: Any) -> None:
    wish = {"model": "aion-v3", "input": "demo:tool", "tools": [TOOL], "tool_choice": "required"}
    answer = client.responses.create(**wish)
    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "look_up")
    with client.responses.stream(**wish) as stream:
        final = stream.get_final_response()
    assert final.output[0].arguments == call.arguments
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
    asked = {"role": "user", "content": "Hi"}
    again = client.responses.create(model="aion-v3", input=[asked, *answer.output, output], tools=[TOOL])
    assert again.output_text


def test_a_streamed_response_that_breaks_raises_in_the_middle(client: Any) -> None:
    seen = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - the loop is what raises
        for event in client.responses.create(model="aion-v3", input="demo:die=4", stream=True):
            seen.append(event.type)
    assert caught.value.code == "engine_error"
    assert seen[-1] == "response.failed"
    with (
        pytest.raises(openai.APIError),
        client.responses.stream(model="aion-v3", input="demo:die=4") as stream,
    ):
        stream.get_final_response()


def test_what_responses_do_not_have_is_a_typed_error(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="aion-v3", input="Hi", previous_response_id="resp_1")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "previous_response_id")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="aion-v3", input="Hi", tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"
