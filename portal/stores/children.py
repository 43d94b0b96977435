"""Processes we start: a session of their own, death with their parent, and an ordered end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOG_BYTES_MAX = 10_000_000
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: the child may not take the loader's lock


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Run in the child: ask the kernel for `number` when the thread that forked us ends."""
    _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:  # the parent was gone before the kernel knew
        os._exit(1)


def spawn(
    argv: Sequence[str | Path],
    *,
    log: Path,
    death_signal: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child in its own session (Ctrl-C in a terminal does not reach it), its output appended to `log`.

    Call it from the main thread: the kernel's parent-death signal watches the thread that forked.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _set_aside_when_long(log)
    parent = os.getpid()
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(death_signal, parent),  # noqa: PLW1509 (two system calls, no locks)
        )


def _set_aside_when_long(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".log.1"))


def stop(child: subprocess.Popen[bytes], number: signal.Signals, *, within_seconds: float) -> bool:
    """Signal, wait, and kill what is left of the child's session. True when it went by itself."""
    if child.poll() is None:
        child.send_signal(number)
    try:
        child.wait(within_seconds)
        went = True
    except subprocess.TimeoutExpired:
        went = False
    kill_session(child.pid)
    child.wait()
    return went


def kill_session(leader: int) -> None:
    """End every process of a session we made. A session's number is not reused while it has members."""
    for pid in session_members(leader):
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def session_members(leader: int) -> list[int]:
    return [pid for pid in _pids() if session_of(pid) == leader]


def session_of(pid: int) -> int | None:
    """None for a process that is gone, and for a zombie, which holds nothing any more."""
    fields = _facts(pid)
    return int(fields[3]) if fields else None


def children_of(parent: int) -> list[int]:
    """Its living children."""
    return [pid for pid in _pids() if (fields := _facts(pid)) and int(fields[1]) == parent]


def _facts(pid: int) -> list[str]:
    """What the kernel says of a living process, from its state on: parent, group, session, …"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    fields = text.rpartition(")")[2].split()
    return [] if fields[0] in ("Z", "X") else fields


def servers_in(folder: Path, program: str) -> list[int]:
    """Living processes of `program` whose working directory is `folder`, which is where PostgreSQL and Redis go to live
    with their data. (Somebody's shell may stand there too, and is none of ours.)"""
    found = []
    for pid in _pids():
        try:
            there = Path(f"/proc/{pid}/cwd").readlink()
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        if there == folder and name == program and session_of(pid) is not None:
            found.append(pid)
    return found


def with_environment(name: str, value: str) -> list[int]:
    """Living processes, of ours to look into, that were started with NAME=value."""
    wanted = os.fsencode(f"{name}={value}")
    found = []
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and session_of(pid) is not None:
            found.append(pid)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def wait_until(true: Callable[[], bool], *, within_seconds: float, every_seconds: float = 0.02) -> bool:
    deadline = time.monotonic() + within_seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_seconds)
    return True


def end_leftovers(folder: Path, program: str, number: signal.Signals, *, within_seconds: float) -> None:
    """Servers of a crashed run that still work in `folder`: asked first, then killed."""
    for attempt in (number, signal.SIGKILL):
        for pid in servers_in(folder, program):
            try:
                os.kill(pid, attempt)
            except ProcessLookupError:
                continue
        if wait_until(lambda: not servers_in(folder, program), within_seconds=within_seconds):
            return


def last_lines(log: Path, count: int = 15) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""
