"""The same call again under one Idempotency-Key: answered from record, or told to wait."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from keys import issuing
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


def test_streams_are_not_kept(gateway: Gateway) -> None:
    headers = gateway.shop.customer().headers | {"idempotency-key": "stream"}
    before = runs(gateway)
    for _ in range(2):
        assert gateway.stream(headers=headers).events[-1] == b"[DONE]"
    assert runs(gateway) == before + 2


def test_a_key_that_is_no_key_is_refused(gateway: Gateway) -> None:
    assert gateway.chat(headers={"idempotency-key": "x" * 300}).status_code == 400
