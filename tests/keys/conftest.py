"""A brand, a customer, and a Directory of its own loop on the test's real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import psycopg_pool
import pytest
import redis.asyncio

from keys import publication
from keys.directory import Directory
from keys.models import Brand, Organization
from tests import cast


@pytest.fixture
def brand_renderer(monkeypatch) -> None:
    """Billing's renderer is not this room's business: a brand's data is its version."""

    def render(brand_id: int) -> tuple[int, bytes]:
        version = Brand.objects.get(id=brand_id).version
        return version, b"snapshot %d" % version

    monkeypatch.setitem(publication._renderers, publication.BRAND, render)


@pytest.fixture
def house(transactional_db, brand_renderer) -> Any:
    """`brand`, `organization` (with its published version), on a database that really commits."""
    brand = cast.brand(key_prefix="ak-")
    organization = cast.organization(brand)
    return SimpleNamespace(brand=brand, organization=organization)


@pytest.fixture
def organization(house) -> Organization:
    found: Organization = house.organization
    return found


@pytest.fixture
async def pool(house, database_url) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    pool = psycopg_pool.AsyncConnectionPool(
        database_url, min_size=0, max_size=20, open=False, kwargs={"prepare_threshold": None}
    )
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def redis_async(settings) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL)
    yield client
    await client.aclose()


@pytest.fixture
def directory(redis_async, pool) -> Directory:
    return Directory(redis_async, pool)
