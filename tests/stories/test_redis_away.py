"""Redis stops, hangs, and comes back with its data or without: meanwhile every metered call of every brand is refused
in time, and afterwards each limit stands where it stood."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from django.db.models import F, Sum

from billing import prices, script, windows
from billing.models import UsageDay
from billing.reconcile import reconcile
from keys.caller import SHARDS, shard_of
from portal.stores.children import wait_until
from tests.inference import Inference, demo_engine
from tests.proxy.shop import ACTOR, Customer, Shop
from tests.settings import TEST_REDIS
from tests.stories.workers import journal, proxy_workers
from tests.wire.mall import SLUGS, Mall

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.django_db(transaction=True)]
WORKERS = 2
REFUSED_SECONDS_MAX = 4.0
"""A connection that is not made, or an answer that does not come, is waited for this long at the most."""
BACK_SECONDS_MAX = 60.0
MESSAGES = [{"role": "user", "content": "\n"}]


class Question(NamedTuple):
    """One metered call: of which brand, to which of its addresses, with what body."""

    brand: str
    url: str
    key: str
    body: dict[str, Any]

    def ask(self, client: httpx.Client) -> httpx.Response:
        return client.post(self.url, json=self.body, headers={"authorization": f"Bearer {self.key}"})


def client_of(port: int, path: str = "") -> httpx.Client:
    """For as many at once as are wanted."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}{path}", timeout=30, limits=httpx.Limits())


def questions(mall: Mall) -> list[Question]:
    """Every endpoint of every brand, with keys that workers know from before and with others."""
    found = []
    for slug in SLUGS:
        stall = mall.stalls[slug]
        for key in ("api_key", "other"):
            chat = {"model": stall.model, "messages": MESSAGES, "max_tokens": 16}
            for path, body in (
                ("/chat/completions", chat),
                ("/chat/completions", chat | {"stream": True}),
                ("/completions", {"model": stall.model, "prompt": "a", "max_tokens": 16}),
                ("/responses", {"model": stall.model, "input": "a", "max_output_tokens": 16}),
            ):
                found.append(Question(slug, stall.path + path, stall.keys[key], body))
    return found


def all_at_once(client: httpx.Client, asked: list[Question]) -> list[tuple[httpx.Response, float]]:
    def one(question: Question) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        return question.ask(client), time.monotonic() - began

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(one, asked))


@contextmanager
def stopped() -> Iterator[None]:
    TEST_REDIS.stop()
    try:
        yield
    finally:
        TEST_REDIS.start()


@contextmanager
def hanging() -> Iterator[None]:
    """Connections are taken, and nothing is ever answered."""
    assert TEST_REDIS.child is not None
    TEST_REDIS.child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        TEST_REDIS.child.send_signal(signal.SIGCONT)


@pytest.fixture
def inference() -> Iterator[Inference]:
    with demo_engine() as engine:
        yield engine


def at_rest(store: redis.Redis) -> None:
    """No holds, nothing on the journal's way, and no difference anywhere."""
    names = [script.name(shard, script.HOLDS) for shard in range(SHARDS)]
    streams = [script.name(shard, script.JOURNAL) for shard in range(SHARDS)]
    assert wait_until(
        lambda: not any(store.hlen(name) for name in names) and not any(store.xlen(name) for name in streams),
        within_seconds=30,
        every_seconds=0.1,
    )
    assert list(reconcile(store)) == []


def calls_made(inference: Inference) -> int:
    """By the engine's log, which it writes after a call's last byte has left."""
    assert wait_until(lambda: not inference.engine.running, within_seconds=10)
    return len(inference.engine.log)


def test_every_metered_call_is_refused_in_time_and_none_is_served(
    redis_connection: redis.Redis, inference: Inference, tmp_path: Path
) -> None:
    mall = Mall(inference, redis_connection)
    with journal(tmp_path), proxy_workers(WORKERS, tmp_path) as port, client_of(port) as client:
        asked = questions(mall)
        known = [question for question in asked if question.key == mall.stalls[question.brand].keys["api_key"]]
        served = {question.url for question in known if question.ask(client).status_code == 200}
        assert {url.split("/")[1] for url in served} == set(SLUGS)
        asked = [question for question in asked if question.url in served]
        for away in (stopped, hanging):
            made = calls_made(inference)
            with away():
                answers = all_at_once(client, asked) + all_at_once(client, asked[::7])
            assert calls_made(inference) == made, "served though nobody counted it"
            slowest = refused_in_time(answers)
            began = time.monotonic()
            while {answer.status_code for answer, _ in all_at_once(client, asked)} != {200}:
                assert time.monotonic() - began < BACK_SECONDS_MAX
            back = time.monotonic() - began
            print(f"Redis {away.__name__}: {len(answers)} calls refused, in {slowest:.2f} s; served {back:.2f} s after")
            at_rest(redis_connection)


def refused_in_time(answers: list[tuple[httpx.Response, float]]) -> float:
    """How long the slowest refusal took."""
    for answer, _ in answers:
        assert answer.status_code == 503, answer.text
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-should-retry"] == "true"
        assert answer.json()["error"]
    slowest = max(seconds for _, seconds in answers)
    assert slowest < REFUSED_SECONDS_MAX
    return slowest


# where each limit stands ----------------------------------------------------------------------------------------------

ALLOWED, STEP = 10, 2
TOKENS = 7 + 16
"""Of one call: its message and what the engine puts around it, and the answer."""
CREDITS = 1 + 2
NANOS = 7 + 16
UNITS = {"requests": 1, "tokens": TOKENS, "credits": CREDITS, "nanos": NANOS}
FIELDS = {"requests": "req", "tokens": "tok", "credits": "cred", "nanos": "nano"}
LIMITS = (
    ("requests", "day", "organization"),
    ("requests", "month", "key"),
    ("requests", "lifetime", "organization"),
    ("tokens", "day", "model"),
    ("tokens", "month", "organization"),
    ("tokens", "lifetime", "key"),
    ("credits", "day", "organization"),
    ("credits", "month", "model"),
    ("nanos", "day", "key"),
    ("nanos", "month", "organization"),
    ("nanos", "lifetime", "organization"),
)


class Buyer(NamedTuple):
    """A customer of one limit, of exactly ALLOWED calls."""

    unit: str
    window: str
    scope: str
    customer: Customer

    def counted(self, store: Any, model_id: int) -> int | None:
        """What Redis counts where the limit looks; None where nobody has asked since it was lost."""
        organization = self.customer.organization.pk
        if not self.window:
            granted = ALLOWED * NANOS
            return granted - int(store.hget(script.name(shard_of(organization), f"a:{organization}"), "bal"))
        place = {"organization": "o", "key": f"k{self.customer.issued.key.pk}", "model": f"m{model_id}"}[self.scope]
        window = windows.window_at(int(time.time() * 1000), self.window, "UTC").id
        name = script.name(shard_of(organization), f"w:{organization}:{window}")
        found = store.hget(name, f"{place}.{FIELDS[self.unit]}.p")
        return None if found is None else int(found)

    def booked(self) -> int:
        rows = UsageDay.objects.filter(organization_id=self.customer.organization.pk)
        columns = {
            "requests": F("requests"),
            "tokens": F("uncached_input_tokens") + F("cache_read_tokens") + F("output_tokens"),
            "credits": F("credits"),
            "nanos": F("cost_nanos"),
        }
        return int(rows.aggregate(sum=Sum(columns[self.unit], default=0))["sum"])


class Shelf:
    """One model at one nano and one token's worth each, and a customer for every limit."""

    def __init__(self, shop: Shop, client: httpx.Client) -> None:
        self.shop, self.client = shop, client
        shop.inference.engine.control.update({"rules": [{"do": "fill"}]})
        self.model = shop.new_model("one", "demo-chat", per_million=None, tokens_per_message=3, tokens_per_call=3)
        per_million = {"input": "0.001", "output": "0.001"}
        prices.set_price(
            model=self.model, actor=ACTOR, per_million=per_million, credits_per_request=1, credits_per_1000_tokens=80
        )
        self.buyers = [self._buyer(*limit) for limit in (*LIMITS, ("nanos", "", ""))]

    def _buyer(self, unit: str, window: str, scope: str) -> Buyer:
        amount = ALLOWED * UNITS[unit]
        limits = [{"unit": unit, "window": window, "scope": scope, "amount": amount}] if window else []
        customer = self.shop.customer(*limits, credit="")
        self.shop.grant(customer.organization, 10**9 if window else amount)
        return Buyer(unit, window, scope, customer)

    def chat(self, buyer: Buyer) -> httpx.Response:
        body = {"model": "one", "messages": MESSAGES, "max_tokens": 16}
        return self.client.post("/chat/completions", json=body, headers=buyer.customer.headers)

    def use(self, times: int) -> None:
        for buyer in self.buyers:
            for _ in range(times):
                answer = self.chat(buyer)
                assert answer.status_code == 200, (buyer, answer.text)

    def is_open(self) -> bool:
        """Asks as a customer without limits, whose calls change nothing for the others; often enough, each time by a
        connection of its own, that every worker is asked."""
        return all(self._is_open() for _ in range(4 * WORKERS))

    def _is_open(self) -> bool:
        headers = {"authorization": f"Bearer {self.shop.secret}"}
        body = {"model": "one", "messages": MESSAGES, "max_tokens": 16}
        url = self.client.base_url.join("chat/completions")
        return httpx.post(url, json=body, headers=headers, timeout=self.client.timeout).status_code == 200

    def stands_at(self, calls: int) -> None:
        """Redis, the books, and what /usage says. Only a model's own counter may wait for the next call of that model
        to be asked for: /usage looks at all others."""
        at_rest(self.shop.store)
        for buyer in self.buyers:
            report = self.client.get("/usage", headers=buyer.customer.headers)
            assert report.json()["tokens_used"] == calls * TOKENS, (buyer, report.text)
            expected = calls * UNITS[buyer.unit]
            counted = buyer.counted(self.shop.store, self.model.pk)
            assert counted == expected or (counted is None and buyer.scope == "model"), buyer
            assert buyer.booked() == expected, buyer


def lose_nothing(shelf: Shelf) -> None:
    TEST_REDIS.stop()
    assert not shelf.is_open()
    TEST_REDIS.start()


def lose_the_data(shelf: Shelf) -> None:
    TEST_REDIS.stop()
    shutil.rmtree(TEST_REDIS.data)
    assert not shelf.is_open()
    TEST_REDIS.start()


def flush(shelf: Shelf) -> None:
    shelf.shop.store.flushall()


def hang(shelf: Shelf) -> None:
    with hanging():
        assert not shelf.is_open()


def test_every_limit_stands_where_it_stood_when_redis_is_back(
    redis_connection: redis.Redis, inference: Inference, tmp_path: Path
) -> None:
    with journal(tmp_path), proxy_workers(WORKERS, tmp_path) as port, client_of(port, "/dialogix/v1") as client:
        shelf = Shelf(Shop(inference, redis_connection), client)
        shelf.use(STEP)
        used = STEP
        for lose in (lose_nothing, lose_the_data, flush, hang):
            lose(shelf)
            began = time.monotonic()
            assert wait_until(shelf.is_open, within_seconds=BACK_SECONDS_MAX)
            print(f"{lose.__name__}: open again after {time.monotonic() - began:.2f} s")
            shelf.stands_at(used)
            step = STEP if lose is not hang else ALLOWED - used
            shelf.use(step)
            used += step
            assert all(buyer.counted(redis_connection, shelf.model.pk) is not None for buyer in shelf.buyers)
        for buyer in shelf.buyers:
            refused = shelf.chat(buyer)
            assert refused.status_code == 429, buyer
            assert refused.json()["error"]["code"] == "insufficient_quota"
        shelf.stands_at(ALLOWED)
