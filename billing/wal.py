"""A proxy worker's own append-only file of what it dispatched, saw and charged: what makes the loss of Redis harmless.

A line is `<kind> <crc32> <JSON>\\n`; the checksum covers kind and JSON, so that a torn last line is recognised:

    H  the file: format, host, pid, segment
    D  a call is about to be sent to an engine (Dispatched: its hold and facts)
    P  its cumulative usage so far (Progress)
    S  its event, complete, with the charge: enough to settle it again (billing.events.Event)

Lines of one turn of the event loop leave in one write(2); a thread calls fdatasync every 200 ms. A file belongs to the
process that holds its flock, which the kernel frees at death; it gets its name only once locked. Calls dispatched in
one segment may settle in the next: read a worker's segments together, in order.

Where the folder takes no file (read-only, full, missing), a worker lives without one: it is not healthy, so it takes no
calls and holds none, and tries again until it has its file. It has no lease either, or a rebuild would wait for it:
its lease comes once it has a file and PostgreSQL takes it (assertion.py), and its calls after that.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from billing import crash
from billing.facts import Facts, Running

log = logging.getLogger(__name__)

FORMAT: Final = 1
SYNC_SECONDS: Final = 0.2
SEGMENT_BYTES_MAX: Final = 64 * 2**20

OWED_MAX: Final = 10_000
"""Charges that could not be written, kept until the disk takes lines again: until then Redis alone knows them."""

HEADER, DISPATCHED, PROGRESS, SETTLED = b"H", b"D", b"P", b"S"
_KINDS: Final = frozenset((HEADER, DISPATCHED, PROGRESS, SETTLED))


class WalUnavailable(Exception):
    """The line could not be written (disk full, read-only, error): take no new work. Running calls still settle."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    host: str
    pid: int
    worker: str
    segment: int


class Dispatched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    call_id: str
    organization_id: int
    key_id: int
    model_id: int
    engine_id: int | None = None
    day: str
    payer: str
    granted: int
    held_nanos: int
    facts: Facts


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    call_id: str
    running: Running


class Line(NamedTuple):
    kind: bytes
    payload: bytes


class Contents(NamedTuple):
    """What a file says. `torn`: the last line is unfinished, as a kill leaves it; `damaged`: lines elsewhere that do
    not agree with their checksum (a full disk leaves one)."""

    lines: list[Line]
    torn: bool
    damaged: int


def line(kind: bytes, payload: bytes) -> bytes:
    return b"%b %08x %b\n" % (kind, crc32(payload, crc32(kind)), payload)


def _parsed(raw: bytes) -> Line | None:
    kind, _, rest = raw.partition(b" ")
    digits, _, payload = rest.partition(b" ")
    if kind not in _KINDS or len(digits) != 8:
        return None
    try:
        checksum = int(digits, 16)
    except ValueError:
        return None
    return Line(kind, payload) if checksum == crc32(payload, crc32(kind)) else None


def read(path: Path) -> Contents:
    """Every whole line, in order, and what is wrong with the file: for who looks into one by hand."""
    lines: list[Line] = []
    damaged = 0
    *whole, last = path.read_bytes().split(b"\n")
    for raw in whole:
        found = _parsed(raw)
        if found is not None:
            lines.append(found)
        elif raw:
            damaged += 1
    return Contents(lines, torn=bool(last), damaged=damaged)


def lines(path: Path) -> Iterator[Line]:
    """Every whole line, in order, one after the other: a worker reads its own files beside its calls, which wait for no
    more than a line of it, and a segment need not fit in memory."""
    with path.open("rb") as file:
        for raw in file:
            found = _parsed(raw[:-1]) if raw.endswith(b"\n") else None
            if found is not None:
                yield found


def files(folder: Path) -> list[Path]:
    """All segments, each worker's in order."""
    return sorted(folder.glob("*.wal"))


def claim(path: Path) -> int | None:
    """The file's descriptor, locked, when its worker is dead and nobody else took it; close it to let go."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _opened(path: Path) -> int:
    """For writing where that may be: some network file systems lock nothing else."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class _Segment(NamedTuple):
    path: Path
    descriptor: int
    size: int
    """Bytes it began with."""


def _path(folder: Path, worker: str, number: int) -> Path:
    return folder / f"{worker}.{number:06d}.wal"


def _create(folder: Path, worker: str, number: int) -> _Segment:
    """Makes the folder too, which is this user's alone. OSError: there is neither a segment nor a beginning of one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(folder, worker, number)
    unnamed = path.with_suffix(".new")
    descriptor = os.open(unnamed, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        header = Header(format=FORMAT, host=socket.gethostname(), pid=os.getpid(), worker=worker, segment=number)
        first = line(HEADER, msgspec.json.encode(header))
        _write_all(descriptor, first)
        unnamed.rename(path)
    except BaseException:
        os.close(descriptor)
        unnamed.unlink(missing_ok=True)
        raise
    return _Segment(path, descriptor, len(first))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Wal:
    """The file of this process. All methods belong to the event loop's thread; only the sync thread is beside it."""

    def __init__(self, folder: Path) -> None:
        """With its folder and first segment, or not `healthy` until `probe` could make them."""
        self.folder = folder
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}"
        self._can_write = self._can_sync = True
        self._number = 1
        self._segment: _Segment | None = None
        self._size = 0
        """Of the segment, as far as its lines are good."""
        self._full: deque[int] = deque()
        """Segments that are written no more: the sync thread closes them, once they are on the disk."""
        self._is_torn = False
        self._lines: list[bytes] = []
        self._owed: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._scheduled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sync_forever, name="wal-sync", daemon=True)
        self._thread.start()
        self._write(b"")
        self.is_leased = False  # until its assertion has written the lease

    @property
    def has_file(self) -> bool:
        return self._segment is not None

    @property
    def path(self) -> Path:
        """The segment that is written, or the first one, that could not be made yet."""
        return _path(self.folder, self.worker, self._number)

    @property
    def healthy(self) -> bool:
        """False: take no new work."""
        return self._can_write and self._can_sync and self.is_leased

    def append(self, kind: bytes, payload: bytes) -> asyncio.Future[None]:
        """Resolved when the line is written (not yet on the disk); WalUnavailable when it could not be."""
        self.note(kind, payload)
        assert self._loop is not None
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def note(self, kind: bytes, payload: bytes) -> None:
        """Append without anybody waiting for it: it leaves with the next turn's lines."""
        self._lines.append(line(kind, payload))
        if not self._scheduled:
            self._scheduled = True
            if self._loop is None:
                self._loop = asyncio.get_running_loop()  # asked once: it costs a system call
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what the turn gathered, in one piece."""
        self._scheduled = False
        lines, self._lines = self._lines, []
        waiting, self._waiting = self._waiting, []
        error = self._write(b"".join(self._owed + lines)) if lines else None
        if error is not None:
            self._owed = [*self._owed, *(line for line in lines if line.startswith(SETTLED))][-OWED_MAX:]
            self._write_owed()
        if crash.is_armed("after_settle_line") and any(line.startswith(SETTLED) for line in lines):
            crash.at("after_settle_line")
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(WalUnavailable(str(error)))

    def _write(self, data: bytes) -> OSError | None:
        """`data` starts with what is owed."""
        error = self._append(data)
        if error is not None:
            if self._can_write:
                log.error("WAL %s cannot be written: %s. New calls are refused.", self.path, error)
            self._can_write = False
            return error
        if not self._can_write:
            log.warning("WAL %s can be written again.", self.path)
        self._can_write = True
        self._owed = []
        return None

    def _write_owed(self) -> None:
        """What the disk still takes of them: charges go first where not everything has room."""
        while self._owed and self._append(self._owed[0]) is None:
            del self._owed[0]

    def _append(self, data: bytes) -> OSError | None:
        """All of `data` or, as if it had never been, none: whoever hears that its line could not be written gives the
        call up, and a D line that stayed would be charged for as a call that went out."""
        try:
            segment = self._segment_for(len(data))
            if self._is_torn and not self._cut_back():
                _write_all(segment.descriptor, b"\n" + data)  # ends what is left of it, so that this can be read
                self._size = os.fstat(segment.descriptor).st_size
            else:
                _write_all(segment.descriptor, data)
                self._size += len(data)
        except OSError as error:
            self._is_torn = not self._cut_back()
            return error
        self._is_torn = False
        self._dirty.set()
        return None

    def _cut_back(self) -> bool:
        """To the last good line. False: a disk that does not even take that keeps what was written."""
        try:
            if self._segment is not None:
                os.ftruncate(self._segment.descriptor, self._size)
        except OSError:
            return False
        return True

    def _segment_for(self, size: int) -> _Segment:
        """The segment that takes `size` bytes: the first, the next, or as ever."""
        full = self._segment
        if full is not None and self._size + size <= SEGMENT_BYTES_MAX:
            return full
        number = self._number if full is None else self._number + 1
        segment = _create(self.folder, self.worker, number)
        self._number, self._size, self._is_torn = number, segment.size, False
        self._segment = segment
        if full is not None:
            self._full.append(full.descriptor)  # only now: the sync thread has no other use for it any more
            self._dirty.set()
        return segment

    def _sync(self) -> None:
        """In the sync thread, or after its end: nobody else closes a segment."""
        while self._full:
            os.fdatasync(self._full[0])
            os.close(self._full.popleft())
        if self._segment is not None:
            os.fdatasync(self._segment.descriptor)

    def _sync_forever(self) -> None:
        while not self._closing.wait(SYNC_SECONDS):
            if not self._dirty.is_set():
                continue
            self._dirty.clear()
            try:
                self._sync()
            except OSError as error:
                if self._can_sync:
                    log.error("WAL %s cannot be synced: %s. New calls are refused.", self.path, error)
                self._can_sync = False
                self._dirty.set()
            else:
                self._can_sync = True

    def probe(self) -> bool:
        """Whether lines can be written, where others find them; tries, when the last could not be."""
        self._leave_deleted()
        if not self._can_write and self._write(b"".join(self._owed) or b"\n") is not None:
            self._write_owed()
        return self.healthy

    def _leave_deleted(self) -> None:
        """A file that somebody deleted takes lines as ever, which nobody will read, and its worker counts as dead."""
        segment = self._segment
        if segment is None or os.fstat(segment.descriptor).st_nlink:
            return
        log.error("WAL %s was deleted under this worker, which begins another. What it said is lost.", segment.path)
        self._full.append(segment.descriptor)
        self._segment, self._is_torn, self._can_write = None, False, False
        self._number += 1

    def close(self) -> None:
        """Everything written and synced; the lock is let go. The file stays for whoever retires it."""
        self.flush()
        self._closing.set()
        self._thread.join()
        try:
            self._sync()
        finally:
            for descriptor in (*self._full, *([] if self._segment is None else [self._segment.descriptor])):
                os.close(descriptor)
