"""Calls through the real app: real PostgreSQL and Redis, and the demo engine."""

from __future__ import annotations

import pytest

from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_whole_call_is_answered_metered_and_charged(gateway: Gateway) -> None:
    response = gateway.chat()
    assert response.status_code == 200, response.text
    answer = response.json()
    call_id = response.headers["x-request-id"]
    assert answer["id"] == f"chatcmpl-{call_id}"
    assert answer["model"] == "aion-v3"
    event = gateway.shop.event()
    assert str(event.call_id) == call_id
    assert event.output_tokens == answer["usage"]["completion_tokens"]


def test_a_streamed_call_too(gateway: Gateway) -> None:
    *chunks, done = gateway.stream()
    assert done == b"[DONE]"
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {(chunks[0]["id"], "aion-v3")}
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    event = gateway.shop.event()
    assert event.stream
    assert event.end_reason == "length"
    assert event.usage_source == "final"
