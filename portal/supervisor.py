"""`manage.py up`: keeps the processes of one installation alive, and stops them in order.

A child that dies is named in the terminal with the end of its log, and started again after a pause that grows while it
keeps dying. Stopping goes from the door inwards: proxies, journal, Celery, demo engine, then Redis and PostgreSQL, so
that whoever writes finds what it writes to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from portal.stores import StoresError, children

PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 60.0  # a child that lived this long has its next pause short again
WATCH_SECONDS = 0.2
HASTE_SECONDS_MIN = 1.0  # make, and a kill of the whole group, send one wish to stop as two signals
ASK_AGAIN_SECONDS = 0.05
MARK = "GATEWAY_UP_IN"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopAsked(BaseException):
    """SIGTERM, Ctrl-C or a closed terminal. Not an Exception: nothing that handles errors may swallow it."""


class Service(Protocol):
    """What the supervisor keeps alive."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def start(self) -> None: ...

    def ended(self) -> str | None:
        """How it ended ("exit status 1", "SIGKILL"), or None while it runs."""

    def stop(self) -> None: ...

    def session(self) -> int | None: ...

    def pid(self) -> int | None: ...


@dataclass
class Program:
    """A child that is one command. Killed when the supervisor dies, so that its port and its locks are free at once."""

    name: str
    argv: Sequence[str | Path]
    log: Path
    stop_seconds: float
    stop_signal: signal.Signals = signal.SIGTERM
    mark: str = ""
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | ({MARK: self.mark} if self.mark else {})
        self.child = children.spawn(self.argv, log=self.log, environment=environment)

    def ended(self) -> str | None:
        return _how_it_ended(self.child)

    def stop(self) -> None:
        if self.child is not None:
            children.stop(self.child, self.stop_signal, within_seconds=self.stop_seconds)
            self.child = None

    def session(self) -> int | None:
        return self.pid()

    def pid(self) -> int | None:
        return None if self.child is None else self.child.pid


class Server(Protocol):
    """PostgreSQL or Redis of portal.stores."""

    log: Path
    child: subprocess.Popen[bytes] | None

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Store:
    """A store server as a service. It clears its own leftovers when it starts."""

    name: str
    server: Server

    @property
    def log(self) -> Path:
        return self.server.log

    def start(self) -> None:
        self.server.start()

    def ended(self) -> str | None:
        return _how_it_ended(self.server.child)

    def stop(self) -> None:
        self.server.stop()

    def session(self) -> int | None:
        return None

    def pid(self) -> int | None:
        return None if self.server.child is None else self.server.child.pid


def _how_it_ended(child: subprocess.Popen[bytes] | None) -> str | None:
    if child is None:
        return "not started"
    status = child.poll()
    if status is None:
        return None
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


@dataclass
class _Watched:
    service: Service
    pause_seconds: float = PAUSE_SECONDS_MIN
    started_at: float = 0.0
    due_at: float | None = None  # set while it waits to be started again


class Supervisor:
    """Start order is the order of `start` calls; stop order is the reverse, unless `stop_order` says otherwise. `note`
    gets the process ids of all that run, by name, whenever one has been started."""

    def __init__(
        self,
        *,
        say: Callable[[str], None],
        note: Callable[[dict[str, int]], None] = lambda pids: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.say = say
        self.note = note
        self.clock = clock
        self.watched: list[_Watched] = []

    # Starting

    def start(self, service: Service) -> None:
        self.watched.append(entry := _Watched(service))
        self._start(entry)

    def _start(self, entry: _Watched) -> None:
        entry.due_at = None
        entry.started_at = self.clock()
        try:
            entry.service.start()
        except (StoresError, OSError) as error:
            self.say(f"{entry.service.name} could not be started: {error}")
        pids = {entry.service.name: entry.service.pid() for entry in self.watched}
        self.note({name: pid for name, pid in pids.items() if pid is not None})

    # Watching

    def watch(self, *, until: Callable[[], bool] = lambda: False, within_seconds: float | None = None) -> bool:
        """Keep everything alive until `until()` holds (True) or the time is over (False)."""
        deadline = None if within_seconds is None else self.clock() + within_seconds
        while not until():
            self.look()
            if deadline is not None and self.clock() > deadline:
                return False
            time.sleep(WATCH_SECONDS)
        return True

    def look(self) -> None:
        """One round: note who died, start who is due."""
        now = self.clock()
        for entry in self.watched:
            if entry.due_at is not None:
                if now >= entry.due_at:
                    self._start(entry)
                continue
            how = entry.service.ended()
            if how is not None:
                self._note_death(entry, how, now)

    def _note_death(self, entry: _Watched, how: str, now: float) -> None:
        if now - entry.started_at >= STEADY_SECONDS:
            entry.pause_seconds = PAUSE_SECONDS_MIN
        leader = entry.service.session()
        if leader is not None:
            children.kill_session(leader)  # what it started may still hold its port
        entry.due_at = now + entry.pause_seconds
        self.say(
            f"{entry.service.name} ended ({how}); starting it again in {entry.pause_seconds:g} s."
            f" {entry.service.log} ends with:\n{_indented(children.last_lines(entry.service.log, 8))}"
        )
        entry.pause_seconds = min(entry.pause_seconds * 2, PAUSE_SECONDS_MAX)

    # Stopping

    def stop(self, order: Sequence[str] = ()) -> None:
        """Stop what `order` names first, in that order, then the rest, last started first. A second signal meanwhile
        ends the wait for the one that is being stopped."""
        rank = {name: place for place, name in enumerate(order)}
        last_first = list(reversed(self.watched))
        for entry in sorted(last_first, key=lambda entry: rank.get(entry.service.name, len(rank))):
            self._stop(entry)
        self.watched = []

    def _stop(self, entry: _Watched) -> None:
        leader = entry.service.session()
        try:
            entry.service.stop()
        except StopAsked:
            self.say(f"Not waiting for {entry.service.name}.")
            if leader is not None:
                children.kill_session(leader)
            entry.service.stop()


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def end_leftovers(mark: str) -> None:
    """Kill what a run whose supervisor was killed left behind, known by the mark in its environment."""
    children.wait_until(lambda: not _kill_all(children.with_environment(MARK, mark)), within_seconds=10)


def _kill_all(pids: list[int]) -> list[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def raise_on_signals() -> None:
    """Make SIGTERM, Ctrl-C and a closed terminal raise StopAsked in the main thread."""
    asked_at = [-HASTE_SECONDS_MIN]

    def ask(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - asked_at[-1] >= HASTE_SECONDS_MIN:
            asked_at.append(time.monotonic())
            raise StopAsked(signal.Signals(number).name)

    def ask_again(lost: sys.UnraisableHookArgs) -> None:
        """What is raised while Python tidies an object up is thrown away; a wish to stop must not be."""
        told(lost)
        if isinstance(lost.exc_value, StopAsked):
            asked_at[:] = [-HASTE_SECONDS_MIN]
            again = threading.Timer(ASK_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
            again.daemon = True
            again.start()

    told, sys.unraisablehook = sys.unraisablehook, ask_again
    for number in SIGNALS:
        signal.signal(number, ask)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
