"""Proxy workers run on uvloop, management commands and tests by default on asyncio's own loop: what stands directly on
sockets is tested on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis
import uvloop
from django.conf import settings

from tests.conftest import empty_tables
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


@pytest.fixture(autouse=True)
def empty_redis(request: pytest.FixtureRequest, redis_connection: redis.Redis) -> None:
    """As everywhere, but for tests that share a module's shop: what they did stands until the module ends."""
    if "shop" not in request.fixturenames:
        redis_connection.flushall()


@pytest.fixture
def _django_db_helper(request: pytest.FixtureRequest) -> None:
    """pytest-django's own, which empties the tables after every test, but for tests that share a module's shop."""
    if "shop" not in request.fixturenames:
        request.getfixturevalue("_django_db_helper")


@pytest.fixture(scope="module")
def shop(
    django_db_setup: None,
    django_db_blocker: Any,
    redis_connection: redis.Redis,
    inference: Inference,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """One shop for a module's tests: a test that changes something for good makes its own customer, model or brand.
    Such modules are marked django_db(transaction=True), from which pytest-django knows that they need a database."""
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        # A worker replays what dead ones left in its folder: the calls of another module's shop are not ours.
        patch.setattr(settings, "WAL_DIR", tmp_path_factory.mktemp("wal"))
        redis_connection.flushall()
        try:
            yield Shop(inference, redis_connection)
        finally:
            empty_tables()


@pytest.fixture(scope="module")
def gateway(shop: Shop) -> Iterator[Gateway]:
    with serve(shop) as served:
        yield served


@pytest.fixture(autouse=True)
def _plain_engine(request: pytest.FixtureRequest) -> None:
    if "inference" in request.fixturenames:
        control = request.getfixturevalue("inference").engine.control
        control.update({"loading": False, "tokens_per_second": 0, "reports_cached": True, "rules": []})
