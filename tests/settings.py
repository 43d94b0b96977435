"""Settings of a test run: real stores, started once, before Django reads anything.

One private PostgreSQL serves the whole run. pytest-django makes a database per xdist worker in it, a copy of one that
is migrated (migrated.py). Every process that runs tests has a Redis of its own, so that a test may flush, stop or kill
it. They are given through the environment as in production, so that programs started by tests find the same stores.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from portal.stores.place import Place
from portal.stores.postgresql import PostgreSQL
from portal.stores.redis_server import RedisServer


def _folder() -> Place:
    folder = Path(tempfile.mkdtemp(prefix="gw-test-"))
    folder.chmod(0o711)  # the unprivileged PostgreSQL passes through
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Place(folder)


def _start_postgresql(place: Place) -> None:
    server = PostgreSQL(
        folder=place.var, sockets=place.postgresql_sockets, log=place.logs / "postgresql.log", durable=False
    )
    server.start()
    atexit.register(server.stop)
    os.environ["DATABASE_URL"] = place.database_url()
    os.environ["TEST_POSTGRESQL"] = "started"
    os.environ["TEST_FOLDER"] = str(place.var)


def _start_redis(place: Place) -> RedisServer:
    server = RedisServer(data=place.redis_data, socket=place.redis_socket, log=place.logs / "redis.log")
    server.start()
    atexit.register(server.stop)
    for name, number in (("REDIS_URL", 0), ("BROKER_URL", 1), ("CACHE_URL", 2)):
        os.environ[name] = place.redis_url(number)
    return server


TEST_PLACE = _folder()
if os.environ.get("TEST_POSTGRESQL") != "started":  # else an xdist worker, whose controller started it
    _start_postgresql(TEST_PLACE)
TEST_REDIS = _start_redis(TEST_PLACE)
os.environ |= {
    "VAR_DIR": str(TEST_PLACE.var),
    "SECRET_KEY": "test-" * 10,
    "KEY_PEPPER": f"1:{'ab' * 32}",
    "SEALING_KEYS": "dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q=",
}
for _name in ("ALLOWED_HOSTS", "DEBUG", "DEMO", "DEFAULT_BRAND", "TRUSTED_PROXIES", "WAL_DIR", "EMAIL_URL", "HTTPS"):
    os.environ.pop(_name, None)  # a developer's shell must not change what is tested

from portal.settings import *  # noqa: E402, F403

ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
