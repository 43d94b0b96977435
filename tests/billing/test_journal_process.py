"""`manage.py journal` as it runs in production: killed with SIGKILL under load, and stopped with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from django.conf import settings

from billing import call_ids
from billing.models import JournalShard, JournalWriter
from tests.billing import books
from tests.billing.books import end_leases
from tests.billing.settled import customer, settle

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(database_url, tmp_path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start_one() -> subprocess.Popen[str]:
        environment = {**os.environ, "DATABASE_URL": database_url, "DJANGO_SETTINGS_MODULE": "portal.settings"}
        with (tmp_path / "stderr").open("a") as errors:
            child = subprocess.Popen(
                [sys.executable, "manage.py", "journal"],
                cwd=ROOT,
                env={**environment, "REDIS_URL": settings.REDIS_URL},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(child)
        assert child.stdout is not None
        while "holds 64 shards" not in (line := child.stdout.readline()):
            assert line, (tmp_path / "stderr").read_text()
        return child

    yield start_one
    for child in started:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_killed_again_and_again_it_books_each_call_once(redis_connection, start):
    customers = [customer() for _ in range(4)]
    total = 0
    for _ in range(2):
        child = start()
        for _ in range(20):
            settle(redis_connection, *(who.event() for who in customers for _ in range(25)))
            total += 100
        child.kill()
        child.wait()
        end_leases()
    start()
    wait_for(lambda: books.events() == total)
    assert sum(books.wallet(who.organization.id) for who in customers) == -7 * total
    books.assert_consistent()


def test_sigterm_finishes_and_frees_the_shards(redis_connection, start):
    child = start()
    settle(redis_connection, customer().event())
    wait_for(lambda: books.events() == 1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0
    assert child.stdout is not None
    assert child.stdout.read().splitlines()[-1] == "journal: stopped"
    assert not JournalWriter.objects.exists()
    assert not JournalShard.objects.exclude(holder="").exists()


def test_refusals_reach_support(start, redis_connection):
    from billing import script
    from proxy.models import RefusalRecord
    from proxy.refusal_log import STREAM

    row = {
        "call_id": call_ids.mint(int(time.time() * 1000), os.urandom(10)),  # one of long ago is dropped at once
        "at_ms": int(time.time() * 1000),
        "organization_id": 7,
        "status": 429,
        "address": None,
        **dict.fromkeys(("key_hint", "model", "endpoint", "limit", "message", "agent"), ""),
        "reason": "rate_limited",
    }
    redis_connection.xadd(script.name(7, STREAM), {"rows": orjson.dumps([row])})
    start()
    wait_for(lambda: RefusalRecord.objects.filter(organization_id=7, reason="rate_limited").exists())
