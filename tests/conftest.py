"""What every test stands on: real stores (see settings.py), empty at the start of each test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from tests import migrated, nodejs


@pytest.fixture(scope="session")
def redis_connection() -> Iterator[redis.Redis]:
    """Binary replies, as the proxy's own connections have them."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def empty_redis(redis_connection: redis.Redis) -> None:
    redis_connection.flushall()


@pytest.fixture(autouse=True)
def wal_dir(tmp_path: Path, settings) -> Path:
    """A WAL folder of the test's own."""
    folder = tmp_path / "wal"
    folder.mkdir()
    settings.WAL_DIR = folder
    return folder


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, django_db_blocker: DjangoDbBlocker
) -> None:
    """The runner's own database begins as a copy of a migrated one."""
    with django_db_blocker.unblock():
        connection.settings_dict["TEST"]["TEMPLATE"] = migrated.database()


@pytest.fixture(scope="session")
def migrated_data(django_db_blocker: DjangoDbBlocker) -> Path:
    """For `installation(migrated_data)`: a data folder of PostgreSQL with all tables."""
    with django_db_blocker.unblock():
        return migrated.data()


@pytest.fixture(scope="session")
def database_url(django_db_setup) -> str:
    """The test database as a URL, for raw psycopg pools and for programs started by tests (their DATABASE_URL)."""
    facts = connection.settings_dict
    return f"postgresql:///{facts['NAME']}?host={facts['HOST']}&user={facts['USER']}"


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs for Node, with their packages."""
    return nodejs.installed(tmp_path_factory.getbasetemp().parent / "npm.lock")


@pytest.fixture(scope="session", autouse=True)
def _programs_use_the_test_database(request: pytest.FixtureRequest) -> None:
    if any(item.get_closest_marker("django_db") for item in request.session.items):
        os.environ["DATABASE_URL"] = request.getfixturevalue("database_url")


@pytest.fixture(scope="session", autouse=True)
def _tests_that_commit_leave_empty_tables() -> Iterator[None]:
    """Django truncates every table after such a test, the partitioned ones excepted, and makes content types and
    permissions anew: half a second, a thousand times. Few tables hold anything, so those are emptied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _case: empty_tables())
        yield


def pytest_configure() -> None:
    """Most of what a test process holds stays: garbage is looked for less often."""
    gc.set_threshold(50_000, 50, 50)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first, then those in a browser, so that at the end no runner waits for the other."""
    slow, browser = ({item.path for item in items if item.get_closest_marker(mark)} for mark in ("slow", "browser"))
    items.sort(key=lambda item: (item.path not in slow, item.path not in browser))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of safeguards, where their tests ran (tests/safeguards)."""
    reports = [report for report in terminalreporter.getreports("passed") if getattr(report, "when", "") == "call"]
    rows = [value for report in reports for name, value in report.user_properties if name == "safeguard"]
    if not rows:
        return
    rows.sort(key=lambda row: (row[0], row[1] != "with it"))
    table = [["safeguard", "taken away how", "checks that fail", "figure"], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    terminalreporter.section("safeguards, taken away one at a time")
    for row in table:
        terminalreporter.line("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


_EMPTY_TABLES = """
DO $$
DECLARE
    name text;
    found boolean;
BEGIN
    SET LOCAL session_replication_role = replica;  -- neither foreign keys nor the triggers of append-only books
    FOR name IN
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
            AND relname NOT IN ('django_migrations', 'django_content_type', 'auth_permission')
    LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO found;
        IF found THEN
            EXECUTE 'DELETE FROM ' || name;
        END IF;
    END LOOP;
END $$
"""


def empty_tables() -> None:
    with connection.cursor() as cursor:
        cursor.execute(_EMPTY_TABLES)
