"""`manage.py up` as people run it: one installation of its own, through kills, to a clean end."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from portal import supervisor
from portal.stores import children
from portal.stores.place import PROJECT_DIR, Place
from tests.portal.installations import expect, finish, installation, own_environment, program, servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.fixture
def place():
    with installation() as made:
        yield made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def up(place, port: int, *options: str):
    with program(place, "manage.py", "up", "--workers", "1", *options, PORT=str(port)) as process:
        yield process


def manage(place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=own_environment(place),
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def status(host: str, port: int, path: str = "/static/robots.txt") -> int:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def call_with(facts: dict[str, Any], port: int) -> int:
    """The status of one metered call."""
    brand = facts["brands"]["dialogix"]
    body = {"model": brand["model"], "messages": [{"role": "user", "content": "Hello"}]}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {brand['api_key']}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/dialogix/v1/chat/completions", json.dumps(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def hint_of(facts: dict[str, Any]) -> str:
    """How the books name the demo's key."""
    return str(facts["brands"]["dialogix"]["api_key"][-4:])


def hints_in_the_books(place) -> list[str]:
    listed = manage(place, "usage", "--format", "jsonl")
    assert listed.returncode == 0, listed.stderr
    return [json.loads(line)["key_hint"] for line in listed.stdout.splitlines()]


def answers(port: int) -> bool:
    try:
        return status("127.0.0.1", port) == 200
    except (OSError, http.client.HTTPException):
        return False


def kept_alive(place) -> list[int]:
    return children.with_environment(supervisor.MARK, str(place.var))


def leader_of(place, words: str) -> int:
    """The process of `up`'s whose command line holds `words` and which leads its session."""
    for pid in kept_alive(place):
        if words in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") and children.session_of(pid) == pid:
            return pid
    raise AssertionError(f"no {words} runs")


def done_by_celery(place) -> str:
    lines = (place.logs / "celery.log").read_text().splitlines()
    return "\n".join(line for line in lines if "succeeded" in line)


def everything_is_gone(place) -> bool:
    return not kept_alive(place) and not servers(place)


def test_up_serves_survives_kills_and_starts_again_beside_another_installation(place, migrated_data):
    port, other_port = free_port(), free_port()
    with installation(migrated_data) as elsewhere, up(elsewhere, other_port, "--no-demo") as other:
        with up(place, port) as first:
            facts = check_that_it_serves(first, place, port)
            check_that_a_second_up_does_not_start(place)
            kill_one_after_another(first, place, port)
            first.kill()  # the supervisor itself: nothing of it may stand in the next one's way
        with up(place, port) as again:
            expect(again, "Ready: ")
            assert json.loads((place.var / "demo.json").read_text()) == facts
            assert hint_of(facts) in "".join(hints_in_the_books(place))
            assert call_with(facts, port) == 200
            expect(other, "Ready: ")
            again.send_signal(signal.SIGTERM)
            assert finish(again)[0] == 0
        assert everything_is_gone(place)
        alone = manage(place, "reconcile")  # attached to nobody: the stores run for this command only
        assert alone.returncode == 0, alone.stdout
        assert everything_is_gone(place)
        assert answers(other_port)
        assert not (elsewhere.var / "demo.json").exists()
        other.send_signal(signal.SIGINT)
        assert finish(other)[0] == 0
        assert everything_is_gone(elsewhere)


def check_that_it_serves(process: subprocess.Popen[str], place: Place, port: int) -> dict[str, Any]:
    lines = expect(process, "Ready: ")
    assert [line for line in lines if line.startswith("Ready")] == [f"Ready: http://localhost:{port}"]
    assert not [line for line in lines if "not answered" in line]
    assert status("localhost", port) == status("127.0.0.1", port) == 200
    facts: dict[str, Any] = json.loads((place.var / "demo.json").read_text())
    assert facts["portal"] == f"http://localhost:{port}"
    assert call_with(facts, port) == 200
    in_the_books = children.wait_until(
        lambda: hint_of(facts) in "".join(hints_in_the_books(place)), within_seconds=30, every_seconds=0.5
    )
    assert in_the_books
    return facts


def check_that_a_second_up_does_not_start(place: Place) -> None:
    with up(place, free_port()) as second:
        assert "Already running" in "\n".join(expect(second, "Already running"))
        assert finish(second)[0] == 1


def kill_one_after_another(process: subprocess.Popen[str], place: Place, port: int) -> None:
    """Each is named, and serves again."""
    os.kill(leader_of(place, "gunicorn"), signal.SIGKILL)
    expect(process, "web ended (SIGKILL)")
    assert children.wait_until(lambda: answers(port), within_seconds=30)
    os.kill(leader_of(place, "celery"), signal.SIGKILL)
    expect(process, "celery ended (SIGKILL)")
    sent = manage(place, "shell", "-v", "0", "-c", "from portal.tasks import *; forget_old_sessions.delay()")
    assert sent.returncode == 0, sent.stderr
    assert children.wait_until(lambda: "forget_old_sessions" in done_by_celery(place), within_seconds=30)
    (redis,) = children.servers_in(place.redis_data, "redis-server")
    os.kill(redis, signal.SIGKILL)
    expect(process, "redis ended (SIGKILL)")
    assert children.wait_until(
        lambda: len(children.servers_in(place.redis_data, "redis-server")) == 1, within_seconds=30
    )


def test_a_port_that_is_taken_is_said_before_anything_starts(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with up(place, taken.getsockname()[1]) as process:
            code, said = finish(process)
    assert code == 1
    assert "Choose another: PORT=" in said
    assert not (place.var / "postgresql-18").exists()


def test_a_stop_during_the_start_ends_what_was_started(place):
    with up(place, free_port()) as process:
        expect(process, "Bringing the database up to date")
        process.send_signal(signal.SIGTERM)
        assert finish(process)[0] == 0
    assert everything_is_gone(place)
