"""The serving process as gunicorn starts it (portal/server.py)."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest

from billing.admission import LEASE_MS
from billing.leases import GRACE_MS


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("DATABASE_POOL", "4")  # which it sets for its own process
    from portal import server

    return server


@pytest.fixture
def collector():
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_a_worker_spares_its_calls_the_collector_but_keeps_it(server, collector):
    before = gc.get_freeze_count()
    server.post_worker_init(None)
    assert gc.get_freeze_count() > before
    assert gc.isenabled()
    assert gc.get_threshold()[0] > 10_000


def test_workers_may_open_as_many_files_as_connections_take(server):
    """Workers inherit it from their master."""
    said = subprocess.run(
        ["bash", "-c", f'ulimit -S -n 1024; exec "{sys.executable}" -c "$0"', _OPENED],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "portal.settings", "CONNECTIONS_MAX": "3000", "CALLS_MAX": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["3600", "[]", "2000", "[2000,", "3600]"]


_OPENED = """
import resource
from types import SimpleNamespace as Its
from portal import server
told = []
gunicorn = Its(log=Its(warning=lambda said, *numbers: told.extend(numbers)))
server.on_starting(gunicorn)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], told)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 2000))
server.on_starting(gunicorn)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], told)
"""


def test_a_worker_that_serves_no_pages_starts_without_them():
    names = "{'stripe', 'portal.urls', 'billing.admin', 'markdown_it'}"
    looked = f"import sys, portal.asgi; print({names} & set(sys.modules))"
    for serve, found in (("proxy", "set()"), ("both", "billing.admin")):
        said = subprocess.run(
            [sys.executable, "-c", looked],
            env=os.environ | {"SERVE": serve, "DJANGO_SETTINGS_MODULE": "portal.settings"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found in said.stdout


def test_a_worker_may_sleep_past_its_leases_and_wake_up_to_correct_them(server):
    from portal import worker

    sweep_seconds = 1
    lapsed_by = (LEASE_MS + GRACE_MS) / 1000 + sweep_seconds
    assert server.timeout - worker.HEARTBEAT_SECONDS >= lapsed_by + 10


def test_a_worker_gives_signs_of_life_more_often_than_gunicorn_asks_for(server):
    import logging

    from gunicorn.config import Config

    from portal.worker import HEARTBEAT_SECONDS, Worker

    class Log:
        error_log = access_log = logging.getLogger("tests.worker")

    cfg = Config()
    cfg.set("worker_tmp_dir", "/dev/shm")
    made = Worker(1, 1, [], None, server.timeout / 2, cfg, Log())
    made.tmp.close()
    assert made.config.timeout_notify == HEARTBEAT_SECONDS
