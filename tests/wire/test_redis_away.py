"""With Redis away every metered call of every brand is refused in time, in the brand's own envelope: nothing is served
uncounted, and nothing stays held."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest

from billing import script
from keys.caller import SHARDS
from proxy.dialects import dialect_named
from proxy.refusals import Reason, problem
from tests.stories.test_redis_away import hanging
from tests.wire.conftest import Served
from tests.wire.mall import SLUGS

pytestmark = pytest.mark.django_db(transaction=True)

IN_TIME_SECONDS = 4.0
SAY = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": SAY},
    "/responses": {"input": "Hello"},
    "/completions": {"prompt": "Hello"},
    "/embeddings": {"input": "Hello"},
}


class Asked(NamedTuple):
    slug: str
    path: str
    is_stream: bool
    seconds: float
    answer: httpx.Response


def ask(served: Served, slug: str, path: str, is_stream: bool) -> Asked:
    stall = served.stall(slug)
    body = {"model": stall.model} | BODIES[path] | ({"stream": True} if is_stream else {})
    headers = {"authorization": f"Bearer {stall.keys['api_key']}"}
    began = time.monotonic()
    answer = served.client.post(f"{served.base_url(slug)}{path}", json=body, headers=headers, timeout=20)
    return Asked(slug, path, is_stream, time.monotonic() - began, answer)


def test_every_metered_call_of_every_brand_is_503_in_its_own_envelope(served: Served) -> None:
    store = served.mall.store
    for slug in SLUGS:  # each key is known to the worker: it is the reserve that finds no store
        assert ask(served, slug, "/chat/completions", False).answer.status_code == 200
    calls = [(slug, path, stream) for slug in SLUGS for path in BODIES for stream in (False, path != "/embeddings")]
    with ThreadPoolExecutor(len(calls)) as pool, hanging():  # until the last of them is answered
        found = list(pool.map(lambda call: ask(served, *call), calls))
    for slug, path, is_stream, seconds, answer in found:
        brand = served.stall(slug).brand
        dialect = dialect_named(brand.dialect)
        said = dialect.error(dialect.worded(problem(Reason.STORE_UNAVAILABLE), None), None)
        assert (answer.status_code, answer.json()) == (503, said), (slug, path, is_stream, answer.text)
        assert answer.headers["content-type"].startswith("application/json")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-should-retry"] == "true"
        assert seconds < IN_TIME_SECONDS, (slug, path)
    deadline = time.monotonic() + 20
    for slug in SLUGS:
        while ask(served, slug, "/chat/completions", False).answer.status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    while any(store.hlen(script.name(shard, script.HOLDS)) for shard in range(SHARDS)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
