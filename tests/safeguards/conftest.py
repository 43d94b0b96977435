"""A shop, its engine and the served proxy, new for every test: each safeguard is taken away under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.inference import Inference, demo_engine
from tests.proxy.shop import Shop
from tests.safeguards.lab import Lab


@pytest.fixture
def inference() -> Iterator[Inference]:
    with demo_engine() as engine:
        yield engine


@pytest.fixture
def lab(
    transactional_db: None, empty_redis: None, wal_dir: Path, redis_connection: redis.Redis, inference: Inference
) -> Iterator[Lab]:
    lab = Lab(Shop(inference, redis_connection))
    yield lab
    lab.close()
