"""The programs of a benchmark: two engines, nginx as the bare way to them, one proxy worker and the journal. All are
children of this process, on loopback; the CPU time that each has used is read here too."""

from __future__ import annotations

import contextlib
import getpass
import grp
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from django.db import connection

from keys.connections import redis_client
from portal.stores import children
from portal.stores.place import PROJECT_DIR

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "nginx"

COMPLETION = (
    '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1750000000,"model":"speed-whole",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog, and'
    ' then does so again, because nobody told it what else a fox might do on a long afternoon in the late summer.",'
    '"refusal":null,"tool_calls":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":21,'
    '"total_tokens":62,"completion_tokens":41,"prompt_tokens_details":null}}'
)

_ENGINE = """
server {{
  listen 127.0.0.1:{engine} backlog=2048;
  location = /v1/chat/completions {{ default_type application/json; return 200 '{completion}'; }}
  location = /status {{ stub_status; }}
  location ~ ^/(health|version|v1/models)$ {{ access_log {folder}/probes.log; return 200 '{{}}'; }}
}}
"""
_GATEWAY = """
upstream whole {{ server 127.0.0.1:{engine}; keepalive 512; keepalive_requests 100000000; }}
upstream streamed {{ server 127.0.0.1:{paced}; keepalive 512; keepalive_requests 100000000; }}
server {{
  listen 127.0.0.1:{gateway} backlog=2048;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  location /whole/ {{ proxy_pass http://whole/; }}
  location /streamed/ {{ proxy_pass http://streamed/; proxy_buffering off; }}
}}
"""
_NGINX = """
daemon off;
worker_processes 1;
user {user} {group};
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {servers}
}}
"""


class Ports(NamedTuple):
    engine: int
    paced: int
    gateway: int
    proxy: int


class Pace(NamedTuple):
    """Streams: how many, over what time their starts are spread, and what each of them brings."""

    streams: int
    spread_s: float
    chunks: int
    interval_ms: int


class Programs(NamedTuple):
    """Running. CPU is read by process: of the proxy the worker alone, of nginx master and worker."""

    ports: Ports
    proxy: list[int]
    gateway: list[int]
    journal: list[int]
    redis: int
    postmaster: int


@contextmanager
def engines(folder: Path, pace: Pace) -> Iterator[Ports]:
    """Both engines and nginx before them."""
    ports = _free_ports()
    with ExitStack() as stack:
        _nginx(stack, folder / "engine", _ENGINE.format(engine=ports.engine, completion=COMPLETION, folder=folder))
        _child(
            stack,
            folder / "paced.log",
            [sys.executable, "-m", "tests.speed.paced_engine", *map(str, (ports.paced, pace.interval_ms, pace.chunks))],
        )
        _nginx(stack, folder / "gateway", _GATEWAY.format(**ports._asdict()))
        for port in (ports.engine, ports.paced, ports.gateway):
            _wait_for(port)
        yield ports


@contextmanager
def programs(folder: Path, ports: Ports, gateway: Path) -> Iterator[Programs]:
    """One proxy worker and the journal on the stores that the environment names, their files below `folder`; `gateway`
    is where nginx was started."""
    environment = {"VAR_DIR": str(folder), "PORT": str(ports.proxy), "WORKERS": "1", "SERVE": "proxy"}
    environment["DJANGO_SETTINGS_MODULE"] = "portal.settings"  # those of the suite start stores
    with ExitStack() as stack:
        journal = _child(
            stack, folder / "journal.log", [sys.executable, str(PROJECT_DIR / "manage.py"), "journal"], environment
        )
        server = [sys.executable, "-m", "gunicorn", "portal.asgi:application", "-c", f"{PROJECT_DIR}/portal/server.py"]
        web = _child(stack, folder / "web.log", server, environment)
        _wait_for(ports.proxy)
        yield Programs(
            ports,
            proxy=_children_of(web),
            gateway=_nginx_pids(gateway),
            journal=[journal],
            redis=_redis(),
            postmaster=_postmaster(),
        )


def _nginx(stack: ExitStack, folder: Path, servers: str) -> int:
    folder.mkdir()
    user, group = getpass.getuser(), grp.getgrgid(os.getegid()).gr_name
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(user=user, group=group, folder=folder, servers=servers))
    return _child(stack, folder / "log", [NGINX, "-c", f"{config}", "-p", f"{folder}", "-e", f"{folder}/error.log"])


def _nginx_pids(folder: Path) -> list[int]:
    master = int((folder / "pid").read_text())
    return [master, *_children_of(master)]


def _child(stack: ExitStack, log: Path, argv: Sequence[str | Path], environment: dict[str, str] | None = None) -> int:
    child = children.spawn(argv, log=log, environment=os.environ | (environment or {}), cwd=PROJECT_DIR)
    stack.callback(_stop, child)
    return child.pid


def _stop(child: subprocess.Popen[bytes]) -> None:
    children.stop(child, signal.SIGTERM, within_seconds=STOP_SECONDS_MAX)


def _free_ports() -> Ports:
    probes = [socket.socket() for _ in Ports._fields]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return Ports(*(probe.getsockname()[1] for probe in probes))
    finally:
        for probe in probes:
            probe.close()


def _wait_for(port: int) -> None:
    """Until somebody answers there, whatever it is."""
    if not children.wait_until(lambda: _answers(port), within_seconds=READY_SECONDS_MAX):
        raise RuntimeError(f"nothing answers on port {port}")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS_MAX)
    try:
        connection.request("GET", "/v1/health")
        connection.getresponse()
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def asked(port: int) -> int:
    """How many requests an engine has had. nginx counts the question too; it is taken off by whoever subtracts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/status")
        numbers = re.findall(r"\d+", connection.getresponse().read().decode())
    finally:
        connection.close()
    return int(numbers[0]) if len(numbers) == 1 else int(numbers[3])


# CPU ------------------------------------------------------------------------------------------------------------------


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that these processes have used, all threads."""
    return sum(_ticks(pid) for pid in pids) / TICKS_PER_SECOND


def family_cpu_seconds(parent: int) -> float:
    """Of a process, its children that run, and those that ended: connections come and go."""
    running = sum(sum(_times(child)[:2]) for child in _children_of(parent))
    return (running + sum(_times(parent))) / TICKS_PER_SECOND


def _ticks(pid: int) -> int:
    return sum(_times(pid)[:2])


def _times(pid: int) -> list[int]:
    """User and system time of the process, and of its children that ended and were waited for (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return [0, 0, 0, 0]
    return [int(ticks) for ticks in fields[11:15]]


def _parents() -> dict[int, int]:
    """Every process and its parent."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def _children_of(parent: int) -> list[int]:
    return sorted(pid for pid, its in _parents().items() if its == parent)


def _redis() -> int:
    with redis_client() as asks:
        return int(asks.info("server")["process_id"])


def _postmaster() -> int:
    """What this process' connection is a child of."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return _parents()[cursor.fetchone()[0]]
