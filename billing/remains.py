"""What dead workers left in the WAL folder of this host: whose files may be claimed, what they tell, when they may go.

A worker holds the flock of its newest segment from before it has its name until the kernel takes it at death, and makes
the next segment before it lets the last one go. So a worker is dead when its newest segment can be locked and no newer
one has come: older segments say nothing about it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from billing import events, wal
from billing.events import Event
from billing.facts import Held, Running, event_of_lapsed
from keys.caller import shard_of

LOCK_NAME: Final = "replay.lock"
POLL_SECONDS: Final = 0.05
PID_BYTES_MAX: Final = 20


class _Named(msgspec.Struct):
    call_id: str


class _Placed(msgspec.Struct):
    organization_id: int


_placed: Final = msgspec.json.Decoder(_Placed).decode
_call_id: Final = msgspec.json.Decoder(_Named).decode
_dispatched: Final = msgspec.json.Decoder(wal.Dispatched).decode
_progress: Final = msgspec.json.Decoder(wal.Progress).decode


@dataclass(slots=True)
class Told:
    """What lines say of one call: its D line, its last P line, its S line. Empty: there is none."""

    dispatched: bytes = b""
    progress: bytes = b""
    settled: bytes = b""

    def shard(self) -> int | None:
        """None: no line says."""
        try:
            return shard_of(_placed(self.settled or self.dispatched).organization_id)
        except msgspec.DecodeError:
            return None

    def event(self, now_ms: int) -> Event | None:
        """What its worker charged; else, of a call that was sent to an engine, what was last heard. None: the lines
        do not say enough, because its first ones have been retired: the call is booked."""
        if self.settled:
            return events.decode(self.settled)
        if not self.dispatched:
            return None
        line = _dispatched(self.dispatched)
        held = Held(
            line.call_id,
            line.organization_id,
            line.key_id,
            line.model_id,
            line.day,
            line.payer,
            line.granted,
            line.held_nanos,
        )
        running = _progress(self.progress).running if self.progress else Running(engine_id=line.engine_id)
        return event_of_lapsed(held, line.facts, running, now_ms)


def told(paths: Iterable[Path]) -> dict[str, Told]:
    """By call id; segments of one worker in order."""
    found: defaultdict[str, Told] = defaultdict(Told)
    for path in paths:
        with suppress(FileNotFoundError):  # retired by somebody else meanwhile
            for line in wal.lines(path):
                if line.kind != wal.HEADER:
                    _hear(found[_call_id(line.payload).call_id], line)
    return dict(found)


def _hear(call: Told, line: wal.Line) -> None:
    if line.kind == wal.DISPATCHED:
        call.dispatched = line.payload
    elif line.kind == wal.PROGRESS:
        call.progress = line.payload
    else:
        call.settled = line.payload


@dataclass(frozen=True, slots=True)
class Remains:
    """All segments of a dead worker; its newest one is locked by us."""

    worker: str
    paths: tuple[Path, ...]
    descriptor: int

    def calls(self) -> dict[str, Told]:
        return told(self.paths)

    def delete(self) -> None:
        for path in self.paths:  # the newest last: while it is there, the others are known to be a dead worker's
            path.unlink(missing_ok=True)


@contextmanager
def dead(folder: Path) -> Iterator[list[Remains]]:
    """Every dead worker's files, claimed as long as the block runs; files of the living are left alone."""
    claimed: list[Remains] = []
    try:
        for worker in _by_worker(folder):
            remains = _claimed(folder, worker)
            if remains is not None:
                claimed.append(remains)
        yield claimed
    finally:
        for remains in claimed:
            os.close(remains.descriptor)


def full_segments(folder: Path) -> list[Path]:
    """Segments of living workers that are written no more."""
    return [path for paths in _by_worker(folder).values() for path in paths[:-1] if not _is_free(paths[-1])]


def worker_of(path: Path) -> str:
    return path.name.removesuffix(".wal").rpartition(".")[0]


def segments(folder: Path, worker: str) -> list[Path]:
    return _by_worker(folder).get(worker, [])


def is_dead(folder: Path, worker: str) -> bool:
    """Whether a worker of this host is gone: it has no file, or one that nobody holds."""
    paths = segments(folder, worker)
    return not paths or _is_free(paths[-1])


@contextmanager
def alone(folder: Path, wait_seconds: float = 0.0) -> Iterator[bool]:
    """One replayer per host: False when another is at work, and still is after `wait_seconds`. A folder that takes no
    file (read-only, full) is locked itself: what lies in it can be read all the same. Its holder's death frees the
    lock. OSError: there is no folder."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_ours = _locked(descriptor, time.monotonic() + wait_seconds)
        if is_ours:
            _sign(descriptor)
        yield is_ours
    finally:
        os.close(descriptor)


def replayer(folder: Path, wait_seconds: float) -> str:
    """Who is at work in `alone`, and still is after `wait_seconds`: its process id, "unknown" where the lock could not
    be signed; empty: nobody. Makes no file: whoever looks may be another user. OSError: there is no folder."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _locked(descriptor, time.monotonic() + wait_seconds):
            return ""
        with suppress(OSError):
            return os.pread(descriptor, PID_BYTES_MAX, 0).decode("ascii", "replace").strip() or "unknown"
        return "unknown"
    finally:
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """For whoever wants to know whom the others wait for. A disk that takes nothing is no reason not to work."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _locked(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def _by_worker(folder: Path) -> dict[str, list[Path]]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in wal.files(folder):
        found[worker_of(path)].append(path)
    return dict(found)


def _claimed(folder: Path, worker: str) -> Remains | None:
    paths = _by_worker(folder).get(worker)
    if not paths:
        return None
    descriptor = wal.claim(paths[-1])
    if descriptor is None:
        return None
    again = _by_worker(folder).get(worker, [])
    if again != paths:  # it lives, and has gone on to its next segment
        os.close(descriptor)
        return None
    return Remains(worker, tuple(paths), descriptor)


def _is_free(path: Path) -> bool:
    descriptor = wal.claim(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
