"""What differs between surfaces, over the real proxy: open catalogues, keys for plain chat, limits on answers."""

from __future__ import annotations

import http.client
import socket
import time
from typing import Any, NamedTuple

import httpx
import pytest

from billing import ladder
from billing.models import Payer
from keys import brands
from keys.caller import KeyReason
from keys.directory import DirectoryUnavailable, KeyRefused
from keys.models import Brand, Organization
from tests.proxy.shop import HELLO, Gateway, read_events

pytestmark = pytest.mark.django_db(transaction=True)
SCHEMES = ["bearer", "x-api-key", "query"]


CLIENT = httpx.Client(timeout=30)


class Surface(NamedTuple):
    gateway: Gateway
    brand: Brand
    organization: Organization
    secret: str
    root: str

    def post(self, path: str = "/chat/completions", *, secret: str | None = None, **fields: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.secret if secret is None else secret}"}
        body = {"messages": HELLO, "max_tokens": 16} | fields
        return CLIENT.post(self.root + path, json=body, headers=headers)

    def ask(self, method: str, path: str) -> httpx.Response:
        return CLIENT.request(method, self.root + path, headers={"authorization": f"Bearer {self.secret}"})

    def get(self, path: str, *, secret: str | None = None) -> httpx.Response:
        key = self.secret if secret is None else secret
        return CLIENT.get(self.root + path, headers={"authorization": f"Bearer {key}"} if key else {})


def surface(gateway: Gateway, slug: str, *limits: dict[str, Any], **fields: Any) -> Surface:
    """A brand of its own with one model, and a customer whose tier has these limits."""
    shop = gateway.shop
    brand = shop.new_brand(slug, f"{slug}_", schemes=SCHEMES, default_model="one", **fields)
    shop.new_model("one", "demo-chat", brand=brand)
    shop.new_model("loading", "demo-loading", brand=brand)
    tier = shop.new_tier("basic", *limits, brand=brand, rank=1, payer=Payer.INCLUDED, is_default=True)
    organization = shop.new_organization("acme", brand=brand, tier=tier)
    return Surface(gateway, brand, organization, shop.new_key(organization).secret, f"{gateway.root}/{slug}/v1")


@pytest.fixture(scope="module")
def chatty(gateway: Gateway) -> Surface:
    """As AimiChat: plain chat, requests a day and a month."""
    limits = (
        {"unit": "requests", "window": "day", "amount": 100},
        {"unit": "requests", "window": "month", "amount": 1_000},
    )
    return surface(gateway, "chatty", *limits, dialect="aimichat", is_plain_chat=True)


def left(response: httpx.Response) -> int:
    assert response.headers["x-ratelimit-limit"] == "100"
    assert response.headers["x-ratelimit-reset"].endswith("T00:00:00Z")
    return int(response.headers["x-ratelimit-remaining"])


def test_every_answer_but_401_says_what_is_left_this_call_included(chatty: Surface) -> None:
    before = left(chatty.post())
    assert left(chatty.post()) == before - 1
    streamed = chatty.post(stream=True)
    assert left(streamed) == before - 2
    for refused, status in (
        (chatty.post(model="nobody"), 404),
        (chatty.post(messages=[]), 400),
        (chatty.post(tools=[{"type": "function", "function": {"name": "f"}}]), 403),
        (chatty.get("/chat/completions"), 405),
        (chatty.get("/nowhere"), 403),
        (chatty.post("/files"), 403),
        (chatty.get("/sessions/x"), 403),
        (chatty.post("/sessions/x"), 403),
        (chatty.ask("DELETE", "/sessions/x"), 403),
        (chatty.post(model="loading"), 503),
    ):
        assert refused.status_code == status, refused.text
        assert left(refused) == before - 2, refused.text
        assert isinstance(refused.json()["error"], str)
    bare = f"{chatty.gateway.root}/v1/sessions/x"
    by_key = CLIENT.delete(bare, headers={"authorization": f"Bearer {chatty.secret}"})
    assert (by_key.status_code, left(by_key)) == (403, before - 2)
    for stranger in (chatty.post(secret="chatty_none"), chatty.get("/nowhere", secret="chatty_none")):
        assert stranger.status_code == 401
        assert "x-ratelimit-limit" not in stranger.headers
        assert stranger.json()["error"] == "Unauthorized"


TOO_MUCH = {
    413: b"content-length: 9000000000",
    415: b"content-length: 2\r\ncontent-encoding: gzip",
    431: b"content-length: 2\r\nx: " + b"y" * 40_000,
}


def without_body(gateway: Gateway, path: str, head: bytes, secret: str = "") -> httpx.Response:
    """The answer to a POST of which only the head is ever sent."""
    key = b"authorization: Bearer %b\r\n" % secret.encode() if secret else b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as link:
        link.sendall(b"POST %b HTTP/1.1\r\nhost: localhost\r\n%b%b\r\n\r\n" % (path.encode(), key, head))
        answer = http.client.HTTPResponse(link, method="POST")
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


@pytest.mark.parametrize("status", TOO_MUCH)
@pytest.mark.parametrize("root", ["/chatty/v1", "/v1"])
def test_what_is_too_much_at_first_sight_is_told_by_the_surface_and_says_what_is_left(
    chatty: Surface, root: str, status: int
) -> None:
    path, head = f"{root}/chat/completions", TOO_MUCH[status]
    before = left(chatty.post(messages=[]))
    refused = without_body(chatty.gateway, path, head, chatty.secret)
    assert (refused.status_code, left(refused)) == (status, before), refused.text
    assert isinstance(refused.json()["error"], str), "the flat envelope"
    for secret in ("", "chatty_none"):
        stranger = without_body(chatty.gateway, path, head, secret)
        assert (stranger.status_code, "x-ratelimit-limit" in stranger.headers) == (401, False)


def test_what_is_too_much_costs_no_look_at_a_key_where_nobody_needs_one(
    gateway: Gateway, chatty: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def find(secret: str, *_: Any, **__: Any) -> None:
        asked.append(secret)
        raise KeyRefused(KeyReason.INVALID_KEY)

    plain = surface(gateway, "plain", dialect="aionlabs")
    monkeypatch.setattr(gateway.worker.directory, "find", find)
    for status, head in TOO_MUCH.items():
        for secret in (plain.secret, "nobodys", ""):
            refused = without_body(gateway, "/plain/v1/chat/completions", head, secret)
            assert (refused.status_code, refused.json()["error"]["param"]) == (status, None)
    assert asked == []
    without_body(gateway, "/chatty/v1/chat/completions", TOO_MUCH[413], chatty.secret)
    assert asked == [chatty.secret]


def test_what_is_too_much_is_so_too_while_nobody_can_say_who_calls(
    chatty: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, **__: Any) -> None:
        raise DirectoryUnavailable("no store")

    monkeypatch.setattr(chatty.gateway.worker.directory, "find", silent)
    refused = without_body(chatty.gateway, "/chatty/v1/chat/completions", TOO_MUCH[413], chatty.secret)
    assert (refused.status_code, isinstance(refused.json()["error"], str)) == (413, True)


def test_the_last_delta_says_why_it_ended_and_each_has_a_content(chatty: Surface) -> None:
    *chunks, done = read_events(chatty.post(stream=True).content)
    assert done == b"[DONE]"
    assert all(isinstance(chunk["choices"][0]["delta"]["content"], str) for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("dialect", ["dialogix", "aionlabs", "axione", "aimichat"])
def test_trouble_in_the_middle_of_a_stream_is_told_in_the_surfaces_words(gateway: Gateway, dialect: str) -> None:
    broken = surface(gateway, f"broken-{dialect}", dialect=dialect)
    answer = broken.post(stream=True, messages=[{"role": "user", "content": "demo:die=4"}])
    assert answer.status_code == 200
    last = read_events(answer.content)[-1]
    assert last != b"[DONE]"
    if dialect == "aimichat":
        assert (last["error"], last["code"]) == ("Bad gateway", "engine_error")
        assert "stopped before" in last["message"]
    else:
        kind = "provider_error" if dialect == "aionlabs" else "server_error"
        assert (last["error"]["type"], last["error"]["code"]) == (kind, "engine_error")


def test_a_used_up_day_names_the_window_that_lasts(gateway: Gateway) -> None:
    limits = (
        {"unit": "requests", "window": "day", "amount": 2},
        {"unit": "requests", "window": "month", "amount": 3},
        {"unit": "concurrent", "window": "minute", "amount": 2},
    )
    few = surface(gateway, "few", *limits, dialect="aimichat")
    assert [few.post().status_code for _ in range(2)] == [200, 200]
    day = few.post()
    body = day.json()
    assert (day.status_code, body["message"]) == (429, "Daily request limit reached")
    assert (body["limit"], body["used"], body["resetAt"]) == (2, 2, day.headers["x-ratelimit-reset"])
    assert day.headers["x-should-retry"] == "false"
    ladder_tier = few.organization.brand.tiers.get(slug="basic")
    for limit in ladder_tier.limits.filter(window="month"):
        limit.amount = 2
        ladder.save_limit(limit, actor="tests")
    month = few.post()
    assert month.json()["message"] == "Monthly request limit reached"
    assert month.json()["resetAt"] == month.headers["x-ratelimit-reset"]
    assert month.headers["x-ratelimit-reset"] >= day.headers["x-ratelimit-reset"]


def test_other_surfaces_say_limits_on_answers_catalogue_and_usage(gateway: Gateway) -> None:
    limits = (
        {"unit": "requests", "window": "day", "amount": 3},
        {"unit": "concurrent", "window": "minute", "amount": 1},
    )
    axione = surface(gateway, "axes", *limits, dialect="axione")
    first = axione.post()
    assert first.headers["x-ratelimit-used-requests"] == "1"
    for response in (axione.get("/models"), axione.get("/usage")):
        assert response.headers["x-ratelimit-remaining-requests"] == "2"
    assert axione.post(model="nobody").headers.get("x-ratelimit-limit-requests") is None
    axione.post(), axione.post()
    refused = axione.post()
    assert refused.json()["error"]["code"] == "daily_requests_exceeded"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-used-requests"] == "3"
    assert refused.headers["x-should-retry"] == "false"


def test_a_whole_answer_tells_what_is_left_after_it(gateway: Gateway) -> None:
    counted = surface(gateway, "counted", {"unit": "tokens", "window": "day", "amount": 100_000}, dialect="openai")
    first = counted.post(max_tokens=5_000)
    left_now = 100_000 - first.json()["usage"]["total_tokens"]
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == left_now, "not what it held"
    second = counted.post(max_tokens=5_000)
    assert int(second.headers["x-ratelimit-remaining-tokens"]) == left_now - second.json()["usage"]["total_tokens"]
    streamed = counted.post(max_tokens=5_000, stream=True)
    assert int(streamed.headers["x-ratelimit-remaining-tokens"]) < left_now - 5_000, "nobody knows yet"


def test_any_limit_that_refuses_comes_with_headers(gateway: Gateway) -> None:
    limits = (
        {"unit": "requests", "window": "day", "amount": 100},
        {"unit": "concurrent", "window": "minute", "amount": 0},
    )
    crowded = surface(gateway, "crowded", *limits, dialect="openai")
    refused = crowded.post()
    assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
    assert refused.headers["x-ratelimit-remaining-requests"] == "100"
    poor = gateway.shop.customer({"unit": "requests", "window": "day", "amount": 7}, credit="")
    broke = gateway.chat(headers=poor.headers)
    assert (broke.status_code, broke.json()["error"]["code"]) == (429, "insufficient_quota")
    assert broke.headers["x-ratelimit-remaining-requests"] == "7"


def test_a_public_catalogue_needs_no_key_and_ignores_a_wrong_one(gateway: Gateway) -> None:
    shown = surface(gateway, "shown", dialect="aionlabs", is_catalogue_public=True)
    assert "x-ratelimit-limit-requests" not in shown.get("/models", secret="").headers
    for response in (shown.get("/models", secret=""), shown.get("/models", secret="shown_none"), shown.get("/models")):
        assert response.status_code == 200
        assert {model["id"] for model in response.json()["models"]} == {"one", "loading"}
    assert shown.get("/models/one", secret="").json()["id"] == "one"
    assert shown.get("/models/none", secret="").status_code == 400
    assert shown.get("/usage", secret="").status_code == 401
    gateway.shop.new_model("two", "demo-chat", brand=shown.brand)
    assert len(shown.get("/models", secret="").json()["models"]) == 3, "what is new is seen at once"
    answers = [shown.get("/models", secret="").status_code for _ in range(70)]
    assert answers[-1] == 429
    assert set(answers) == {200, 429}
    assert shown.post().status_code == 200, "callers with a key are not meant"
    brands.change(brand=shown.brand, actor="tests", is_catalogue_public=False)
    gateway.worker.strangers._buckets.clear()
    assert shown.get("/models", secret="").status_code == 401


def test_a_tier_that_is_too_low_is_told_where_to_upgrade(gateway: Gateway) -> None:
    shop = gateway.shop
    gated = surface(gateway, "gated", dialect="dialogix", lists_gated_models=True)
    shop.new_model("large", "demo-large", brand=gated.brand)
    low = gated.brand.tiers.get(slug="basic")
    low.model_slugs = ["one"]
    ladder.save_tier(low, actor="tests")
    shop.new_tier("pro", brand=gated.brand, rank=2)
    refused = gated.post(model="large")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (403, "tier_required")
    assert refused.headers["x-should-retry"] == "false"
    assert f"{gateway.root}/gated/balance/" in error["message"]
    assert "Pro tier" in error["message"]
    rows = {row["id"]: row for row in gated.get("/models").json()["data"]}
    assert (rows["one"]["tier_required"], rows["one"]["available"]) == ("Basic+", True)
    assert (rows["large"]["tier_required"], rows["large"]["available"]) == ("Pro+", False)


def test_the_default_brands_catalogue_is_open_below_the_bare_path_too(gateway: Gateway, settings: Any) -> None:
    settings.DEFAULT_BRAND = "dialogix"
    gateway.worker._known = None  # the index is made anew
    shop, url = gateway.shop, f"{gateway.root}/v1/models"
    assert CLIENT.get(url).status_code == 401
    brands.change(brand=shop.brand, actor="tests", is_catalogue_public=True)
    gateway.worker.strangers._buckets.clear()
    try:
        deadline = time.monotonic() + 5
        while CLIENT.get(url).status_code != 200:  # the list of brands is a second old at most
            assert time.monotonic() < deadline
            time.sleep(0.1)
        secret = shop.customer().issued.secret
        for keys in ({"x-api-key": "nobody's"}, {"authorization": "Bearer ak-none"}):
            assert CLIENT.get(url, headers=keys).status_code == 401, "below the bare path a key says whose it is"
        assert CLIENT.get(url, headers={"x-api-key": secret}).status_code == 200
    finally:
        brands.change(brand=shop.brand, actor="tests", is_catalogue_public=False)
        settings.DEFAULT_BRAND = ""
        gateway.worker._known = None


def test_the_pages_of_a_brand_with_a_host_are_on_that_host(gateway: Gateway) -> None:
    hosted = surface(gateway, "at-home", dialect="dialogix", hosts=["api.at-home.example"])
    low = hosted.brand.tiers.get(slug="basic")
    low.model_slugs = []
    ladder.save_tier(low, actor="tests")
    headers = {"host": "api.at-home.example", "authorization": f"Bearer {hosted.secret}"}
    body = {"model": "one", "messages": HELLO}
    deadline = time.monotonic() + 5
    while True:
        refused = CLIENT.post(f"{gateway.root}/v1/chat/completions", json=body, headers=headers)
        if refused.status_code == 403 or time.monotonic() > deadline:
            break
    assert "Upgrade your tier: http://api.at-home.example/balance/" in refused.json()["error"]["message"]


def test_a_lifetime_that_is_used_up_says_upgrade(gateway: Gateway) -> None:
    spent = surface(gateway, "spent", {"unit": "tokens", "window": "lifetime", "amount": 10}, dialect="dialogix")
    refused = spent.post()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert f"Upgrade your tier: {gateway.root}/spent/balance/" in error["message"]
    loading = spent.post(model="loading", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    assert loading.status_code in (429, 503)


def test_what_the_brand_documents_as_default_reaches_the_engine(gateway: Gateway) -> None:
    rules = {"max_tokens": {"default": 33}, "temperature": {"min": 0, "max": 1, "default": 0.7}}
    ruled = surface(gateway, "ruled", dialect="openai", parameters=rules)
    headers = {"authorization": f"Bearer {ruled.secret}"}
    body = {"messages": [{"role": "user", "content": "demo:fill"}]}
    answer = CLIENT.post(f"{ruled.root}/chat/completions", json=body, headers=headers)
    assert answer.json()["usage"]["completion_tokens"] == 33
    assert gateway.shop.inference.entry(answer.headers["x-request-id"])["max_tokens"] == 33
    refused = ruled.post(temperature=1.2)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
    assert "from 0 to 1" in refused.json()["error"]["message"]
