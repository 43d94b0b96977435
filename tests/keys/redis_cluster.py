"""A Redis Cluster of two masters on loopback, each with half of the slots."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from portal.stores import children
from portal.stores.redis_server import binary

SLOTS = 16_384
SECONDS_MAX = 30.0


@contextmanager
def redis_cluster(folder: Path) -> Iterator[str]:
    """The URL of one of its nodes."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(folder / name)) for name in ("one", "two")]
        ports = [node.connection_pool.connection_kwargs["port"] for node in nodes]
        for number, node in enumerate(nodes):
            half = range(number * SLOTS // 2, (number + 1) * SLOTS // 2)
            node.execute_command("CLUSTER ADDSLOTS", *half)
        nodes[0].execute_command("CLUSTER MEET", "127.0.0.1", ports[1])
        _until(lambda: all(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for node in nodes))
        _until(lambda: all(int(node.execute_command("CLUSTER INFO")["cluster_size"]) == 2 for node in nodes))
        yield f"redis://127.0.0.1:{ports[0]}"


@contextmanager
def _node(folder: Path) -> Iterator[redis.Redis]:
    folder.mkdir()
    port = _free_port()
    child = children.spawn(
        [
            *(binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "5000"),
        ],
        log=folder / "redis.log",
        death_signal=signal.SIGTERM,
    )
    client = redis.Redis(port=port)
    try:
        _until(lambda: _answers(client))
        yield client
    finally:
        client.close()
        children.stop(child, signal.SIGTERM, within_seconds=10)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _free_port() -> int:
    """One whose bus port, 10,000 above it, is free as well."""
    while True:
        with socket.socket() as chosen, socket.socket() as bus:
            chosen.bind(("127.0.0.1", 0))
            port: int = chosen.getsockname()[1]
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


def _until(true) -> None:
    end = time.monotonic() + SECONDS_MAX
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("the cluster did not come up")
        time.sleep(0.02)
