"""The serving process as gunicorn starts it (portal/server.py)."""

from __future__ import annotations

import gc

import pytest


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
