import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portal import supervisor
from portal.stores import StoresError, children
from portal.supervisor import Program, StopAsked, Supervisor


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pretended:
    """A service that lives until it is told to be dead."""

    def __init__(self, name: str, journal: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        self.journal = journal
        self.how: str | None = "not started"
        self.fails = False

    def start(self) -> None:
        self.journal.append(f"start {self.name}")
        if self.fails:
            raise StoresError("no room")
        self.how = None

    def ended(self) -> str | None:
        return self.how

    def stop(self) -> None:
        self.journal.append(f"stop {self.name}")

    def session(self) -> int | None:
        return None

    def pid(self) -> int | None:
        return None if self.how is not None else self.journal.count(f"start {self.name}")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(said, clock) -> Supervisor:
    return Supervisor(say=said.append, clock=clock)


def deaths(watcher: Supervisor, service: Pretended, clock: Clock, count: int) -> list[float]:
    """Seconds between each death and the next start."""
    waits = []
    for _ in range(count):
        service.how = "SIGKILL"
        died_at = clock.now
        watcher.look()
        while service.ended() is not None:
            clock.now += 0.1
            watcher.look()
        waits.append(round(clock.now - died_at, 1))
    return waits


def test_a_child_that_keeps_dying_is_started_after_longer_and_longer_pauses(watcher, clock, tmp_path):
    service = Pretended("journal", [], tmp_path / "log")
    watcher.start(service)
    assert deaths(watcher, service, clock, 9) == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30], abs=0.15)
    clock.now += 61
    assert deaths(watcher, service, clock, 2) == pytest.approx([0.5, 1], abs=0.15)


def test_a_death_is_named_with_its_cause_and_the_end_of_its_log(watcher, said, tmp_path):
    log = tmp_path / "web.log"
    log.write_text("many lines\nMemoryError: none left\n")
    service = Pretended("web", [], log)
    watcher.start(service)
    service.how = "exit status 3"
    watcher.look()
    assert "web ended (exit status 3)" in said[0]
    assert "    MemoryError: none left" in said[0]


def test_whatever_is_started_is_noted_with_its_process(said, clock, tmp_path):
    noted: list[dict[str, int]] = []
    watcher = Supervisor(say=said.append, note=noted.append, clock=clock)
    journal: list[str] = []
    services = [Pretended(name, journal, tmp_path / "log") for name in ("redis", "web")]
    for service in services:
        watcher.start(service)
    deaths(watcher, services[1], clock, 1)
    assert noted == [{"redis": 1}, {"redis": 1, "web": 1}, {"redis": 1, "web": 2}]


def test_a_start_that_fails_is_said_and_tried_again(watcher, said, clock, tmp_path):
    service = Pretended("redis", [], tmp_path / "log")
    service.fails = True
    watcher.start(service)
    watcher.look()
    assert said[0] == "redis could not be started: no room"
    service.fails = False
    clock.now += 1
    watcher.look()
    assert service.how is None


def test_stopping_goes_by_the_given_order_and_then_last_started_first(watcher, tmp_path):
    journal: list[str] = []
    for name in ("postgresql", "redis", "extra one", "extra two", "web"):
        watcher.start(Pretended(name, journal, tmp_path / "log"))
    journal.clear()
    watcher.stop(("web", "extra one"))
    assert journal == ["stop web", "stop extra one", "stop extra two", "stop redis", "stop postgresql"]


def stubborn(tmp_path: Path, **more) -> Program:
    return Program("sleeper", [sys.executable, "-c", STUBBORN], tmp_path / "log", stop_seconds=30, **more)


def is_ready(program: Program) -> bool:
    return children.wait_until(lambda: "ready" in children.last_lines(program.log), within_seconds=20)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""


def test_a_stubborn_child_is_killed_with_all_it_started(tmp_path):
    program = stubborn(tmp_path)
    program.stop_seconds = 0.3
    program.start()
    assert is_ready(program)
    leader = program.session()
    assert leader is not None
    assert len(children.session_members(leader)) == 2
    program.stop()
    assert children.wait_until(lambda: not children.session_members(leader), within_seconds=5)


def test_what_a_killed_run_left_behind_is_known_by_its_mark_and_nothing_else_is_touched(tmp_path):
    ours = stubborn(tmp_path, mark=str(tmp_path))
    ours.start()
    assert is_ready(ours)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        supervisor.end_leftovers(str(tmp_path))
        assert ours.session() is not None
        assert children.with_environment(supervisor.MARK, str(tmp_path)) == []
        assert ours.ended() == "SIGKILL"
        assert stranger.poll() is None
        stranger.kill()


def test_one_wish_to_stop_that_arrives_twice_is_one_and_a_later_one_hastens(said, tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in supervisor.SIGNALS]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    try:
        supervisor.raise_on_signals()
        with pytest.raises(StopAsked, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        watcher = Supervisor(say=said.append)
        program = stubborn(tmp_path)
        watcher.start(program)
        assert is_ready(program)
        monkeypatch.setattr(supervisor, "HASTE_SECONDS_MIN", 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        started = time.monotonic()
        watcher.stop()
        assert time.monotonic() - started < 10
        assert said == ["Not waiting for sleeper."]
    finally:
        for number, handler in zip(supervisor.SIGNALS, before, strict=True):
            signal.signal(number, handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_a_stop_that_comes_while_an_object_is_tidied_up_is_not_lost(monkeypatch):
    handlers = [(number, signal.getsignal(number)) for number in supervisor.SIGNALS]
    thrown_away: list[sys.UnraisableHookArgs] = []
    monkeypatch.setattr(sys, "unraisablehook", thrown_away.append)

    class Tidied:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # the handler runs before this returns

    def tidy_up_and_wait() -> None:
        del made[0]
        time.sleep(5)

    made = [Tidied()]
    try:
        supervisor.raise_on_signals()
        with pytest.raises(StopAsked, match="SIGTERM"):
            tidy_up_and_wait()
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert [type(lost.exc_value) for lost in thrown_away] == [StopAsked]
