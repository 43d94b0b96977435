"""From admission to reconcile with everything real: calls, a worker that sleeps too long, and the books in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from django.conf import settings
from django.db import connection
from psycopg_pool import AsyncConnectionPool

from billing import leases, ledger, script
from billing.admission import Admission
from billing.hold import Outcome
from billing.journal import Journal
from billing.models import UsageEvent
from billing.reconcile import reconcile
from billing.seeds import Seeds
from billing.usage import Usage
from tests.billing import books, stage
from tests.billing.draining import drain
from tests.billing.settled import Customer, customer
from tests.billing.stage import Stage

pytestmark = pytest.mark.django_db(transaction=True)
GRANTED_NANOS = 10**9
T = TypeVar("T")


@pytest.fixture
def payer() -> Customer:
    who = customer()
    ledger.grant(
        organization=who.organization,
        amount_nanos=GRANTED_NANOS,
        kind="paid",
        reason="a test",
        reference="test",
        actor="test",
    )
    return who


def staged(who: Customer, redis_connection, wal_dir) -> Stage:
    staged = Stage(redis_connection, wal_dir, settings.REDIS_URL)
    brand = msgspec.structs.replace(staged.snapshot.brand, id=who.brand.id)
    model = msgspec.structs.replace(staged.model, id=who.model.id)
    staged.caller = stage.caller(who.organization.id, key_id=who.key.id)
    staged.snapshot = msgspec.structs.replace(staged.snapshot, brand=brand, models=(model,))
    staged.model = model
    staged.sources = stage.Sources(staged.caller, staged.snapshot)
    return staged


async def elsewhere(work: Callable[[], T]) -> T:
    """Django's database is for threads."""

    def done() -> T:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.to_thread(done)


async def test_books_and_counters_agree_through_a_lapse_and_its_correction(
    redis_connection, wal_dir, database_url, payer
):
    journal = Journal(redis_connection, name="first", notify=lambda _line: None)

    def book() -> list[str]:
        drain(journal)
        return [str(difference) for difference in reconcile(redis_connection)]

    async with (
        AsyncConnectionPool(database_url, min_size=1, open=False) as pool,
        staged(payer, redis_connection, wal_dir) as till,
    ):
        till.admission = Admission(
            till.counters, till.wal, till.sources.catalogue, till.sources.directory, Seeds(till.counters, pool)
        )
        for _ in range(5):
            await till.settle(await till.reserve())
        sleeper = await till.reserve()
        await till.admission.dispatched(sleeper, 1)
        assert await elsewhere(book) == []

        redis_connection.zadd(script.name(payer.shard, script.LEASES), {sleeper.call_id: 1})
        assert await elsewhere(lambda: leases.sweep(redis_connection)) == 1
        assert await elsewhere(book) == []

        charge = await till.admission.settle(
            sleeper, Outcome(usage=Usage(input=90, output=50), usage_source="final", end_reason="stop")
        )
        await till.admission.drain(5)
        assert await elsewhere(book) == []
        assert till.account()["bal"] == await elsewhere(lambda: books.wallet(payer.organization.id))

    def sums() -> tuple[int, int]:
        books.assert_consistent()
        spent = GRANTED_NANOS - books.wallet(payer.organization.id)
        return spent, UsageEvent.objects.filter(kind="correction", corrects=sleeper.call_id).count()

    assert await elsewhere(sums) == (6 * charge.cost_nanos, 1)
