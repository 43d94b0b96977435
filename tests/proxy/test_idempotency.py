"""The same call again under one Idempotency-Key: answered from record, told to wait, or refused; charged once."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from keys import issuing
from proxy import idempotency, settling
from proxy.idempotency import Idempotency
from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def runs(gateway: Gateway) -> int:
    return len(gateway.shop.inference.engine.log)


def test_a_finished_call_is_answered_again_without_running(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "order-1"}
    before = runs(gateway)
    first = gateway.chat(headers=headers)
    second = gateway.chat(headers=headers)
    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert runs(gateway) == before + 1
    assert gateway.chat("Something else.", headers=headers).headers.get("idempotent-replayed") is None
    stranger = gateway.shop.customer().headers | {"idempotency-key": "order-1"}
    assert gateway.chat(headers=stranger).headers.get("idempotent-replayed") is None


def test_what_is_kept_cannot_be_read_in_redis(gateway: Gateway) -> None:
    customer = gateway.shop.customer()
    gateway.chat("My secret duck.", headers=customer.headers | {"idempotency-key": "x"})
    names = list(gateway.shop.store.scan_iter(f"*:idem:{customer.organization.id}:*"))
    assert len(names) == 1
    kept = gateway.shop.store.get(names[0])
    assert kept is not None
    assert b"chat.completion" not in kept
    assert 80_000 < gateway.shop.store.ttl(names[0]) <= 86_400


def test_a_running_call_is_409(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "slow"}
    answers: list[httpx.Response] = []

    def call() -> None:
        answers.append(gateway.chat("demo:delay=800", headers=headers))

    thread = threading.Thread(target=call)
    thread.start()
    while not list(gateway.shop.store.scan_iter("*:idem:*")) or gateway.worker.admission.running < 1:
        threading.Event().wait(0.01)
    second = gateway.chat("demo:delay=800", headers=headers)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert second.headers["x-should-retry"] == "true"
    thread.join()
    third = gateway.chat("demo:delay=800", headers=headers)
    assert third.headers["idempotent-replayed"] == "true"
    assert third.content == answers[0].content


def test_a_call_that_failed_may_run_again(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "failing"}
    for _ in range(2):
        assert gateway.chat(model="aion-broken", headers=headers).status_code == 502
    poor = gateway.shop.customer(credit="")
    headers = poor.headers | {"idempotency-key": "poor"}
    assert gateway.chat(headers=headers).status_code == 429
    gateway.shop.grant(poor.organization, 10**9)
    assert gateway.chat(headers=headers).status_code == 200


def test_a_failed_call_may_run_again_the_moment_its_answer_is_there(gateway: Gateway, monkeypatch) -> None:
    """A 409 here would send a client that retries as it was told into the next wait."""
    forget = Idempotency.forget

    async def slowly(self: Idempotency, name: str, call_id: str) -> None:
        await asyncio.sleep(0.1)
        await forget(self, name, call_id)

    monkeypatch.setattr(Idempotency, "forget", slowly)
    headers = gateway.shop.customer().headers | {"idempotency-key": "impatient"}
    assert [gateway.chat(model="aion-broken", headers=headers).status_code for _ in range(2)] == [502, 502]


def test_a_revoked_key_gets_no_replay(gateway: Gateway) -> None:
    customer = gateway.shop.customer()
    headers = customer.headers | {"idempotency-key": "revoked"}
    assert gateway.chat(headers=headers).status_code == 200
    issuing.revoke(key=customer.issued.key, actor="tests")
    assert gateway.chat(headers=headers).status_code == 401


def test_a_stream_is_answered_again_as_it_came(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "stream", "x-include": "cost"}
    before = runs(gateway)
    first, second = (gateway.chat(headers=headers, stream=True) for _ in range(2))
    assert second.content == first.content
    assert b'"cost":' in first.content
    assert first.content.endswith(b"data: [DONE]\n\n")
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert runs(gateway) == before + 1


def test_a_stream_that_was_cut_is_not_run_again(gateway: Gateway) -> None:
    """What was delivered is charged: running it again would charge it twice."""
    headers = gateway.shop.customer().headers | {"idempotency-key": "cut"}
    fields = {"stream": True, "headers": headers}
    first = gateway.chat("demo:die=5", **fields)
    assert b"[DONE]" not in first.content
    assert gateway.event_of(first).cost_nanos > 0
    again = gateway.chat("demo:die=5", **fields)
    error = again.json()["error"]
    assert (again.status_code, error["code"]) == (409, "idempotency_key_used")
    assert first.headers["x-request-id"] in error["message"]
    assert again.headers["x-should-retry"] == "false"


def test_a_running_stream_is_409(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "running stream"}
    body = {
        "model": "aion-v3",
        "messages": [{"role": "user", "content": "demo:rate=20 demo:tokens=15"}],
        "stream": True,
    }
    with gateway.client.stream("POST", "/chat/completions", json=body, headers=headers) as first:
        next(first.iter_raw())
        second = gateway.client.post("/chat/completions", json=body, headers=headers)
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")


def test_an_answer_too_large_to_keep_is_charged_once_all_the_same(gateway: Gateway, monkeypatch) -> None:
    monkeypatch.setattr(settling, "ANSWER_BYTES_MAX", 10)
    headers = gateway.shop.customer().headers | {"idempotency-key": "large"}
    first, again = (gateway.chat(headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert (again.status_code, again.json()["error"]["code"]) == (409, "idempotency_key_used")


def test_a_call_whose_name_was_taken_while_it_slept_is_not_charged(gateway: Gateway) -> None:
    """Its worker stood still for longer than the name is kept; meanwhile the same request ran elsewhere."""
    customer = gateway.shop.customer()
    headers = customer.headers | {"idempotency-key": "slept"}
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(gateway.chat("demo:delay=800", headers=headers)))
    thread.start()
    its_records = f"*:idem:{customer.organization.id}:*"
    while not (names := list(gateway.shop.store.scan_iter(its_records))) or gateway.worker.admission.running < 1:
        threading.Event().wait(0.01)
    gateway.shop.store.set(names[0], "running:another")
    thread.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert gateway.event_of(answers[0]).cost_nanos == 0
    assert gateway.shop.store.get(names[0]) == b"running:another"


def test_what_redis_did_not_hear_is_kept_once_it_answers_again(gateway: Gateway, monkeypatch) -> None:
    """The answer stands; its record follows."""
    headers = gateway.shop.customer().headers | {"idempotency-key": "away"}
    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_MOVE", "return redis.error_reply('away')")
        first = gateway.chat(headers=headers)
        assert gateway.chat(headers=headers).status_code == 409
    asyncio.run_coroutine_threadsafe(gateway.worker.idempotency._pay(), gateway.worker.counters.loop).result(10)
    again = gateway.chat(headers=headers)
    assert (first.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.content == first.content


def test_a_key_that_is_no_key_is_refused(gateway: Gateway) -> None:
    assert gateway.chat(headers={"idempotency-key": "x" * 300}).status_code == 400
