"""Every kind of limit under 64 connections on three workers: what is admitted is what is allowed, to the unit, and what
was counted is what was booked. `python -m tests.exactness --requests 10000` does the same at length."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.exactness.house import house
from tests.exactness.kinds import KINDS
from tests.exactness.trial import run, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.django_db(transaction=True)]
REQUESTS = 240


def test_what_is_admitted_is_what_is_allowed(redis_connection: redis.Redis, tmp_path: Path) -> None:
    with house(redis_connection, tmp_path) as built:
        rows = [run(built, kind, REQUESTS) for kind in KINDS]
        differences = built.differences()
    print(table(rows))
    assert differences == []
    assert [wrong for row in rows for wrong in row.wrong] == []
    assert all(row.admitted == row.allowed for row in rows)
