"""How a batch of entries reaches Redis: one EVALSHA, sent once. redis-py's own clients would send a command again after
a lost reply and cannot say whether it was ever sent; whoever asked decides that here.
"""

from __future__ import annotations

import logging
import time
from asyncio import timeout
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from billing import script
from keys.caller import SHARDS

log = logging.getLogger(__name__)

CONNECT_SECONDS_MAX: Final = 1.0
ANSWER_SECONDS_MAX: Final = 2.0
REDIRECTIONS_MAX: Final = 3
TOPOLOGY_SECONDS_MIN: Final = 0.5

_EVALSHA: Final = b"$7\r\nEVALSHA\r\n$40\r\n" + script.SHA + b"\r\n"
_EPOCHS: Final = tuple(script.name(shard, script.EPOCH).encode() for shard in range(SHARDS))


class StoreUnavailable(Exception):
    """Redis could not be asked, refused, or did not answer in time; whether it acted is unknown. Nothing is owed to the
    caller: what it may have reserved is given back."""


class NeverSent(StoreUnavailable):
    """There was no connection, or the server refused to look at it: it certainly did not act."""


class Transport(Protocol):
    async def call(self, shards: Sequence[int], encoded: Sequence[bytes]) -> bytes:
        """The script's reply to entries of these shards. Raises StoreUnavailable."""

    async def close(self) -> None: ...


def packed(shards: Sequence[int], encoded: Sequence[bytes]) -> bytes:
    """EVALSHA in Redis' own spelling: what redis-py's packer would make, at a fraction of its time."""
    names = {_EPOCHS[shard] for shard in shards}
    payload = script.packed(encoded)
    parts = [b"*%d\r\n" % (len(names) + 4), _EVALSHA, b"$%d\r\n%d\r\n" % (len(str(len(names))), len(names))]
    parts += [b"$%d\r\n%b\r\n" % (len(name), name) for name in names]
    parts.append(b"$%d\r\n%b\r\n" % (len(payload), payload))
    return b"".join(parts)


class SingleTransport:
    """A connection of its own to a single server, one batch at a time."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: AbstractConnection | None = None

    async def call(self, shards: Sequence[int], encoded: Sequence[bytes]) -> bytes:
        connection = self._connection
        if connection is not None and _has_ended(connection):
            self._connection = None
            await _closed(connection)
            connection = None
        if connection is None:
            connection = self._connection = await _opened(self._pool.make_connection)
        try:
            reply: bytes = await _within(ANSWER_SECONDS_MAX, exchange(connection, packed(shards, encoded)))
            return reply
        except BaseException:
            # What is left unread on it would be taken for the next batch's answer.
            self._connection = None
            await _closed(connection)
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _closed(connection)


class ClusterTransport:
    """One shard of a cluster: asks the node that owns it, over connections shared with the other shards. The client is
    asked for the topology only; its own connections are closed under whoever uses them whenever that changes."""

    def __init__(self, client: redis.asyncio.RedisCluster) -> None:
        self._client = client
        self._links = _links.setdefault(client, _Links())

    async def call(self, shards: Sequence[int], encoded: Sequence[bytes]) -> bytes:
        command, name = packed(shards, encoded), script.name(shards[0], script.EPOCH)
        for _ in range(REDIRECTIONS_MAX):
            node = await self._node(name)
            free = self._links.free[node.name]
            connection = free.pop() if free else await self._reached(node)
            if _has_ended(connection):
                await _closed(connection)
                connection = await self._reached(node)
            try:
                reply: bytes = await _within(ANSWER_SECONDS_MAX, exchange(connection, command))
            except StoreUnavailable as error:
                if not isinstance(error.__cause__, redis.exceptions.MovedError):
                    await _closed(connection)
                    self._links.stale = True
                    raise
                free.append(connection)
                await self._client.nodes_manager.move_slot(error.__cause__)
            except BaseException:
                await _closed(connection)
                raise
            else:
                free.append(connection)
                return reply
        raise NeverSent(f"the nodes do not agree who has {name}")

    async def _node(self, name: str) -> Any:
        """The shard's master as far as is known; looked up again after a failure, not too often."""
        links = self._links
        try:
            async with timeout(CONNECT_SECONDS_MAX):
                await self._client.initialize()
                if links.stale and time.monotonic() - links.looked_at > TOPOLOGY_SECONDS_MIN:
                    links.looked_at, links.stale = time.monotonic(), False
                    await self._client.nodes_manager.initialize()
            return self._client.get_node_from_key(name)
        except (redis.RedisError, OSError, TimeoutError) as error:
            links.stale = True
            raise NeverSent(f"{type(error).__name__}: {error}") from error

    async def _reached(self, node: Any) -> AbstractConnection:
        try:
            return await _opened(lambda: node.connection_class(**node.connection_kwargs))
        except NeverSent:
            self._links.stale = True
            raise

    async def close(self) -> None:
        for free in self._links.free.values():
            while free:
                await _closed(free.pop())


class _Links:
    """Connections that wait for work, by node; shared by the shards of one client."""

    def __init__(self) -> None:
        self.free: defaultdict[str, list[AbstractConnection]] = defaultdict(list)
        self.stale = False
        self.looked_at = 0.0


_links: WeakKeyDictionary[Any, _Links] = WeakKeyDictionary()


async def exchange(connection: AbstractConnection, command: bytes) -> bytes:
    """One question, one answer; the script is loaded where it is not known."""
    try:
        return await _answer(connection, command)
    except redis.exceptions.NoScriptError:
        await _answer(connection, connection.pack_command("SCRIPT LOAD", script.TEXT))
        return await _answer(connection, command)


async def _answer(connection: AbstractConnection, command: Any) -> bytes:
    await connection.send_packed_command(command, check_health=False)
    reply: bytes = await connection.read_response(disable_decoding=True)
    return reply


async def _opened(make: Callable[[], AbstractConnection]) -> AbstractConnection:
    connection = make()
    connection.retry = Retry(NoBackoff(), 0)
    connection.socket_timeout = None  # ANSWER_SECONDS_MAX spans the whole exchange
    try:
        await _within(CONNECT_SECONDS_MAX, connection.connect())  # type: ignore[no-untyped-call]
    except StoreUnavailable as error:
        await _closed(connection)
        raise NeverSent(str(error)) from error
    return connection


def _has_ended(connection: AbstractConnection) -> bool:
    """Whether the server has closed it meanwhile, as one that restarts does: no batch need fail on it."""
    reader = connection._reader
    return reader is None or reader.at_eof()


async def _closed(connection: AbstractConnection) -> None:
    try:
        await connection.disconnect(nowait=True)
    except (redis.RedisError, OSError):
        log.debug("a broken connection could not be closed", exc_info=True)


_REFUSED_UNSEEN = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.AuthenticationError,
    redis.exceptions.NoPermissionError,
)
"""Answers of a server that did not begin to run the script."""


async def _within(seconds: float, question: Awaitable[Any]) -> Any:
    try:
        async with timeout(seconds):
            return await question
    except _REFUSED_UNSEEN as error:
        raise NeverSent(f"{type(error).__name__}: {error}") from error
    except (redis.RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
