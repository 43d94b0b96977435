"""Five hundred calls at once against a balance for exactly ten; and a key that is revoked in the middle of a burst."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db import connection

from billing import ledger
from billing.journal import Journal
from billing.models import UsageEvent
from billing.reconcile import reconcile
from keys import issuing
from tests.billing.draining import drain
from tests.conftest import empty_tables
from tests.inference import demo_engine
from tests.proxy.shop import Shop
from tests.stories.workers import Answer, Caller, proxy_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.django_db(transaction=True)]

PARALLEL = 500
AFFORDABLE = 10
REPEATS = 20
TOKENS = 20
WORKERS = 2
PATH = "/dialogix/v1/chat/completions"


# The module's workers live on what stands in the stores: nothing is emptied between its tests.


@pytest.fixture
def empty_redis() -> None:
    return


@pytest.fixture
def _django_db_helper() -> None:
    return


@pytest.fixture(scope="module")
def shop(django_db_setup: None, django_db_blocker: Any, redis_connection: redis.Redis) -> Iterator[Shop]:
    with django_db_blocker.unblock(), demo_engine() as inference:
        redis_connection.flushall()
        try:
            shop = Shop(inference, redis_connection)
            # Nothing for the prompt; one nano a token of output: the hold is exactly what the engine will use.
            shop.new_model("metered", "demo-chat", per_million={"input": "0", "output": "0.001"})
            yield shop
        finally:
            empty_tables()


@pytest.fixture(scope="module")
def port(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with proxy_workers(WORKERS, tmp_path_factory.mktemp("workers")) as found:
        yield found


def body(content: str) -> dict[str, object]:
    return {"model": "metered", "messages": [{"role": "user", "content": content}], "max_tokens": TOKENS}


async def all_at_once(callers: list[Caller]) -> list[Answer]:
    await asyncio.gather(*[caller.connect() for caller in callers])
    try:
        return await asyncio.gather(*[caller.call() for caller in callers])
    finally:
        await asyncio.gather(*[caller.close() for caller in callers])


def test_five_hundred_at_once_against_a_balance_for_ten(shop: Shop, port: int, redis_connection: redis.Redis) -> None:
    journal = Journal(redis_connection, name="story", notify=lambda line: None)
    overspent = 0
    said: Counter[str] = Counter()
    for _ in range(REPEATS):
        customer = shop.customer(credit="")
        shop.grant(customer.organization, AFFORDABLE * TOKENS)
        callers = [Caller(port, PATH, customer.issued.secret, body("demo:fill")) for _ in range(PARALLEL)]
        answers = asyncio.run(all_at_once(callers))
        refused = [answer for answer in answers if answer.status != 200]
        said.update(answer.code for answer in refused)
        assert len(answers) - len(refused) == AFFORDABLE
        assert {answer.status for answer in refused} == {429}
        drain(journal)
        events = list(UsageEvent.objects.filter(organization_id=customer.organization.id))
        assert len(events) == AFFORDABLE
        assert all(event.output_tokens == TOKENS for event in events)
        overspent += sum(event.cost_nanos for event in events) - AFFORDABLE * TOKENS
        assert ledger.balance_nanos(customer.organization) == 0
    assert set(said) <= {"quota_in_flight", "insufficient_quota"}
    assert overspent == 0
    assert shop.holds() == 0
    print(f"{REPEATS} times {PARALLEL} calls on {WORKERS} workers: overspent {overspent} nanos, refused {dict(said)}")


def test_nothing_that_starts_after_a_revoke_returned_is_served(shop: Shop, port: int) -> None:
    customer = shop.customer()
    revoked_at: list[float] = []
    served: list[Answer] = []

    def revoke() -> None:
        time.sleep(1.0)
        issuing.revoke(key=customer.issued.key, actor="story")
        revoked_at.append(time.time())
        connection.close()

    async def call_until_refused(caller: Caller) -> Answer:
        await caller.connect()
        try:
            while True:
                answer = await caller.call()
                if answer.status != 200:
                    return answer
                served.append(answer)
        finally:
            await caller.close()

    async def burst() -> list[Answer]:
        callers = [Caller(port, PATH, customer.issued.secret, body("demo:tokens=2")) for _ in range(32)]
        return await asyncio.gather(*[call_until_refused(caller) for caller in callers])

    thread = threading.Thread(target=revoke)
    thread.start()
    refused = asyncio.run(burst())
    thread.join()
    assert len(served) > 100
    assert {(answer.status, answer.code) for answer in refused} == {(401, "invalid_api_key")}
    last_served_start = max(answer.began for answer in served)
    assert last_served_start <= revoked_at[0]
    print(f"revoke returned, then last served start: {(last_served_start - revoked_at[0]) * 1000:.2f} ms")


def test_the_books_agree_after_all_that(shop: Shop, redis_connection: redis.Redis) -> None:
    drain(Journal(redis_connection, name="story", notify=lambda line: None))
    assert list(reconcile(redis_connection)) == []
