"""A change of tier under a burst on three workers: no call that begins after it is judged by the old."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest
import redis
from django.db import connection

from billing import ladder
from billing.models import Tier
from keys.models import Organization
from portal.stores.children import wait_until
from tests.inference import demo_engine
from tests.proxy.shop import Shop
from tests.stories.workers import Answer, Caller, proxy_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.django_db(transaction=True)]

WORKERS = 3
CALLERS = 24
CALLS_PER_CONNECTION = 20
CHANGES = 40
ANSWERS = 20
"""To calls that began after one change, before the next begins."""
BODY: dict[str, object] = {
    "model": "aion-v3",
    "messages": [{"role": "user", "content": "demo:tokens=2"}],
    "max_tokens": 16,
}


class Change(NamedTuple):
    """`began` and `returned`: time.time() around the writer."""

    limit: str
    began: float
    returned: float


def change_again_and_again(
    organization: Organization, tiers: list[Tier], changes: list[Change], answers: list[Answer]
) -> None:
    for number in range(1, CHANGES + 1):
        tier = tiers[number % len(tiers)]
        began = time.time()
        ladder.assign(organization=organization, tier=tier, reason="story", actor="story")
        changes.append(Change(limit_of(tier), began, time.time()))
        assert wait_until(lambda: answers_since(changes[-1], answers) >= ANSWERS, within_seconds=20)
    connection.close()


def answers_since(change: Change, answers: list[Answer]) -> int:
    return sum(answer.began > change.returned for answer in answers)


def limit_of(tier: Tier) -> str:
    return str(tier.limits.get().amount)


async def call_until(port: int, secret: str, is_over: threading.Event, answers: list[Answer]) -> None:
    async def one() -> None:
        while not is_over.is_set():  # a new connection now and then, so that every worker gets its part
            caller = await Caller(port, "/dialogix/v1/chat/completions", secret, BODY).connect()
            try:
                for _ in range(CALLS_PER_CONNECTION):
                    answers.append(await caller.call())
            finally:
                await caller.close()

    await asyncio.gather(*[one() for _ in range(CALLERS)])


def allowed(answer: Answer, changes: list[Change]) -> set[str]:
    """By which limits the call may have been judged: of the last change that had returned when it began, and of those
    whose writer began before it ended."""
    settled = max(number for number, change in enumerate(changes) if change.returned <= answer.began)
    return {change.limit for change in changes[settled:] if change.began <= answer.ended}


def workers_that_called(folder: Path) -> int:
    """Each worker notes its calls in a write-ahead log of its own."""
    return sum(b'"call_id"' in path.read_bytes() for path in (folder / "wal").rglob("*") if path.is_file())


def test_no_call_that_begins_after_a_change_of_tier_returned_is_judged_by_the_old_one(
    redis_connection: redis.Redis, tmp_path: Path
) -> None:
    is_over = threading.Event()
    with demo_engine() as inference, proxy_workers(WORKERS, tmp_path) as port:
        shop = Shop(inference, redis_connection)
        tiers = [
            shop.new_tier(
                f"step-{number}", {"unit": "requests", "window": "day", "amount": 10**6 + number}, rank=number
            )
            for number in range(2, 7)
        ]
        organization = shop.new_organization("climber", credit="100", tier=tiers[0])
        secret = shop.new_key(organization).secret
        changes = [Change(limit_of(tiers[0]), 0.0, 0.0)]
        answers: list[Answer] = []

        def drive() -> None:
            try:
                change_again_and_again(organization, tiers, changes, answers)
            finally:
                is_over.set()

        thread = threading.Thread(target=drive)
        thread.start()
        asyncio.run(call_until(port, secret, is_over, answers))
        thread.join()
        called = workers_that_called(tmp_path)
    assert {answer.status for answer in answers} == {200}
    late = [answer for answer in answers if answer.limit not in allowed(answer, changes)]
    assert late == []
    assert len(changes) == CHANGES + 1
    assert called == WORKERS
    firsts_ms = [
        (min(a.ended for a in answers if a.began > change.returned and a.limit == change.limit) - change.returned)
        * 1000
        for change in changes[1:]
    ]
    certain = sum(len(allowed(answer, changes)) == 1 for answer in answers)
    assert certain >= ANSWERS * CHANGES, "calls that only one tier may have judged"
    print(
        f"{CHANGES} changes of tier under {len(answers)} calls on {WORKERS} workers: judged by the old tier after the"
        f" change returned: {len(late)}; first answer by the new one {median(firsts_ms):.1f} ms after (median)"
    )
