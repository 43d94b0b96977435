"""The process that serves: uvicorn under gunicorn, with everything off that a call does not need."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from uvicorn_worker import UvicornWorker

from portal.connections import Protocol

HEARTBEAT_SECONDS: Final = 1
"""gunicorn counts a worker's stillness from its last sign of life. uvicorn gives one each half `timeout`, so that a
worker that slept for half of it could be killed."""


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker carries no types
    """Client addresses come through TRUSTED_PROXIES in our own code, so uvicorn reads no forwarding headers."""

    CONFIG_KWARGS: dict[str, Any] = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.timeout_graceful_shutdown = settings.DRAIN_SECONDS
        self.config.timeout_notify = HEARTBEAT_SECONDS
