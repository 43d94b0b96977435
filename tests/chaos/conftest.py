"""A shop, a demo engine whose log is the truth, and real processes between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos.processes import Processes, running
from tests.inference import Inference, demo_engine
from tests.proxy.shop import Shop


@pytest.fixture
def inference() -> Iterator[Inference]:
    with demo_engine() as engine:
        yield engine


@pytest.fixture
def shop(transactional_db: None, empty_redis: None, redis_connection: redis.Redis, inference: Inference) -> Shop:
    return Shop(inference, redis_connection)


@pytest.fixture
def processes(shop: Shop, database_url: str, wal_dir: Path, tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "var"
    folder.mkdir()
    yield from running(shop, database_url, wal_dir, folder)
