"""Images in answers: passed on as engines give them, counted by the meter, and never more than were held for."""

from __future__ import annotations

from typing import Any

import pytest

from billing import prices
from billing.snapshot import Capabilities
from proxy.bounds import Bounds
from proxy.meter import Ending, Flag, Measured, Meter
from tests.proxy.shop import Gateway
from tests.proxy.test_meter import VLLM, answer, chunk, sse, usage

pytestmark = pytest.mark.django_db(transaction=True)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def limits(images_max: int) -> Bounds:
    return Bounds(prompt_tokens_max=1000, output_tokens_max=100, context_length=2000, images_max=images_max)


def whole(message: dict[str, Any], images_max: int = 4) -> Measured:
    import json

    said = answer(usage=usage(5, 7))
    said["choices"][0]["message"] = message
    meter = Meter(Capabilities(), limits(images_max))
    meter.whole(json.dumps(said).encode())
    return meter.result(Ending.COMPLETE)


def streamed(*deltas: dict[str, Any], images_max: int = 4) -> Measured:
    events = [
        chunk({"index": 0, "delta": delta, "finish_reason": None}, usage=usage(5, number))
        for number, delta in enumerate(deltas, start=1)
    ]
    meter = Meter(VLLM, limits(images_max))
    end = chunk({"index": 0, "delta": {}, "finish_reason": "stop"})
    meter.feed(sse(*events, end, chunk(usage=usage(5, len(deltas)))))
    return meter.result(Ending.COMPLETE)


@pytest.mark.parametrize(
    ("message", "images"),
    [
        ({"role": "assistant", "content": "Here.", "images": [IMAGE, IMAGE]}, 2),
        ({"role": "assistant", "content": None, "images": [IMAGE]}, 1),
        ({"role": "assistant", "content": [{"type": "text", "text": "Here."}, IMAGE]}, 1),
        ({"role": "assistant", "content": [{"type": "output_image", "image": "AAAA"}]}, 1),
        ({"role": "assistant", "content": [IMAGE], "images": [IMAGE]}, 1),
        ({"role": "assistant", "content": "No image."}, 0),
        ({"role": "assistant", "content": 5, "images": "many"}, 0),
    ],
)
def test_images_of_a_whole_answer_are_counted(message: dict[str, Any], images: int) -> None:
    measured = whole(message)
    assert measured.usage.images == images
    assert (measured.usage.prompt_tokens, measured.usage.output) == (5, 7)


def test_images_of_a_stream_add_up() -> None:
    measured = streamed(
        {"role": "assistant", "content": "a"}, {"content": "b"}, {"images": [IMAGE]}, {"images": [IMAGE]}
    )
    assert (measured.usage.images, measured.usage.output) == (2, 4)
    assert streamed({"content": "a"}, {"content": [IMAGE]}).usage.images == 1


def test_more_images_than_were_held_for_are_not_charged() -> None:
    measured = whole({"role": "assistant", "content": "x", "images": [IMAGE] * 5}, images_max=2)
    assert measured.usage.images == 2
    assert Flag.IMAGES_OVER_HOLD in measured.flags
    none = whole({"role": "assistant", "content": "x", "images": [IMAGE]}, images_max=0)
    assert none.usage.images == 0
    assert Flag.IMAGES_OVER_HOLD in none.flags


def test_an_image_of_many_bytes_passes_in_one_event() -> None:
    huge = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 6_000_000}}
    assert streamed({"content": "a"}, {"images": [huge]}).usage.images == 1


@pytest.fixture(scope="module")
def drawing(gateway: Gateway) -> str:
    extras = ["aspect_ratio", "image_size", "top_k"]
    model = gateway.shop.new_model("drawing", "demo-image", images_per_call_max=3, extra_fields=extras)
    per_million = {"input": "0.30", "output": "2.50"}
    prices.set_price(model=model, actor="tests", per_million=per_million, image_nanos=39_000_000)
    return model.slug


@pytest.mark.parametrize("stream", [False, True])
def test_images_reach_the_client_and_the_bill(gateway: Gateway, drawing: str, stream: bool) -> None:
    fields = {"model": drawing, "aspect_ratio": "16:9", "image_size": "1K", "top_k": 40, "nonsense": 1}
    if stream:
        answer = gateway.stream("demo:images=2", **fields)
        found = [event["choices"][0]["delta"].get("images") for event in answer.events if event != b"[DONE]"]
        images = [image for each in found if each for image in each]
    else:
        response = gateway.chat("demo:images=2", **fields)
        assert response.headers["x-dropped-fields"] == "nonsense"
        images = response.json()["choices"][0]["message"]["images"]
        answer = response  # type: ignore[assignment]
    assert [image["image_url"]["url"][:22] for image in images] == ["data:image/png;base64,"] * 2
    event = gateway.event_of(answer)
    assert event.images == 2
    assert event.held_nanos >= 3 * 39_000_000  # the most that one answer may hold
    tokens = event.uncached_input_tokens * 300 + event.output_tokens * 2_500 + (event.cache_read_tokens or 0) * 300
    assert event.cost_nanos == tokens + 2 * 39_000_000
