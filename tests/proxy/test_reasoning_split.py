"""`reasoning_split` through the real proxy: thought apart from the answer, whole and streamed, however it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.snapshot import Capabilities
from proxy.reasoning import Parted, split
from tests.inference import script, scripted_engine
from tests.proxy.shop import Gateway, Shop, read_events
from tests.proxy.test_reasoning import cut_texts

# The served proxy runs in a thread of this process: its use of `random` is none of the strategies'.
BESIDE_A_SERVER = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
pytestmark = [pytest.mark.django_db(transaction=True), BESIDE_A_SERVER]
through_the_proxy = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Lab:
    """A brand that splits, with models on a scripted engine: one that reasons, one whose tags are its own, a plain
    one."""

    def __init__(self, gateway: Gateway, engine_url: str) -> None:
        shop = self.shop = gateway.shop
        brand = shop.new_brand("aionlabs", "al-", splits_reasoning=True)
        shop.new_tier("labs", brand=brand, is_default=True)
        engine = shop.new_engine("scripted", engine_url, capabilities=Capabilities(reports_cached=True))
        usual: dict[str, Any] = {"brand": brand, "engine": engine}
        shop.new_model("thinker", "scripted", is_reasoning=True, extra_fields=["chat_template_kwargs"], **usual)
        shop.new_model("tagger", "scripted", is_reasoning=True, features=["chat", "marked_thought"], **usual)
        shop.new_model("plain", "scripted", **usual)
        organization = shop.new_organization("labs", credit="100", brand=brand)
        self.secret = shop.new_key(organization).secret
        self.client = httpx.Client(
            base_url=f"{gateway.root}/aionlabs/v1", headers={"authorization": f"Bearer {self.secret}"}, timeout=30
        )

    def chat(self, prompt: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": "thinker", "messages": [{"role": "user", "content": prompt}], "max_tokens": 400} | fields
        return self.client.post("/chat/completions", json=body, headers=headers)

    def message(self, prompt: str, **fields: Any) -> dict[str, Any]:
        answer = self.chat(prompt, **fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["choices"][0]["message"]
        return found

    def deltas(self, prompt: str, **fields: Any) -> list[dict[str, Any]]:
        """The deltas of the first choice."""
        answer = self.chat(prompt, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        events = read_events(answer.content)
        assert events[-1] == b"[DONE]"
        return [choice["delta"] for event in events[:-1] for choice in event["choices"] if choice["index"] == 0]


@pytest.fixture(scope="module")
def lab(gateway: Gateway) -> Iterator[Lab]:
    with scripted_engine() as url:
        made = Lab(gateway, url)
        yield made
        made.client.close()


def says(*pieces: str) -> list[dict[str, Any]]:
    return [{"content": piece} for piece in pieces]


def joined(deltas: list[dict[str, Any]], name: str = "reasoning") -> Parted:
    return Parted("".join(d.get(name) or "" for d in deltas), "".join(d.get("content") or "" for d in deltas))


# what is said ---------------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_its_thought_apart(lab: Lab) -> None:
    message = lab.message(script(says("<think>Let me think through this...</think>The answer is 42.")))
    assert message == {
        "role": "assistant",
        "reasoning": "Let me think through this...",
        "content": "The answer is 42.",
    }


def test_a_stream_has_its_thought_apart(lab: Lab) -> None:
    deltas = lab.deltas(script(says("<th", "ink>Let me", " see.</t", "hink>The ", "answer <b>is", "</b> 42.")))
    assert deltas[0] == {"role": "assistant"}
    assert all("role" not in delta for delta in deltas[1:])
    assert [d["reasoning"] for d in deltas if "reasoning" in d] == ["Let me", " see."]
    assert [d["content"] for d in deltas if "content" in d] == ["The ", "answer <b>is", "</b> 42."]


@through_the_proxy
@given(cut=cut_texts(), model=st.sampled_from(["thinker", "tagger", "plain"]), cuts=st.lists(st.integers(0, 3000)))
def test_a_stream_cut_anywhere_is_its_unsplit_text_byte_for_byte(
    lab: Lab, cut: list[str], model: str, cuts: list[int]
) -> None:
    fields: dict[str, Any] = {"model": model, "reasoning_split": True}
    found = joined(lab.deltas(script(says(*cut), cuts=cuts), **fields))
    text = "".join(cut)
    assert found == joined(lab.deltas(script(says(text)), **fields))
    whole = lab.message(script(says(text)), **fields)
    assert found.content == whole["content"] == split(text, opened=model == "thinker").content
    assert whole["reasoning"] == split(text, opened=model == "thinker").reasoning


@through_the_proxy
@given(cut=cut_texts(), cuts=st.lists(st.integers(0, 3000)))
def test_without_it_the_text_passes_as_the_engine_gave_it(lab: Lab, cut: list[str], cuts: list[int]) -> None:
    text = "".join(cut)
    deltas = lab.deltas(script(says(*cut), cuts=cuts), reasoning_split=False)
    assert [delta["content"] for delta in deltas if delta] == cut
    message = lab.message(script(says(text)), reasoning_split=False)
    assert message == {"role": "assistant", "content": text}


def test_a_missing_opening_tag_is_known_from_the_model(lab: Lab) -> None:
    prompt = script(says("Let me see", ".</th", "ink>42"))
    assert joined(lab.deltas(prompt)) == ("Let me see.", "42")
    assert joined(lab.deltas(prompt, model="plain", reasoning_split=True)) == ("", "Let me see.</think>42")
    assert joined(lab.deltas(prompt, model="tagger")) == ("", "Let me see.</think>42")
    assert joined(lab.deltas(prompt, chat_template_kwargs={"enable_thinking": False})) == (
        "",
        "Let me see.</think>42",
    )


def test_nothing_is_held_back_while_the_thought_goes_on(lab: Lab) -> None:
    with lab.client.stream(
        "POST",
        "/chat/completions",
        json={
            "model": "thinker",
            "stream": True,
            "messages": [{"role": "user", "content": script(says("Let ", "me ", "see ", "</think>42"), pause_ms=300)}],
        },
    ) as response:
        first = next(line for line in response.iter_lines() if "Let" in line)
    assert '"reasoning":"Let "' in first


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_the_engines_own_field_is_understood(lab: Lab, name: str) -> None:
    prompt = script([{name: "Let me "}, {name: "see."}, {"content": "4<think>2</think>"}])
    expected = ("Let me see.", "4<think>2</think>")
    assert joined(lab.deltas(prompt)) == expected
    message = lab.message(prompt)
    assert message == {"role": "assistant", "reasoning": expected[0], "content": expected[1]}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (None, {"reasoning"}),
        ("reasoning", {"reasoning"}),
        ("reasoning_content", {"reasoning_content"}),
        ("both", {"reasoning", "reasoning_content"}),
    ],
)
def test_clients_choose_the_name_of_the_field(lab: Lab, asked: str | None, names: set[str]) -> None:
    prompt = script(says("<think>Let me see.</think>42"))
    ways: list[dict[str, Any]] = [{"reasoning_field": asked}]
    ways += [{"headers": {"x-reasoning-field": asked}}] if asked else []
    for way in ways:
        message = lab.message(prompt, **way)
        assert message.keys() - {"role", "content"} == names
        assert {message[name] for name in names} == {"Let me see."}
        deltas = lab.deltas(prompt, **way)
        assert {name for delta in deltas for name in delta} - {"role", "content"} == names


def test_choices_have_nothing_to_do_with_each_other(lab: Lab) -> None:
    prompt = script(says("<think>a", "</thi", "nk>b"), says("x", "</think>y", "<think>z"))
    answer = lab.chat(prompt, n=2, stream=True)
    events = read_events(answer.content)[:-1]
    for index, expected in enumerate([("a", "b"), ("x", "y<think>z")]):
        deltas = [c["delta"] for event in events for c in event["choices"] if c["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert joined(deltas) == expected
    whole = lab.chat(prompt, n=2).json()["choices"]
    assert [(c["message"]["reasoning"], c["message"]["content"]) for c in whole] == [("a", "b"), ("x", "y<think>z")]


def test_a_thought_cut_short_has_no_answer(lab: Lab) -> None:
    for text in ("<think>Let me", "Let me"):
        prompt = script(says(text), finish="length")
        assert joined(lab.deltas(prompt)) == ("Let me", "")
        message = lab.message(prompt)
        assert (message["reasoning"], message["content"]) == ("Let me", "")


def test_parts_and_images_pass(lab: Lab) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "Here."}, picture]
    for delta in ({"content": parts}, {"content": None, "images": [picture]}):
        prompt = script([delta])
        assert [d for d in lab.deltas(prompt) if d] == [{"role": "assistant"} | delta]
        assert lab.message(prompt) == {"role": "assistant", "reasoning": ""} | delta


def test_tool_calls_pass(lab: Lab) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    prompt = script([{"content": "<think>a</think>"}, {"tool_calls": [call]}], finish="tool_calls")
    deltas = lab.deltas(prompt)
    assert joined(deltas) == ("a", "")
    assert [d["tool_calls"] for d in deltas if "tool_calls" in d] == [[call]]
    assert lab.message(prompt)["tool_calls"] == [call]


# what is asked --------------------------------------------------------------------------------------------------------


def test_it_is_on_for_models_that_reason_and_off_by_false(lab: Lab) -> None:
    prompt = script(says("<think>a</think>b"))
    assert lab.message(prompt)["reasoning"] == "a"
    assert lab.message(prompt, reasoning_split=None)["reasoning"] == "a"
    assert lab.message(prompt, reasoning_split=False) == {"role": "assistant", "content": "<think>a</think>b"}
    assert lab.message(prompt, model="plain") == {"role": "assistant", "content": "<think>a</think>b"}
    assert lab.message(prompt, model="plain", reasoning_split=True)["reasoning"] == "a"


@pytest.mark.parametrize("fields", [{"reasoning_split": "yes"}, {"reasoning_field": "thoughts"}])
def test_wrong_wishes_are_refused_naming_the_field(lab: Lab, fields: dict[str, Any]) -> None:
    answer = lab.chat(script(says("a")), **fields)
    assert answer.status_code == 400
    assert next(iter(fields)) in answer.json()["error"]["message"]


def test_it_never_reaches_an_engine_and_is_not_called_dropped(lab: Lab) -> None:
    answer = lab.chat(script(says("a")), reasoning_split=True, reasoning_field="both")
    assert "x-dropped-fields" not in answer.headers


def test_other_brands_pass_the_text_and_name_the_field_as_dropped(lab: Lab, gateway: Gateway) -> None:
    for stream in (False, True):
        answer = gateway.chat("Hi", model="aion-reasoning", reasoning_split=True, stream=stream, max_tokens=60)
        assert answer.headers["x-dropped-fields"] == "reasoning_split"
        assert b"reasoning" not in answer.content.replace(b"aion-reasoning", b"").replace(b"reasoning_tokens", b"")
        assert "</" in answer.text


# what it costs --------------------------------------------------------------------------------------------------------


def test_the_same_tokens_are_charged_either_way(lab: Lab) -> None:
    prompt = script(says("<think>", "Let me see.", "</think>", "4", "2"))
    charged = set()
    ways: list[dict[str, Any]] = [{}, {"stream": True}, {"reasoning_split": False}]
    for fields in [*ways, {"reasoning_split": False, "stream": True}]:
        answer = lab.chat(prompt, **fields)
        event = lab.shop.event(answer.headers["x-request-id"])
        assert event.usage_source == "final"
        charged.add((event.uncached_input_tokens, event.output_tokens, event.reasoning_tokens, event.cost_nanos))
    assert charged == {(20, 5, 2, 20 * 200 + 5 * 600)}


def test_usage_comes_last_where_it_is_asked_for(lab: Lab) -> None:
    answer = lab.chat(script(says("<think>a</think>b")), stream=True, stream_options={"include_usage": True})
    events = read_events(answer.content)[:-1]
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    assert events[-1]["usage"]["completion_tokens"] == 1


def test_a_stream_that_breaks_in_its_thought_ends_with_an_error(lab: Lab) -> None:
    answer = lab.chat(script(says("<think>a", "b", "c"), die=2), stream=True)
    events = [orjson.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events[-1]["error"]["code"] == "engine_error"
    event = lab.shop.event(answer.headers["x-request-id"])
    assert (event.end_reason, event.output_tokens) == ("upstream_cut", 2)
    assert event.cost_nanos > 0


def test_nothing_is_left_held(lab: Lab, shop: Shop) -> None:
    assert shop.holds() == 0
