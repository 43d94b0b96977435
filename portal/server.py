"""gunicorn's configuration: `gunicorn portal.asgi:application -c portal/server.py`."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from typing import Any

os.environ.setdefault("DATABASE_POOL", "4")  # pages are served by threads of one process: let them share connections

from portal import settings
from portal.stores.children import die_with_parent

_LIFESPAN_SECONDS = 15
_OTHER_FILES = 500
"""Stores, logs, libraries, the write-ahead log, and some to spare."""
_ALLOCATIONS_PER_COLLECTION = 50_000


def _loopback() -> list[str]:
    """Both loopback addresses, as `localhost` may mean either; machines without IPv6 have one."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ["127.0.0.1"]
    return ["127.0.0.1", "[::1]"]


bind = [f"{address}:{settings.PORT}" for address in settings.BIND or _loopback()]
workers = settings.WORKERS
worker_class = "portal.worker.Worker"
backlog = 2048
keepalive = 75  # longer than the 60 s that front proxies keep: the side that closes first loses no request
timeout = 90
"""A worker whose event loop stands still that many seconds is replaced. Longer than a lease and its grace (billing):
one that wakes up after its calls have lapsed corrects them to their true usage, which a killed one cannot. A number,
because what the master imports stays as it was over a reload."""

# A stop is: no new connections; running calls have DRAIN_SECONDS to end (worker.py); then the proxy settles the rest in
# its lifespan shutdown. gunicorn counts all that from SIGTERM and kills at the end; the write-ahead log covers a kill.
graceful_timeout = settings.DRAIN_SECONDS + _LIFESPAN_SECONDS

control_socket = str(settings.PLACE.gunicorn_control)  # the default is one path for all instances of a user
accesslog = None
loglevel = "info"
preload_app = False


def _let_open(server: Any) -> None:
    """Who only connects would else have all that a worker may open, at the usual limit of 1,024: its stores, engines
    and its write-ahead log would have none."""
    wanted = settings.CONNECTIONS_MAX + settings.CALLS_MAX + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        server.log.warning("Workers may open %d files and want %d: lower CONNECTIONS_MAX.", allowed, wanted)


def on_starting(server: Any) -> None:
    _let_open(server)
    try:
        settings.WAL_DIR.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:  # pages are served all the same, and workers go on trying
        server.log.error("No write-ahead log can be written, so metered calls are refused: %s", error)


def post_fork(server: Any, worker: Any) -> None:
    """A killed master must not leave workers holding its port."""
    die_with_parent(signal.SIGKILL, server.pid)


def post_worker_init(worker: Any) -> None:
    """What the program itself consists of never becomes garbage, and calls free nearly all they make without the
    collector. Left as it is, that took a seventh of a worker's time and stopped every call for a tenth of a second at
    each full collection (tests/speed)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 20, 100)
