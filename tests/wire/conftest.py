"""The five brands, served by the real proxy, for a module's tests; and the table of what they were found to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from django.conf import settings

from proxy import app
from tests.conftest import empty_tables
from tests.inference import Inference, demo_engine
from tests.proxy.shop import serve_app
from tests.wire.mall import SLUGS, Mall, Stall, use_up

TABLE = "wire"


class Served(NamedTuple):
    """`client` asks the running gateway; it sends no key of its own."""

    mall: Mall
    root: str
    client: httpx.Client

    def stall(self, slug: str) -> Stall:
        return self.mall.stalls[slug]

    def base_url(self, slug: str) -> str:
        return self.root + self.stall(slug).path


@pytest.fixture(autouse=True)
def empty_redis(request: pytest.FixtureRequest, redis_connection: redis.Redis) -> None:
    """As everywhere, but for tests that share a module's brands: what they did stands until the module ends."""
    if "served" not in request.fixturenames:
        redis_connection.flushall()


@pytest.fixture
def _django_db_helper(request: pytest.FixtureRequest) -> None:
    if "served" not in request.fixturenames:
        request.getfixturevalue("_django_db_helper")


@pytest.fixture(scope="session")
def inference() -> Iterator[Inference]:
    with demo_engine() as running:
        yield running


@pytest.fixture(scope="module")
def served(
    django_db_setup: None,
    django_db_blocker: Any,
    redis_connection: redis.Redis,
    inference: Inference,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "WAL_DIR", tmp_path_factory.mktemp("wal"))
        redis_connection.flushall()
        try:
            mall = Mall(inference, redis_connection)
            with serve_app(app.application) as port, httpx.Client(timeout=30) as client:
                root = f"http://127.0.0.1:{port}"
                client.base_url = root
                for stall in mall.stalls.values():
                    use_up(stall, root)
                yield Served(mall, root, client)
        finally:
            empty_tables()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, str, str], None]:
    """`tell(brand, behaviour, what)`: a cell of the table at the end. It travels with the test's report, from whichever
    runner it ran on."""
    return lambda brand, behaviour, what: record_property(TABLE, [brand, behaviour, what])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    cells: dict[str, dict[str, list[str]]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == TABLE and report.when == "call":
                    brand, behaviour, what = value
                    said = what if outcome == "passed" else "FAILS"
                    cells.setdefault(behaviour, {}).setdefault(brand, []).append(said)
    if not cells:
        return
    terminalreporter.section("surfaces on the wire")
    terminalreporter.write_line(f"{'':26}" + "".join(f"{slug:>14}" for slug in SLUGS))
    for behaviour, row in cells.items():
        line = "".join(f"{_cell(row.get(slug, [])):>14}" for slug in SLUGS)
        terminalreporter.write_line(f"{behaviour:26}{line}")


def _cell(said: list[str]) -> str:
    if "FAILS" in said:
        return f"FAILS {said.count('FAILS')}/{len(said)}"
    if not said:
        return "-"
    return said[0] if len(said) == 1 else f"{len(said)} of {len(said)}"
