"""Redis clients from settings (REDIS_URL; REDIS_CLUSTER says that it names a node of a cluster). Answers are bytes:
records are binary-safe.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

CONNECT_SECONDS_MAX = 1.0
ANSWER_SECONDS_MAX = 2.0
_TIMEOUTS = {"socket_connect_timeout": CONNECT_SECONDS_MAX, "socket_timeout": ANSWER_SECONDS_MAX}


def redis_client() -> redis.Redis:
    """The process's blocking client. Fails fast: a page that changed something must not hang on a Redis that is away,
    and the sweeper applies later what it could not."""
    return _client(settings.REDIS_URL, settings.REDIS_CLUSTER)


def asyncio_client(**options: Any) -> Any:
    """A new asyncio client for one event loop; its owner closes it. `options` as redis-py takes them."""
    kind = redis.asyncio.RedisCluster if settings.REDIS_CLUSTER else redis.asyncio.Redis
    return kind.from_url(settings.REDIS_URL, **{**_TIMEOUTS, **options})


@lru_cache(maxsize=4)
def _client(url: str, cluster: bool) -> redis.Redis:
    retry = Retry(NoBackoff(), 1)
    if cluster:
        # The cluster client offers the commands this house uses under the same names; only its type differs.
        return redis.RedisCluster.from_url(url, **_TIMEOUTS, retry=retry)  # type: ignore[return-value]
    return redis.Redis.from_url(url, **_TIMEOUTS, retry=retry)
