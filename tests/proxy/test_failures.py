"""Engines that fail in every way they have, and what clients, books and engines see of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db.models import Sum

from billing.models import UsageDay
from billing.reconcile import reconcile
from billing.snapshot import Capabilities
from proxy import answers
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def assert_says(response: Any, status: int, code: str, *, retry: bool) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert response.headers["x-should-retry"] == ("true" if retry else "false")
    assert response.headers["x-request-id"]
    for secret in ("demo-", "127.0.0.1", "CUDA"):
        assert secret not in response.text
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
        assert int(response.headers["retry-after-ms"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_loading_engine_is_503_and_worth_a_retry(gateway: Gateway, stream: bool) -> None:
    response = gateway.chat(model="aion-loading", stream=stream)
    assert_says(response, 503, "engine_not_ready", retry=True)
    assert response.headers["retry-after"] == "30"
    event = gateway.event_of(response)
    assert (event.cost_nanos, event.end_reason, event.http_status) == (0, "upstream_error", 503)


@pytest.mark.parametrize("stream", [False, True])
def test_a_broken_engine_is_502_and_free(gateway: Gateway, stream: bool) -> None:
    response = gateway.chat(model="aion-broken", stream=stream)
    assert_says(response, 502, "engine_error", retry=True)
    assert gateway.event_of(response).cost_nanos == 0


@pytest.mark.parametrize(
    ("said", "status", "code", "retry"),
    [
        (401, 500, "engine_misconfigured", False),
        (403, 500, "engine_misconfigured", False),
        (404, 500, "engine_misconfigured", False),
        (429, 503, "engine_busy", True),
        (500, 502, "engine_error", True),
        (504, 504, "engine_timeout", True),
    ],
)
def test_what_an_engine_says_means_something_else_to_clients(
    gateway: Gateway, said: int, status: int, code: str, retry: bool
) -> None:
    assert_says(gateway.chat(f"demo:status={said}"), status, code, retry=retry)


@pytest.mark.parametrize("said", [400, 413, 422])
def test_what_is_the_clients_fault_is_400(gateway: Gateway, said: int) -> None:
    response = gateway.chat(f"demo:status={said}")
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert gateway.event_of(response).cost_nanos == 0


def test_a_prompt_past_the_context_says_so(gateway: Gateway) -> None:
    refused = gateway.chat("word " * 40_000, max_tokens=10)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_nobody_serves_is_a_configuration_error(gateway: Gateway) -> None:
    shop = gateway.shop
    model = shop.new_model("orphan", "demo-chat")
    from billing import engines

    for route in model.routes.all():
        engines.remove_route(route=route, actor="tests")
    assert_says(gateway.chat(model="orphan"), 500, "engine_misconfigured", retry=False)


def test_an_engine_nobody_can_reach_is_502(gateway: Gateway) -> None:
    shop = gateway.shop
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = shop.new_engine("gone", f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    shop.new_model("gone", "demo-chat", engine=engine)
    assert_says(gateway.chat(model="gone"), 502, "engine_unreachable", retry=True)


def test_another_engine_takes_over_what_the_first_never_got(gateway: Gateway) -> None:
    from billing import engines

    shop = gateway.shop
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = shop.new_engine("dead", f"http://127.0.0.1:{free.getsockname()[1]}/v1", weight=1000)
    model = shop.new_model("pair", "demo-chat", engine=engine)
    engines.set_route(model=model, engine=shop.engine, name_there="demo-chat", actor="tests")
    response = gateway.chat(model="pair")
    assert response.status_code == 200, response.text
    assert gateway.event_of(response).engine_id == shop.engine.id


def test_a_silent_engine_times_out_and_costs_nothing(gateway: Gateway) -> None:
    gateway.shop.new_model("slow", "demo-chat", first_byte_ms=200, total_ms=600)
    took = {}
    for stream in (False, True):
        began = time.monotonic()
        response = gateway.chat("demo:hang", model="slow", stream=stream)
        took[stream] = time.monotonic() - began
        assert_says(response, 504, "engine_timeout", retry=True)
        event = gateway.event_of(response)
        assert (event.cost_nanos, event.end_reason) == (0, "timeout")
    assert took[True] < 0.6 <= took[False], "a whole answer comes when its last token is made: only its end is judged"
    assert gateway.shop.holds() == 0


def test_a_whole_answer_may_take_longer_than_a_streams_first_byte(gateway: Gateway) -> None:
    gateway.shop.new_model("thorough", "demo-chat", first_byte_ms=150)
    response = gateway.chat("demo:tokens=10 demo:delay=500", model="thorough")
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 10
    assert gateway.event_of(response).output_tokens == 10
    late = gateway.chat("demo:tokens=10 demo:delay=500", model="thorough", stream=True)
    assert_says(late, 504, "engine_timeout", retry=True)


@pytest.mark.parametrize(
    ("fault", "end_reason"), [("die=5", "upstream_cut"), ("nodone=5", "upstream_cut"), ("error=5", "upstream_error")]
)
def test_a_stream_that_breaks_ends_with_an_error_event(gateway: Gateway, fault: str, end_reason: str) -> None:
    reply = gateway.stream(f"demo:{fault}")
    *chunks, last = reply.events
    assert len(chunks) >= 5
    assert last["error"]["code"]
    assert b"[DONE]" not in reply.events
    event = gateway.event_of(reply)
    assert event.end_reason == end_reason
    assert event.output_tokens == 5
    assert event.cost_nanos > 0


def test_a_whole_answer_that_breaks_is_502_and_free(gateway: Gateway) -> None:
    response = gateway.chat("demo:die=5")
    assert_says(response, 502, "engine_error", retry=True)
    assert gateway.event_of(response).cost_nanos == 0


def test_a_stall_is_ended_by_the_idle_deadline(gateway: Gateway) -> None:
    gateway.shop.new_model("stalling", "demo-chat", idle_ms=300)
    reply = gateway.stream("demo:stall=3", model="stalling")
    assert reply.events[-1]["error"]["code"] == "engine_timeout"
    event = gateway.event_of(reply)
    assert (event.end_reason, event.output_tokens) == ("timeout", 3)


def test_a_long_wait_is_filled_with_comments(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "COMMIT_SECONDS", 0.2)
    monkeypatch.setattr(answers, "KEEP_ALIVE_SECONDS", 0.2)
    response = gateway.chat("demo:delay=2500", stream=True)
    assert response.status_code == 200
    assert response.content.startswith(b": keep-alive\n\n")
    assert response.content.count(b": keep-alive\n\n") >= 2
    assert response.content.endswith(b"data: [DONE]\n\n")
    gateway.shop.new_model("late", "demo-chat", first_byte_ms=1_500)
    late = gateway.chat("demo:hang", model="late", stream=True)
    assert late.status_code == 200  # the head had to leave before the trouble was known
    assert b'"code":"engine_timeout"' in late.content
    assert b"[DONE]" not in late.content
    assert gateway.event_of(late).cost_nanos == 0


@contextmanager
def engine_saying(*pieces: bytes) -> Iterator[str]:
    """An engine that answers every request with these bytes, a pause between the pieces."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_speak, args=(server, pieces), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)  # ends accept()
        thread.join(5)


def _speak(server: socket.socket, pieces: tuple[bytes, ...]) -> None:
    while True:
        try:
            link, _ = server.accept()
        except OSError:
            return
        with link:
            link.recv(65536)
            for number, piece in enumerate(pieces):
                time.sleep(0.2 if number else 0)
                link.sendall(piece)


def answer(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
        content_type,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    ("said", "stream"),
    [
        (answer(b"not json"), False),
        (answer(b'{"error": "no"}'), False),
        (answer(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}'), False),
        (answer(b'{"usage":{"prompt_tokens":5,"completion_tokens":7}}'), False),
        (answer(b'{"object":"error","message":"flat","code":500}'), False),
        (answer(b'data: {"choices":[]}\n\n', b"text/event-stream"), False),
        (answer(b'{"choices":[]}'), True),
        (answer(b'data: {"error":{"message":"first"}}\n\ndata: [DONE]\n\n', b"text/event-stream"), True),
        (b"garbage\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", False),
        (b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n", False),
    ],
)
def test_nonsense_from_an_engine_is_an_ordinary_error(
    gateway: Gateway, said: bytes, stream: bool, request: pytest.FixtureRequest
) -> None:
    number = abs(hash(request.node.name)) % 10**8
    with engine_saying(said) as url:
        engine = gateway.shop.new_engine(f"odd-{number}", url, capabilities=Capabilities())
        gateway.shop.new_model(f"odd-{number}", "x", engine=engine)
        response = gateway.chat(model=f"odd-{number}", stream=stream)
    assert response.status_code in (500, 502)
    assert response.json()["error"]["code"] in ("engine_error", "engine_misconfigured")
    assert gateway.event_of(response).cost_nanos == 0


def test_a_stream_that_turns_to_nonsense_is_charged_as_far_as_it_made_sense(gateway: Gateway) -> None:
    good = (
        b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
        b'{"content":"duck"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":%d}}\n\n'
    )
    bad = b'data: {"choices":[{"finish_reason":null]],"usage":{"completion_tokens":3}\n\n'
    whole = answer(good % 1 + good % 2 + bad, b"text/event-stream")
    with engine_saying(whole.removesuffix(bad), bad) as url:
        capabilities = Capabilities(running_usage="continuous_usage_stats")
        engine = gateway.shop.new_engine("babbling", url, capabilities=capabilities)
        gateway.shop.new_model("babbling", "x", engine=engine)
        reply = gateway.stream(model="babbling")
    *chunks, last = reply.events
    assert len(chunks) == 2
    assert last["error"]["code"] == "engine_error"
    event = gateway.event_of(reply)
    assert (event.end_reason, event.output_tokens) == ("upstream_error", 2)


def test_a_full_engine_is_busy_and_shared(gateway: Gateway) -> None:
    shop = gateway.shop
    engine = shop.new_engine("small", shop.inference.base_url, max_in_flight=4)
    shop.new_model("small", "demo-chat", engine=engine)
    flood, other = shop.customer(), shop.customer()
    calls: list[Any] = []

    def call() -> None:
        calls.append(gateway.chat("demo:delay=3500", model="small", headers=flood.headers))

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    while gateway.worker.slots.in_flight().get(engine.id, 0) < 3:
        threading.Event().wait(0.01)
    assert gateway.chat(model="small", headers=other.headers).status_code == 200
    for thread in threads:
        thread.join()
    assert sorted(response.status_code for response in calls) == [200, 200, 200, 503, 503]
    assert_says(next(call for call in calls if call.status_code == 503), 503, "engine_busy", retry=True)
    assert gateway.worker.slots.in_flight()[engine.id] == 0
    assert shop.holds() == 0


def test_what_an_engine_fails_uses_up_no_request(gateway: Gateway) -> None:
    customer = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 2})
    asked = [gateway.chat(f"demo:status={said}", headers=customer.headers) for said in (500, 422, 422)]
    assert [response.status_code for response in asked] == [502, 400, 400]
    served = [gateway.chat(headers=customer.headers) for _ in range(2)]
    assert [response.status_code for response in served] == [200, 200]
    assert gateway.chat(headers=customer.headers).status_code == 429
    for response in (*asked, *served):
        assert gateway.event_of(response).http_status == response.status_code
    day = UsageDay.objects.filter(organization_id=customer.organization.id)
    assert day.aggregate(Sum("requests"), Sum("failures")) == {"requests__sum": 5, "failures__sum": 3}
    own = f"organization_id {customer.organization.id},"
    assert not [difference for difference in reconcile(gateway.shop.store) if own in str(difference)]
