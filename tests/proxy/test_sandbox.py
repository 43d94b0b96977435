"""Keys for trying out, through the real proxy: every endpoint answers, nothing is charged, counted or sent to an
engine, and what holds for a key holds for them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest

from billing import reports, script
from billing.journal import Journal
from billing.models import Posting, UsageEvent
from keys import issuing
from keys.caller import SHARDS
from keys.models import ApiKey, KeyUse
from proxy import refusal_records
from proxy.models import RefusalCount, RefusalRecord, TestCall
from proxy.sandbox.admission import KEY_CALLS_PER_MINUTE
from proxy.sandbox.calls import by_key
from tests.billing.draining import drain
from tests.proxy.shop import Customer, Gateway

pytestmark = pytest.mark.django_db(transaction=True)
TEST = ApiKey.Mode.TEST


@pytest.fixture(autouse=True)
def _partitions(shop: Any) -> None:
    refusal_records.keep(datetime.now(UTC))


@pytest.fixture
def customer(gateway: Gateway) -> Customer:
    """Without a balance, on a tier that lets nothing through: a test key does not mind."""
    found = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 0}, credit="")
    return Customer(found.organization, gateway.shop.new_key(found.organization, mode=TEST))


def told(gateway: Gateway, call_id: str) -> TestCall:
    deadline = time.monotonic() + 10
    while True:
        refusal_records.move(gateway.shop.store)
        found = TestCall.objects.filter(call_id=call_id).first()
        if found is not None:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ask(gateway: Gateway, customer: Customer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}{path}", json=body, headers=customer.headers, timeout=30)


def test_every_endpoint_answers_and_nothing_is_in_the_books(gateway: Gateway, customer: Customer) -> None:
    shop = gateway.shop
    asked_before, names_before = len(shop.inference.engine.log), set(shop.store.keys("*"))
    assert customer.issued.secret.startswith("ak-test_")
    assert customer.issued.key.hint.startswith("ak-test_…")

    whole = gateway.chat(headers=customer.headers)
    assert whole.status_code == 200, whole.text
    assert whole.headers["x-cost-nanos"] == "0"
    usage = whole.json()["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert not [name for name in whole.headers if name.startswith("x-ratelimit")]
    streamed = gateway.stream(headers=customer.headers, stream_options={"include_usage": True})
    assert streamed.text
    assert streamed.events[-1] == b"[DONE]"
    assert streamed.events[-2]["usage"]["completion_tokens"] > 0
    two = gateway.chat(headers=customer.headers, n=2, include="cost").json()
    assert len(two["choices"]) == 2
    thought = gateway.chat(headers=customer.headers, model="aion-reasoning", max_tokens=100)
    assert thought.status_code == 200
    embedded = ask(gateway, customer, "/embeddings", model="aion-embed", input=["one", "two"])
    assert len(embedded.json()["data"]) == 2
    completed = ask(gateway, customer, "/completions", model="aion-v3", prompt="Once", max_tokens=20)
    assert completed.json()["choices"][0]["text"]
    responded = ask(gateway, customer, "/responses", model="aion-v3", input="Hello?")
    assert responded.json()["status"] == "completed"
    assert responded.json()["usage"]["output_tokens"] > 0
    # A model whose engine is broken, and one whose engine loads, answer too: no engine is asked.
    assert gateway.chat(headers=customer.headers, model="aion-broken").status_code == 200

    call = told(gateway, streamed.call_id)
    assert (call.model, call.endpoint, call.stream, call.http_status) == ("aion-v3", "chat", True, 200)
    assert call.key_id == customer.issued.key.id
    assert call.key_hint == customer.issued.key.hint
    assert call.output_tokens == streamed.events[-2]["usage"]["completion_tokens"]
    told(gateway, responded.headers["x-request-id"])
    assert by_key(customer.organization.id) == {customer.issued.key.id: 8}
    assert KeyUse.objects.get(key=customer.issued.key).address == "127.0.0.1"

    assert len(shop.inference.engine.log) == asked_before, "no engine was asked"
    own = (b":test:", b":key:", b":org:", b":refusals", b"kd:", b"policy:")
    made = [name for name in set(shop.store.keys("*")) - names_before if not any(part in name for part in own)]
    assert made == [], "no counter, hold or account"
    assert sum(shop.store.xlen(script.name(shard, script.JOURNAL)) for shard in range(SHARDS)) == 0
    assert shop.holds() == 0
    _books_are_empty(gateway, customer)


def _books_are_empty(gateway: Gateway, customer: Customer) -> None:
    drain_all(gateway)
    organization = customer.organization
    assert not UsageEvent.objects.filter(organization_id=organization.id).exists()
    assert not Posting.objects.filter(lines__account__organization=organization).exists()
    today = datetime.now(UTC).date()
    assert list(reports.usage(organization.id, first=today, last=today, by=("key_id",))) == []


def drain_all(gateway: Gateway) -> None:
    drain(Journal(gateway.shop.store, name="tests", notify=lambda line: None))


def test_a_test_key_is_bound_by_all_that_binds_a_key(gateway: Gateway, customer: Customer) -> None:
    shop = gateway.shop
    limited = shop.new_key(customer.organization, mode=TEST, model_slugs=["aion-v3"], scopes=["chat"])
    headers = {"authorization": f"Bearer {limited.secret}"}
    assert gateway.chat(headers=headers).status_code == 200
    assert gateway.chat(headers=headers, model="aion-reasoning").status_code == 403
    assert gateway.chat(headers=headers, model="none").status_code == 404
    assert gateway.chat(headers=headers, temperature="hot").status_code == 400
    rotated = issuing.rotate(key=limited.key, overlap=datetime.resolution, actor="tests")
    assert rotated.secret.startswith("ak-test_")
    assert rotated.key.mode == TEST
    assert gateway.chat(headers={"authorization": f"Bearer {rotated.secret}"}).status_code == 200
    issuing.revoke(key=rotated.key, actor="tests")
    assert gateway.chat(headers={"authorization": f"Bearer {rotated.secret}"}).status_code == 401


def test_its_pace_is_bounded_and_its_refusals_are_told_apart(gateway: Gateway, customer: Customer) -> None:
    answers = [gateway.chat(headers=customer.headers, max_tokens=1) for _ in range(KEY_CALLS_PER_MINUTE + 1)]
    if answers[-1].status_code == 200:  # a minute began in between
        answers += [gateway.chat(headers=customer.headers, max_tokens=1) for _ in range(KEY_CALLS_PER_MINUTE)]
    refused = answers[-1]
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) <= 60
    assert f"{KEY_CALLS_PER_MINUTE} requests per minute per key" in refused.json()["error"]["message"]
    deadline = time.monotonic() + 10
    while not RefusalRecord.objects.filter(call_id=refused.headers["x-request-id"]).exists():
        refusal_records.move(gateway.shop.store)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    counted = RefusalCount.objects.filter(organization_id=customer.organization.id)
    assert {row.reason for row in counted} == {"test rate_limited"}


def test_a_live_call_of_the_same_account_knows_nothing_of_its_answers(gateway: Gateway) -> None:
    """Neither by an Idempotency-Key, nor by what is counted."""
    shop = gateway.shop
    live = shop.customer({"unit": "requests", "window": "day", "amount": 1})
    test = shop.new_key(live.organization, mode=TEST)
    same = {"idempotency-key": "once"}
    first = gateway.chat(headers={"authorization": f"Bearer {test.secret}"} | same)
    again = gateway.chat(headers={"authorization": f"Bearer {test.secret}"} | same)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    charged = gateway.chat(headers=live.headers | same)
    assert charged.status_code == 200
    assert "idempotent-replayed" not in charged.headers
    assert gateway.event_of(charged).cost_nanos > 0
    assert gateway.chat(headers=live.headers).status_code == 429
    assert gateway.chat(headers={"authorization": f"Bearer {test.secret}"}).status_code == 200


def test_what_went_wrong_can_be_asked_for(gateway: Gateway, customer: Customer) -> None:
    failed = gateway.chat("demo:status=500", headers=customer.headers)
    assert failed.status_code == 502
    assert told(gateway, failed.headers["x-request-id"]).end_reason == "upstream_error"
    cut = gateway.stream("demo:die=3", headers=customer.headers)
    assert cut.events[-1] != b"[DONE]"
    assert "error" in cut.events[-1]
    # What would hold a slot is not obeyed.
    assert gateway.chat("demo:hang", headers=customer.headers).status_code == 200


def test_the_openai_sdk_reads_it(gateway: Gateway, customer: Customer) -> None:
    client = openai.OpenAI(base_url=gateway.base_url, api_key=customer.issued.secret, max_retries=0)
    stream = client.chat.completions.create(
        model="aion-v3", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert client.models.list().data


def test_a_client_that_leaves_costs_nothing_either(gateway: Gateway, customer: Customer) -> None:
    body = {"model": "aion-v3", "messages": [{"role": "user", "content": "demo:tokens=500"}], "stream": True}
    with httpx.stream(
        "POST", f"{gateway.base_url}/chat/completions", json=body, headers=customer.headers, timeout=30
    ) as answer:
        next(answer.iter_bytes())
        call_id = answer.headers["x-request-id"]
    assert told(gateway, call_id).end_reason in ("client_gone", "stop")
    _books_are_empty(gateway, customer)
