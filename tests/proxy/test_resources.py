"""Models, usage, health, CORS, metrics."""

from __future__ import annotations

import httpx
import pytest

from tests.proxy.shop import Gateway

pytestmark = pytest.mark.django_db(transaction=True)


def test_models_are_listed_as_openai_lists_them(gateway: Gateway) -> None:
    response = gateway.client.get("/models")
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "list"
    (first,) = [model for model in body["data"] if model["id"] == "aion-v3"]
    assert (first["id"], first["object"], first["owned_by"]) == ("aion-v3", "model", "dialogix")
    assert isinstance(first["created"], int)
    assert first["pricing"] == {"prompt": "0.0000002", "completion": "0.0000006", "input_cache_read": "0.00000005"}
    assert "demo-chat" not in response.text
    assert response.headers["x-request-id"]
    head = gateway.client.head("/models")
    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) == len(response.content)


def test_one_model_is_shown_even_with_a_slash_in_its_name(gateway: Gateway) -> None:
    gateway.shop.new_model("maker/model.v1", "demo-chat")
    assert gateway.client.get("/models/maker/model.v1").json()["id"] == "maker/model.v1"
    assert gateway.client.get("/models/maker%2Fmodel.v1").json()["id"] == "maker/model.v1"
    missing = gateway.client.get("/models/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_key_sees_the_models_it_may_call(gateway: Gateway) -> None:
    shop = gateway.shop
    key = shop.new_key(shop.organization, model_slugs=["aion-v3"]).secret
    headers = {"authorization": f"Bearer {key}"}
    assert [model["id"] for model in gateway.client.get("/models", headers=headers).json()["data"]] == ["aion-v3"]
    assert gateway.client.get("/models/aion-embed", headers=headers).status_code == 404
    gated = shop.customer(model_slugs=["aion-embed"])
    listed = gateway.client.get("/models", headers=gated.headers).json()["data"]
    assert [model["id"] for model in listed] == ["aion-embed"]
    assert httpx.get(f"{gateway.base_url}/models").status_code == 401


def test_usage_includes_the_call_just_answered(gateway: Gateway) -> None:
    customer = gateway.shop.customer({"unit": "tokens", "window": "lifetime", "amount": 10_000})
    before = gateway.client.get("/usage", headers=customer.headers).json()
    assert before["user"] == customer.organization.slug
    assert (before["tokens_used"], before["tokens_limit"], before["tokens_remaining"]) == (0, 10_000, 10_000)
    assert len(before["daily_stats"]) == 30
    usage = gateway.chat(headers=customer.headers).json()["usage"]
    after = gateway.client.get("/usage", headers=customer.headers).json()
    assert after["tokens_used"] == usage["total_tokens"]
    assert after["tokens_remaining"] == 10_000 - usage["total_tokens"]
    today = after["daily_stats"][-1]
    assert (today["requests"], today["prompt_tokens"], today["completion_tokens"], today["total_tokens"]) == (
        1,
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["total_tokens"],
    )
    key = gateway.shop.new_key(gateway.shop.organization, scopes=["chat"]).secret
    refused = gateway.client.get("/usage", headers={"authorization": f"Bearer {key}"})
    assert refused.status_code == 403


def test_health_needs_no_key(gateway: Gateway) -> None:
    for url in (f"{gateway.base_url}/health", f"{gateway.root}/v1/health"):
        response = httpx.get(url)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_pages_in_browsers_may_call_where_the_brand_allows_it(gateway: Gateway) -> None:
    shop = gateway.shop
    open_brand = shop.new_brand("webby", "we-", cors_origins=["https://app.example"])
    shop.new_model("aion-v3", "demo-chat", brand=open_brand)
    secret = shop.new_key(shop.new_organization("webby", brand=open_brand, credit="1")).secret
    url = f"{gateway.root}/webby/v1/chat/completions"
    ask = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = httpx.options(url, headers=ask)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-methods"] == "POST, OPTIONS"
    body = {"model": "aion-v3", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}
    headers = {"origin": "https://app.example", "authorization": f"Bearer {secret}"}
    for stream in (False, True):
        answer = httpx.post(url, headers=headers, json=body | {"stream": stream})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
    refused = httpx.post(url, headers={"origin": "https://app.example"}, json=body)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    assert (
        "access-control-allow-origin" not in httpx.options(url, headers=ask | {"origin": "https://x.example"}).headers
    )


def test_metrics_are_for_this_machine(gateway: Gateway) -> None:
    gateway.chat()
    gateway.chat(model="nobody")
    response = httpx.get(f"{gateway.root}/metrics")
    assert response.status_code == 200
    text = response.text
    for line in (
        'gateway_calls_total{end_reason="length",endpoint="chat"}',
        'gateway_refusals_total{reason="model_not_found",status="404"}',
        'gateway_tokens_total{kind="output"}',
        "gateway_added_seconds_bucket",
        "gateway_first_token_seconds_count",
        "gateway_engine_in_flight",
        "gateway_wal_healthy 1.0",
        "gateway_workers 1.0",
        "gateway_journal_entries",
    ):
        assert line in text, line
    assert gateway.shop.secret not in text
    assert httpx.get(f"{gateway.root}/metrics", headers={"x-forwarded-for": "1.2.3.4"}).status_code == 404
