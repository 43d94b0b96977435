"""What a newcomer does in the first minutes, on the real `manage.py up`: calls, books, refusals, the tour."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from portal.tour.claims import CLAIMS
from tests.portal.installations import expect, finish, installation
from tests.portal.test_up import free_port, manage, up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
INPUT_NANOS, CACHED_NANOS, OUTPUT_NANOS = 200, 50, 600
"""Per token, as the demo's price list says per million: 0.20, 0.05 and 0.60."""


KEYS = {
    "api_key": 200,
    "second": 200,
    "other": 200,
    "free": 200,
    "pro": 200,
    "revoked": 401,
    "exhausted": 429,
    "restricted": 403,
    "test": 200,
}
MODELS = {"loading": 503, "broken": 502, "misconfigured": 500, "reasoning": 200}
"""State → status, where a brand's page says nothing else."""


@pytest.fixture(scope="module")
def running(migrated_data):
    """(place, demo.json) of a running installation with two workers."""
    with installation(migrated_data) as place, up(place, free_port(), "--workers", "2") as process:
        expect(process, "Ready: ")
        yield place, json.loads((place.var / "demo.json").read_text())
        process.terminate()
        assert finish(process)[0] == 0


@pytest.fixture
def demo(running):
    """(place, the first brand's entry of demo.json)"""
    place, facts = running
    return place, facts["brands"]["dialogix"]


def status(base_url: str, key: str, model: str) -> int:
    place = urlsplit(base_url)
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=60)
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request("POST", f"{place.path}/chat/completions", json.dumps(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def client(brand, key: str | None = None) -> openai.OpenAI:
    base_url = brand["base_url"].replace("localhost", "127.0.0.1")
    return openai.OpenAI(base_url=base_url, api_key=key or brand["api_key"], max_retries=0)


def events(place, *arguments: str) -> dict[str, dict[str, Any]]:
    text = manage(place, "usage", "--format", "jsonl", *arguments).stdout
    return {event["call_id"]: event for event in map(json.loads, text.splitlines())}


def eventually(place, call_ids) -> dict[str, dict[str, Any]]:
    for _ in range(20):
        found = events(place, "--organization", "demo")
        if found.keys() >= set(call_ids):
            return found
    raise AssertionError(f"not in the books: {set(call_ids) - found.keys()}")


def cost_nanos(event) -> int:
    tokens = event["uncached_input_tokens"], event["cache_read_tokens"] or 0, event["output_tokens"]
    return sum(count * price for count, price in zip(tokens, (INPUT_NANOS, CACHED_NANOS, OUTPUT_NANOS), strict=True))


def test_a_whole_and_a_streamed_call_stand_in_the_books_as_the_client_saw_them(demo):
    place, brand = demo
    asked = {"model": brand["model"], "messages": [{"role": "user", "content": "Hello AION!"}], "max_tokens": 40}
    whole = client(brand).chat.completions.create(**asked)
    assert whole.choices[0].message.content
    chunks = list(client(brand).chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    seen = {answer.id.removeprefix("chatcmpl-"): answer.usage for answer in (whole, chunks[-1])}
    assert len(seen) == 2
    booked = eventually(place, seen)
    for call_id, usage in seen.items():
        event = booked[call_id]
        prompt = event["uncached_input_tokens"] + (event["cache_read_tokens"] or 0)
        assert (prompt, event["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
        assert event["cost_nanos"] == cost_nanos(event) > 0
        assert event["key_hint"].endswith(brand["api_key"][-4:])
        assert (event["usage_source"], event["end_reason"]) == ("final", whole.choices[0].finish_reason)
    books = manage(place, "reconcile")
    assert books.returncode == 0, books.stdout


@pytest.mark.parametrize(
    ("key", "error", "code"),
    [
        ("revoked", openai.AuthenticationError, "invalid_api_key"),
        ("exhausted", openai.RateLimitError, "insufficient_quota"),
        ("restricted", openai.PermissionDeniedError, "model_not_allowed"),
    ],
)
def test_every_key_of_the_demo_is_in_its_state(demo, key, error, code):
    _, brand = demo
    with pytest.raises(error) as refused:
        client(brand, brand["keys"][key]).chat.completions.create(
            model=brand["model"], messages=[{"role": "user", "content": "Hello"}]
        )
    assert refused.value.code == code
    assert refused.value.request_id


@pytest.mark.parametrize("slug", ["dialogix", "aionlabs", "axione", "aimichat", "aione"])
def test_every_key_and_model_of_every_brand_is_in_its_state(running, slug):
    brand = running[1]["brands"][slug]
    keys = {**brand["keys"], "api_key": brand["api_key"]}
    found = {name: status(brand["base_url"], key, brand["model"]) for name, key in keys.items()}
    assert found == KEYS
    expected = MODELS | ({"misconfigured": 400} if slug == "aionlabs" else {})
    models = {state: brand["models"][state] for state in expected}
    assert {state: status(brand["base_url"], brand["api_key"], name) for state, name in models.items()} == expected


def test_a_key_of_one_brand_is_none_on_anothers_surface(running):
    brands = running[1]["brands"]
    for slug, brand in brands.items():
        for other, stranger in brands.items():
            if other != slug:
                assert status(brand["base_url"], stranger["api_key"], brand["model"]) == 401


@pytest.mark.parametrize("key", ["second", "other", "free", "pro"])
def test_the_other_keys_call(demo, key):
    _, brand = demo
    answer = client(brand, brand["keys"][key]).chat.completions.create(
        model=brand["model"], messages=[{"role": "user", "content": "Hello"}], max_tokens=16
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("loading", 503, "engine_not_ready"),
        ("broken", 502, "engine_error"),
        ("misconfigured", 500, "engine_misconfigured"),
    ],
)
def test_every_model_of_the_demo_is_in_its_state(demo, model, status, code):
    _, brand = demo
    with pytest.raises(openai.InternalServerError) as failed:
        client(brand).chat.completions.create(
            model=brand["models"][model], messages=[{"role": "user", "content": "Hello"}]
        )
    assert (failed.value.status_code, failed.value.code) == (status, code)


def test_the_tour_proves_its_claims(demo):
    place, brand = demo
    tour = manage(place, "tour")
    assert tour.returncode == 0, tour.stdout + tour.stderr
    assert "DOES NOT HOLD" not in tour.stdout
    assert tour.stdout.count("   holds (") == len(CLAIMS)
    climbed = re.findall(
        r"^ +2000-01-(\d\d)  Tier (\d)  +→ Tier (\d)  +v1 .*60 %.*confirmed: yes", tour.stdout, re.MULTILINE
    )
    assert climbed == [("04", "1", "2"), ("07", "2", "3"), ("10", "3", "4")]
    assert "2 processes at once: 1 moved it; judged once more: 0" in tour.stdout
    assert "late: 0 of 160" in tour.stdout
    assert "lost 0, doubled 0" in tour.stdout
    assert "manage.py reconcile --deep: 0 differences" in tour.stdout
    counted_and_billed = re.findall(r"came whole:  engine counted (.+), we billed (.+)", tour.stdout)
    assert len(counted_and_billed) == 1
    assert counted_and_billed[0][0] == counted_and_billed[0][1]
    elsewhere = manage(place, "tour", "--brand", "nowhere")
    assert elsewhere.returncode == 1
    assert "The demo has no brand nowhere; it has dialogix" in elsewhere.stderr
    included = manage(place, "tour", "metering", "spending", "--brand", "axione")
    assert included.returncode == 0, included.stdout + included.stderr
    assert "included in the account's tier: nothing is charged" in included.stdout
    assert "no balance is spent. Try --brand aione or aionlabs or dialogix." in included.stdout
    assert "1 of 2 claims hold; 1 cannot be shown on axione." in included.stdout
    assert "All 2 claims hold." in manage(place, "tour", "metering", "spending", "--brand", "aione").stdout
    # killed twice, the demo is as it was
    again = manage(place, "tour", "killing")
    assert again.returncode == 0, again.stdout + again.stderr
    assert client(brand).chat.completions.create(
        model=brand["model"], messages=[{"role": "user", "content": "Hello"}], max_tokens=16
    )
    deep = manage(place, "reconcile", "--deep")
    assert deep.returncode == 0, deep.stdout
