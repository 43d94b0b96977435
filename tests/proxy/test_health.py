"""Probes against real engines, and what routing makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from billing.snapshot import BrandRecord, EngineRecord, ModelRecord, Route, Snapshot
from proxy import health
from proxy.engine_slots import EngineSlots
from proxy.routing import Routing
from proxy.upstream import Pool
from tests.inference import Inference, demo_engine
from tests.proxy.shop import Gateway
from tests.proxy.test_pools import pool, until


@pytest_asyncio.fixture
async def way() -> AsyncIterator[Pool]:
    found = Pool(lambda key: key)
    yield found
    await found.close()


def known(*records: EngineRecord) -> Routing:
    routing = Routing(EngineSlots())
    routes = tuple(Route(engine_id=record.id, name_there="demo-chat") for record in records)
    model = ModelRecord(id=1, slug="m", context_length=9, max_completion_tokens=9, routes=routes)
    routing.order(model, Snapshot(version=1, brand=BrandRecord(id=1, slug="b", name="B"), engines=records))
    return routing


@pytest.mark.parametrize("kind", list(health.DOORS))
async def test_every_kind_is_asked_without_a_token(inference: Inference, way: Pool, kind: str) -> None:
    before = dict(inference.engine.totals["demo-chat"]), len(inference.engine.log)
    record = inference.record(kind=kind)
    routing = known(record)
    assert await health.probe(record, way, routing)
    assert routing.healths()[1].healthy
    assert (inference.engine.totals["demo-chat"], len(inference.engine.log)) == before


async def test_a_loading_engine_is_not_ready_until_it_is(inference: Inference, way: Pool) -> None:
    record = inference.record()
    routing = known(record)
    inference.engine.control.update({"loading": True})
    assert not await health.probe(record, way, routing)
    assert not routing.healths()[1].healthy
    inference.engine.control.update({"loading": False})
    assert await health.probe(record, way, routing)
    assert routing.healths()[1].healthy


async def test_an_engine_that_is_gone_is_unreachable(way: Pool) -> None:
    with demo_engine() as running:
        record = running.record()
    routing = known(record)
    assert not await health.probe(record, way, routing)
    assert routing.unreachable() == [1]


@pytest.mark.django_db(transaction=True)
def test_a_worker_notices_without_calls(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WELL_SECONDS", 0.2)
    monkeypatch.setattr(health, "SICK_SECONDS", 0.2)
    with pool(gateway, {}, {}) as (slug, (first, second), rows):
        assert gateway.chat(model=slug).status_code == 200
        until(lambda: len(first.engine.log) + len(second.engine.log) == 1)
        routing = gateway.worker.routing
        first.engine.control.update({"loading": True})
        until(lambda: not routing.healths()[rows[0].id].healthy, 15)
        line = f'gateway_engine_healthy{{engine="{rows[0].name}",engine_id="{rows[0].id}"}} 0.0'
        assert line in httpx.get(f"{gateway.root}/metrics").text
        done = len(second.engine.log)
        assert {gateway.chat(f"{number}", model=slug).status_code for number in range(6)} == {200}
        until(lambda: len(second.engine.log) >= done + 6)
        first.engine.control.update({"loading": False})
        until(lambda: routing.healths()[rows[0].id].healthy, 15)
