"""Prices that change under a burst on three workers, by hand and by the clock: each call is charged by the price that
held when it was reserved, and a running stream keeps its own."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import redis
from django.db import connection

from billing import prices
from billing.journal import Journal
from billing.models import Model, Rate, UsageEvent
from tests.billing.draining import drain
from tests.inference import demo_engine
from tests.proxy.shop import Shop
from tests.stories.test_tier_changes import workers_that_called
from tests.stories.workers import Caller, proxy_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.django_db(transaction=True)]

WORKERS = 3
CALLERS = 12
STREAMS = 6
CALLS_PER_CONNECTION = 20
CHANGES = 24
PATH = "/dialogix/v1/chat/completions"


class Change(NamedTuple):
    """From `began` on the price may hold, from `returned` on it must. By the clock both are the moment itself."""

    rate_id: int
    began: float
    returned: float


class Reserved(NamedTuple):
    """A call that was reserved between two moments."""

    call_id: str
    after: float
    before: float
    ended: float


def body(content: str, **more: object) -> dict[str, object]:
    return {"model": "metered", "messages": [{"role": "user", "content": content}], "max_tokens": 200, **more}


def announce(model: Model) -> list[Change]:
    """Prices that begin by themselves, one every quarter of a second, once the burst has begun."""
    begin, changes = datetime.now(UTC) + timedelta(seconds=4), []
    for number in range(CHANGES // 2):
        moment = begin + number * timedelta(milliseconds=250)
        rate = prices.set_price(
            model=model,
            actor="story",
            effective_from=moment,
            per_million={"input": "0.20", "output": f"0.{30 + number}"},
        )
        changes.append(Change(rate.pk, moment.timestamp(), moment.timestamp()))
    assert datetime.now(UTC) < begin - timedelta(seconds=1), "they were announced in time"
    return changes


def change_again_and_again(model: Model, changes: list[Change]) -> None:
    time.sleep(max(0.0, changes[-1].began + 0.25 - time.time()))
    for number in range(CHANGES // 2):
        began = time.time()
        rate = prices.set_price(model=model, actor="story", per_million={"input": "0.20", "output": f"0.{50 + number}"})
        changes.append(Change(rate.pk, began, time.time()))
        time.sleep(0.1)
    connection.close()


async def call_until(port: int, secret: str, is_over: threading.Event) -> list[Reserved]:
    async def whole() -> list[Reserved]:
        done: list[Reserved] = []
        while not is_over.is_set():  # a new connection now and then, so that every worker gets its part
            caller = await Caller(port, PATH, secret, body("demo:tokens=2")).connect()
            try:
                for _ in range(CALLS_PER_CONNECTION):
                    answer = await caller.call()
                    assert answer.status == 200
                    done.append(Reserved(answer.call_id, answer.began, answer.ended, answer.ended))
            finally:
                await caller.close()
        return done

    async def streamed(client: httpx.AsyncClient) -> list[Reserved]:
        done = []
        while not is_over.is_set():
            began = time.time()
            asked = body("demo:tokens=60 demo:rate=60", stream=True)
            async with client.stream("POST", PATH, json=asked) as answer:
                assert answer.status_code == 200
                heard = time.time()
                async for _ in answer.aiter_raw():
                    pass
            done.append(Reserved(answer.headers["x-request-id"], began, heard, time.time()))
        return done

    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
        both = [*(whole() for _ in range(CALLERS)), *(streamed(client) for _ in range(STREAMS))]
        return [call for calls in await asyncio.gather(*both) for call in calls]


def allowed(call: Reserved, changes: list[Change]) -> set[int]:
    settled = max(number for number, change in enumerate(changes) if change.returned <= call.after)
    return {change.rate_id for change in changes[settled:] if change.began <= call.before}


def charged_rightly(event: UsageEvent, rate: Rate) -> bool:
    assert rate.input_picos is not None
    assert rate.output_picos is not None
    picos = event.uncached_input_tokens * rate.input_picos + event.output_tokens * rate.output_picos
    return event.cost_nanos == -(-picos // 1000)


def test_calls_are_charged_by_the_price_that_held_when_they_were_reserved(
    redis_connection: redis.Redis, tmp_path: Path
) -> None:
    is_over = threading.Event()
    with demo_engine() as inference, proxy_workers(WORKERS, tmp_path) as port:
        shop = Shop(inference, redis_connection)
        model = shop.new_model("metered", "demo-chat", per_million={"input": "0.20", "output": "0.29"})
        customer = shop.customer(credit="100")
        changes = [Change(Rate.objects.get(model=model).pk, 0.0, 0.0), *announce(model)]

        def drive() -> None:
            try:
                change_again_and_again(model, changes)
                time.sleep(0.1)
            finally:
                is_over.set()

        thread = threading.Thread(target=drive)
        thread.start()
        calls = asyncio.run(call_until(port, customer.issued.secret, is_over))
        thread.join()
        called = workers_that_called(tmp_path)
    drain(Journal(redis_connection, name="story", notify=lambda _line: None))
    rates = {rate.pk: rate for rate in Rate.objects.filter(model=model)}
    events = {str(event.call_id): event for event in UsageEvent.objects.all()}
    assert len(events) == len(calls)
    wrong = [call for call in calls if events[call.call_id].rate_id not in allowed(call, changes)]
    assert wrong == []
    assert all(charged_rightly(event, rates[event.rate_id]) for event in events.values() if event.rate_id)
    assert len(changes) == CHANGES + 1
    assert called == WORKERS
    certain = sum(len(allowed(call, changes)) == 1 for call in calls)
    kept = [
        call
        for call in calls
        if call.ended - call.before > 0.5 and any(call.before < change.began < call.ended for change in changes)
    ]
    assert certain > 10 * CHANGES, "calls of which only one price can have held"
    assert len(kept) > CHANGES / 2, "streams under which the price changed"
    print(
        f"{CHANGES} changes of price, half by the clock, under {len(calls)} calls on {WORKERS} workers: charged by"
        f" another price than that of their reserve: {len(wrong)}; {certain} calls could have had one price only;"
        f" {len(kept)} streams ran across a change and kept theirs"
    )
