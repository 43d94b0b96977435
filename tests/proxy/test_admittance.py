"""Who is let in, and how everybody else is told; changes hold on the very next request."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from billing import engines, ladder, prices
from keys import brands, issuing, organizations, records
from keys.models import Role
from tests.proxy.shop import HELLO, Gateway

pytestmark = pytest.mark.django_db(transaction=True)
ACTOR = "tests"


def code_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["x-request-id"]
    return response.status_code, response.json()["error"]["code"]


def ask(gateway: Gateway, *, url: str | None = None, **options: Any) -> httpx.Response:
    body = {"model": "aion-v3", "messages": HELLO, "max_tokens": 16}
    return httpx.post((url or gateway.base_url) + "/chat/completions", json=body, **options)


def test_a_key_comes_in_any_way_the_brand_takes(gateway: Gateway) -> None:
    secret = gateway.shop.secret
    for headers in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer {secret}"},
        {"authorization": f"Api-Key {secret}"},
        {"x-api-key": secret},
    ):
        assert ask(gateway, headers=headers).status_code == 200
    assert ask(gateway, params={"api_key": secret}).status_code == 200


def test_a_key_that_is_none_is_401_by_name(gateway: Gateway) -> None:
    secret = gateway.shop.secret
    assert code_of(ask(gateway)) == (401, "invalid_api_key")
    for key in ("ak-nonsense", "x" * 100_000 + "y", "ak-" + "1" * 33, "'; DROP TABLE", secret[:-1], secret + "x"):
        if len(key) < 10_000:
            assert code_of(ask(gateway, headers={"authorization": f"Bearer {key}"})) == (401, "invalid_api_key")
    assert code_of(ask(gateway, headers={"authorization": secret})) == (401, "invalid_api_key")
    assert code_of(ask(gateway, headers={"authorization": f"Basic {secret}"}))[0] == 401
    twice = [("authorization", f"Bearer {secret}"), ("authorization", f"Bearer {secret}")]
    assert code_of(ask(gateway, headers=twice)) == (400, "duplicate_authorization")
    other = gateway.shop.new_key(gateway.shop.organization).secret
    both = {"authorization": f"Bearer {secret}", "x-api-key": other}
    assert code_of(ask(gateway, headers=both)) == (401, "ambiguous_credentials")


def test_a_brand_says_which_ways_it_takes(gateway: Gateway) -> None:
    shop = gateway.shop
    strict = shop.new_brand("strict", "st-", schemes=["bearer"])
    shop.new_model("aion-v3", "demo-chat", brand=strict)
    secret = shop.new_key(shop.new_organization("strict", brand=strict, credit="1")).secret
    url = f"{gateway.root}/strict/v1"
    assert ask(gateway, url=url, headers={"authorization": f"Bearer {secret}"}).status_code == 200
    refused = ask(gateway, url=url, headers={"x-api-key": secret})
    assert code_of(refused) == (401, "scheme_not_accepted")
    assert "Authorization: Bearer" in refused.json()["error"]["message"]
    # Without slug or host the key says whose it is, and that brand's rule holds.
    bare = f"{gateway.root}/v1"
    assert ask(gateway, url=bare, headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert code_of(ask(gateway, url=bare, headers={"x-api-key": secret})) == (401, "scheme_not_accepted")
    assert ask(gateway, url=bare, headers={"x-api-key": shop.secret}).status_code == 200
    # On another brand's surface it is nobody's.
    assert code_of(ask(gateway, headers={"authorization": f"Bearer {secret}"})) == (401, "invalid_api_key")


def test_which_ways_a_brand_takes_changes_with_the_very_next_request(gateway: Gateway) -> None:
    shop = gateway.shop
    brand = shop.new_brand("fickle", "fi-", schemes=["bearer", "x-api-key"])
    shop.new_model("aion-v3", "demo-chat", brand=brand)
    secret = shop.new_key(shop.new_organization("fickle", brand=brand, credit="1")).secret
    options: dict[str, Any] = {"url": f"{gateway.root}/fickle/v1", "headers": {"x-api-key": secret}}
    models = f"{gateway.root}/fickle/v1/models"
    assert ask(gateway, **options).status_code == 200
    for _ in range(3):
        brands.change(brand=brand, actor=ACTOR, schemes=["bearer"])
        assert code_of(ask(gateway, **options)) == (401, "scheme_not_accepted")
        brands.change(brand=brand, actor=ACTOR, schemes=["bearer", "x-api-key"])
        assert ask(gateway, **options).status_code == 200
        brands.change(brand=brand, actor=ACTOR, schemes=["bearer"])
        assert code_of(httpx.get(models, headers=options["headers"])) == (401, "scheme_not_accepted")
        brands.change(brand=brand, actor=ACTOR, schemes=["bearer", "x-api-key"])
        assert httpx.get(models, headers=options["headers"]).status_code == 200


def test_hosts_name_brands_and_strange_hosts_are_refused(gateway: Gateway, settings: Any) -> None:
    shop = gateway.shop
    hosted = shop.new_brand("hosted", "ho-", hosts=["api.hosted.example"], base_paths=["/api/v1"])
    shop.new_model("aion-v3", "demo-chat", brand=hosted)
    secret = shop.new_key(shop.new_organization("hosted", brand=hosted, credit="1")).secret
    url = f"{gateway.root}/api/v1"
    headers = {"authorization": f"Bearer {secret}", "host": "api.hosted.example"}
    deadline = timezone.now() + timedelta(seconds=5)
    while ask(gateway, url=url, headers=headers).status_code != 200:  # the list of brands is a second old at most
        assert timezone.now() < deadline
    assert code_of(ask(gateway, url=f"{gateway.root}/v1", headers=headers))[0] == 404
    for raw in (
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a b\r\ncontent-length: 0\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", gateway.port)) as link:
            link.sendall(raw)
            assert link.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_unknown_paths_are_404_and_reach_no_engine(gateway: Gateway) -> None:
    before = len(gateway.shop.inference.engine.log)
    for path in ("/audio/speech", "/chat", "/chat/completions/x", "/models/", "/%0d%0aX:y", "/files"):
        for method in ("GET", "POST", "DELETE"):
            response = gateway.client.request(method, path)
            assert response.status_code == 404, path
            assert response.json()["error"]["code"] == "unknown_url"
    assert len(gateway.shop.inference.engine.log) == before
    wrong = gateway.client.get("/chat/completions")
    assert code_of(wrong) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_bodies_are_limited_before_they_are_read(gateway: Gateway) -> None:
    client = gateway.client
    assert client.post("/chat/completions", content=b"x" * (9 * 2**20)).status_code == 413
    assert client.post("/chat/completions", content=b"{}", headers={"content-encoding": "gzip"}).status_code == 415
    assert code_of(client.post("/chat/completions", content=b"[" * 10_000)) == (400, "invalid_json")
    assert code_of(client.post("/chat/completions", content=b'{"model": NaN}')) == (400, "invalid_json")
    assert client.post("/chat/completions", content=b"{}", headers={"x": "y" * 40_000}).status_code == 431
    missing = client.post("/chat/completions", json={"messages": HELLO})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
    unknown = client.post("/chat/completions", json={"model": "nobody", "messages": HELLO})
    assert code_of(unknown) == (404, "model_not_found")
    assert gateway.shop.holds() == 0


def test_everything_an_operator_does_holds_on_the_next_request(gateway: Gateway) -> None:
    shop = gateway.shop
    brand = shop.new_brand("shifting", "sh-")
    model = shop.new_model("aion-v3", "demo-chat", brand=brand)
    organization = shop.new_organization("shifting", brand=brand, credit="1")
    issued = shop.new_key(organization)
    url, headers = f"{gateway.root}/shifting/v1", {"authorization": f"Bearer {issued.secret}"}

    def answer() -> tuple[int, str]:
        response = ask(gateway, url=url, headers=headers)
        return response.status_code, "" if response.status_code == 200 else response.json()["error"]["code"]

    assert answer() == (200, "")
    organizations.suspend(organization=organization, reason="unpaid", actor=ACTOR)
    assert answer() == (403, "organization_suspended")
    organizations.resume(organization=organization, actor=ACTOR)
    assert answer() == (200, "")
    brands.pause(brand=brand, actor=ACTOR)
    assert answer() == (503, "service_paused")
    brands.resume(brand=brand, actor=ACTOR)
    assert answer() == (200, "")
    engines.change_model(model=model, actor=ACTOR, state="maintenance", maintenance_message="Back at noon.")
    assert answer() == (503, "model_maintenance")
    engines.change_model(model=model, actor=ACTOR, state="retired")
    assert answer() == (404, "model_not_found")
    engines.change_model(model=model, actor=ACTOR, state="live")
    assert answer() == (200, "")
    issuing.change(key=issued.key, actor=ACTOR, model_slugs=["other"])
    assert answer() == (403, "model_not_allowed")
    issuing.change(key=issued.key, actor=ACTOR, model_slugs=None, scopes=["models"])
    assert answer() == (403, "insufficient_scope")
    issuing.change(key=issued.key, actor=ACTOR, scopes=["chat"], cidrs=["10.0.0.0/8"])
    assert answer() == (403, "ip_not_allowed")
    issuing.change(key=issued.key, actor=ACTOR, cidrs=["127.0.0.0/8"])
    assert answer() == (200, "")
    tier = shop.new_tier("gated", brand=brand, model_slugs=[])
    ladder.assign(organization=organization, tier=tier, reason="tests", actor=ACTOR)
    assert answer() == (403, "tier_required")
    tier.model_slugs = None
    ladder.save_tier(tier, actor=ACTOR)
    assert answer() == (200, "")
    dearly = {"input": "1000", "output": "100000"}
    prices.set_price(model=model, actor=ACTOR, per_million=dearly, confirmed_reason="to be refused")
    dear = ask(gateway, url=url, headers=headers)
    assert code_of(dear) == (429, "insufficient_quota")
    prices.set_price(model=model, actor=ACTOR, is_free=True)
    assert answer() == (200, "")
    issuing.change(key=issued.key, actor=ACTOR, expires_at=timezone.now() + timedelta(hours=1))
    assert answer() == (200, "")
    issuing.revoke(key=issued.key, actor=ACTOR)
    assert answer() == (401, "invalid_api_key")


def test_draining_an_engine_stops_new_calls_at_once(gateway: Gateway) -> None:
    shop = gateway.shop
    engine = shop.new_engine("draining", shop.inference.base_url)
    shop.new_model("draining", "demo-chat", engine=engine)
    assert gateway.chat(model="draining").status_code == 200
    engines.change(engine=engine, actor=ACTOR, state="draining")
    assert code_of(gateway.chat(model="draining")) == (503, "engine_unavailable")
    engines.change(engine=engine, actor=ACTOR, state="live")
    assert gateway.chat(model="draining").status_code == 200


def test_a_management_key_calls_nothing(gateway: Gateway) -> None:
    """Refused by name on every endpoint, not only on those that are metered."""
    secret = issuing.issue_for_management(
        organization=gateway.shop.organization, name="terraform", role=Role.OWNER, actor=ACTOR
    ).secret
    headers = {"authorization": f"Bearer {secret}"}
    assert code_of(ask(gateway, headers=headers)) == (403, "management_key")
    assert "cannot call models" in ask(gateway, headers=headers).json()["error"]["message"]
    for path in ("/models", "/models/aion-v3", "/usage"):
        assert code_of(httpx.get(gateway.base_url + path, headers=headers)) == (403, "management_key")


def test_an_expired_key_is_refused(gateway: Gateway) -> None:
    customer = gateway.shop.customer()
    soon = timezone.now() + timedelta(milliseconds=800)
    issuing.change(key=customer.issued.key, actor=ACTOR, expires_at=soon)
    while timezone.now() < soon:
        assert gateway.chat(headers=customer.headers).status_code in (200, 401)
    assert code_of(gateway.chat(headers=customer.headers)) == (401, "invalid_api_key")


def test_limits_of_the_key_itself_hold(gateway: Gateway) -> None:
    shop = gateway.shop
    limits = [{"unit": "requests", "window": "day", "amount": 1}]
    key = shop.new_key(shop.organization, limits=limits).secret
    headers = {"authorization": f"Bearer {key}"}
    assert gateway.chat(headers=headers).status_code == 200
    assert code_of(gateway.chat(headers=headers)) == (429, "insufficient_quota")
    assert gateway.chat().status_code == 200


def test_concurrency_is_a_limit_of_its_own(gateway: Gateway) -> None:
    headers = gateway.shop.customer({"unit": "concurrent", "window": "minute", "amount": 1}).headers
    with gateway.client.stream(
        "POST",
        "/chat/completions",
        headers=headers,
        json={
            "model": "aion-v3",
            "stream": True,
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "demo:fill demo:rate=20"}],
        },
    ) as running:
        assert running.status_code == 200
        second = gateway.chat(headers=headers)
        assert code_of(second) == (429, "concurrency_limit_exceeded")
        assert second.headers["x-should-retry"] == "true"
    deadline = time.monotonic() + 5
    while gateway.chat(headers=headers).status_code != 200:  # the one that left gives its slot back
        assert time.monotonic() < deadline


def test_what_is_new_in_one_point_is_judged_in_all(gateway: Gateway) -> None:
    """A key that is widened to a model and narrowed in its scopes: the reload for the one must see the other."""
    customer = gateway.shop.customer()
    issuing.change(key=customer.issued.key, actor=ACTOR, model_slugs=["other"])
    assert code_of(gateway.chat(headers=customer.headers)) == (403, "model_not_allowed")
    issuing.change(key=customer.issued.key, actor=ACTOR, model_slugs=None, scopes=["models"])
    assert code_of(gateway.chat(headers=customer.headers)) == (403, "insufficient_scope")


def test_records_that_cannot_be_read_are_503_until_they_can(gateway: Gateway) -> None:
    """As while a newer release has published already, and this worker still serves."""
    shop = gateway.shop
    brand = shop.new_brand("newer", "ne-")
    shop.new_model("aion-v3", "demo-chat", brand=brand)
    secret = shop.new_key(shop.new_organization("newer", brand=brand, credit="1")).secret
    options: dict[str, Any] = {"url": f"{gateway.root}/newer/v1", "headers": {"authorization": f"Bearer {secret}"}}
    assert ask(gateway, **options).status_code == 200
    name = records.brand_name(brand.id)
    readable = shop.store.hget(name, "data")
    for unreadable in (b"{", b'{"brand": 7}', b'{"at_ms": "\xff"}'):
        shop.store.hset(name, "data", unreadable)
        gateway.worker.catalogue._snapshots.pop(brand.id, None)
        refused = ask(gateway, **options)
        assert code_of(refused) == (503, "service_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    shop.store.hset(name, "data", readable)
    assert ask(gateway, **options).status_code == 200
    assert shop.holds() == 0
