"""Proxy workers run on uvloop, management commands and tests by default on asyncio's own loop: what stands directly on
sockets is tested on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import redis
import uvloop

from tests.inference import Inference, demo_engine
from tests.proxy.shop import Gateway, Shop, serve

ON_BOTH_LOOPS = {"test_upstream.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in ON_BOTH_LOOPS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def inference() -> Iterator[Inference]:
    with demo_engine() as running:
        yield running


@pytest.fixture
def shop(transactional_db: None, empty_redis: None, redis_connection: redis.Redis, inference: Inference) -> Shop:
    """Tests that use it are marked django_db(transaction=True), so that unmanaged tables are emptied too."""
    inference.engine.control.update({"loading": False, "tokens_per_second": 0, "reports_cached": True, "rules": []})
    return Shop(inference, redis_connection)


@pytest.fixture
def gateway(shop: Shop) -> Iterator[Gateway]:
    with serve(shop) as served:
        yield served
