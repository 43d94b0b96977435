"""Clients that leave, and clients that do not read."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import orjson
import pytest

from billing.journal import Journal
from billing.models import UsageEvent
from billing.snapshot import Capabilities
from proxy.leavers import FREE_SECONDS, Leavers
from tests.billing.draining import drain
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def post(gateway: Gateway, content: str, **fields: object) -> socket.socket:
    body = orjson.dumps(
        {"model": "aion-v3", "messages": [{"role": "user", "content": content}], "max_tokens": 200, "stream": True}
        | fields
    )
    link = socket.create_connection(("127.0.0.1", gateway.port))
    link.sendall(
        b"POST /dialogix/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (gateway.shop.secret.encode(), len(body), body)
    )
    return link


def read_until(link: socket.socket, chunks: int) -> tuple[str, bytes]:
    """The call's id and what was read, once it holds that many events."""
    data = b""
    while data.count(b"data: ") < chunks:
        piece = link.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    call_id = next(line[14:] for line in head.split(b"\r\n") if line.startswith(b"x-request-id: "))
    return call_id.decode(), body


def test_a_client_that_leaves_stops_the_engine_and_pays_what_was_made(gateway: Gateway) -> None:
    link = post(gateway, "demo:fill demo:rate=20")
    call_id, _ = read_until(link, 5)
    left_at = time.time()
    link.close()
    event = gateway.shop.event(call_id)
    did = gateway.shop.inference.entry(call_id)
    assert did["end"] == "aborted"
    assert did["ended_at"] - left_at < 1
    assert event.end_reason == "client_gone"
    assert event.http_status == 499
    assert 4 <= event.output_tokens <= did["output_tokens"] <= event.output_tokens + 2
    assert event.cost_nanos > 0
    assert gateway.shop.holds() == 0


def test_a_client_that_leaves_before_the_first_token_pays_nothing(gateway: Gateway) -> None:
    link = post(gateway, "demo:hang")
    deadline = time.monotonic() + 5
    while gateway.worker.slots.in_flight().get(gateway.shop.engine.id, 0) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    link.close()
    while gateway.worker.slots.in_flight()[gateway.shop.engine.id]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    deadline = time.monotonic() + 5
    while gateway.shop.holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_leaving_at_done_is_success(gateway: Gateway) -> None:
    """As the openai SDK does it: close at [DONE] without reading on."""
    for _ in range(5):
        with gateway.client.stream(
            "POST",
            "/chat/completions",
            json={"model": "aion-v3", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 9},
        ) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    break
        event = gateway.event_of(response)
        assert event.end_reason in ("stop", "length")
        assert event.http_status == 200


def test_a_whole_call_is_read_to_its_end_where_closing_stops_nothing(gateway: Gateway) -> None:
    shop = gateway.shop
    capabilities = Capabilities(stops_on_close=False, running_usage="")
    engine = shop.new_engine("tireless", shop.inference.base_url, capabilities=capabilities)
    shop.new_model("tireless", "demo-chat", engine=engine)
    _leave_a_whole_call(gateway, engine.id, model="tireless")


def test_a_whole_call_of_an_organization_that_leaves_all_the_time_is_read_to_its_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    leavers = Leavers()
    assert leavers.may_go(gateway.shop.organization.id, 2 * FREE_SECONDS)
    monkeypatch.setattr(gateway.worker, "leavers", leavers)
    _leave_a_whole_call(gateway, gateway.shop.engine.id)


def _leave_a_whole_call(gateway: Gateway, engine_id: int, **fields: object) -> None:
    """Its answer is made to its end, and charged."""
    link = post(gateway, "demo:tokens=30 demo:rate=40", stream=False, **fields)
    deadline = time.monotonic() + 5
    while not gateway.worker.slots.in_flight().get(engine_id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    link.close()
    while gateway.worker.slots.in_flight()[engine_id]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    event = _last_event(gateway)
    assert event.end_reason == "stop"
    assert event.usage_source == "final"
    assert event.output_tokens == 30
    assert "client_gone" in event.flags


def _last_event(gateway: Gateway) -> UsageEvent:
    drain(Journal(gateway.shop.store, name="tests", notify=lambda line: None))
    return UsageEvent.objects.order_by("-call_id")[0]


def test_a_whole_call_is_closed_where_closing_stops_it(gateway: Gateway) -> None:
    link = post(gateway, "demo:tokens=200 demo:rate=20", stream=False)
    deadline = time.monotonic() + 5
    while not gateway.worker.slots.in_flight().get(gateway.shop.engine.id):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    link.close()
    left_at = time.monotonic()
    while gateway.worker.slots.in_flight()[gateway.shop.engine.id]:
        assert time.monotonic() - left_at < 1
        time.sleep(0.01)
    event = _last_event(gateway)
    assert event.end_reason == "client_gone"


def test_a_client_that_does_not_read_is_held_back_and_ended(gateway: Gateway) -> None:
    gateway.shop.new_model("brief", "demo-large", context_length=131_072, max_completion_tokens=100_000, total_ms=1_500)
    link = post(gateway, "demo:fill", model="brief", max_tokens=100_000)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    call_id, _ = read_until(link, 1)
    event = gateway.shop.event(call_id, within_seconds=15)
    assert event.end_reason == "timeout"
    assert 0 < event.output_tokens < 100_000
    link.close()
    assert gateway.chat().status_code == 200


def test_a_client_that_leaves_in_its_body_disturbs_nobody(gateway: Gateway) -> None:
    link = socket.create_connection(("127.0.0.1", gateway.port))
    link.sendall(
        b"POST /dialogix/v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\n"
        b"content-length: 100\r\n\r\n{" % gateway.shop.secret.encode()
    )
    time.sleep(0.1)
    link.close()
    assert gateway.chat().status_code == 200


def test_what_came_while_a_worker_stood_still_is_passed_on_and_charged_though_the_call_lapsed(gateway: Gateway) -> None:
    """More than it reads at once is in its socket when it wakes up and finds the lease gone."""
    said: list[Any] = []
    deadline = time.monotonic() + 30
    words = "demo:fill demo:delay=300"
    client = threading.Thread(target=lambda: said.append(gateway.stream(words, max_tokens=3_000)))
    client.start()
    admission = gateway.worker.admission
    while not admission.running:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    def sleep_past_the_lease() -> None:
        time.sleep(1.5)
        for hold in admission.holds():
            hold.lapsed = True

    gateway.worker.counters.loop.call_soon_threadsafe(sleep_past_the_lease)
    client.join()
    (streamed,) = said
    *chunks, last = streamed.events
    assert last["error"]["code"] == "call_lapsed"
    event = gateway.shop.event(streamed.call_id)
    made = gateway.shop.inference.entry(streamed.call_id)["output_tokens"]
    got = sum(bool(choice["delta"].get("content")) for chunk in chunks for choice in chunk["choices"])
    assert event.end_reason == "lapsed"
    assert got == event.output_tokens == made
