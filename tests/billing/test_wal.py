"""The worker's own file: whole lines or none, locked while its worker lives, and what a full disk does to it."""

import asyncio
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from billing import remains, wal
from billing.admission import StoreUnavailable
from billing.events import decode
from billing.usage import Usage
from billing.wal import Wal, WalUnavailable
from tests.billing.stage import Stage

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def log(wal_dir):
    found = Wal(wal_dir)
    found.is_leased = True  # as its assertion does
    yield found
    found.close()


def kinds(path):
    return b"".join(line.kind for line in wal.read(path).lines)


async def test_a_line_is_in_the_file_when_its_writer_goes_on(log):
    await log.append(wal.DISPATCHED, b'{"call_id":"x"}')
    assert kinds(log.path) == b"HD"
    assert wal.read(log.path).lines[1].payload == b'{"call_id":"x"}'


async def test_the_lines_of_one_turn_leave_in_one_write(log, monkeypatch):
    writes: list[int] = []
    real = os.write

    def counted(descriptor, data):
        writes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    log.note(wal.PROGRESS, b"{}")
    await asyncio.gather(*(log.append(wal.DISPATCHED, b'{"n":%d}' % n) for n in range(50)))
    assert len(writes) == 1
    assert kinds(log.path) == b"HP" + b"D" * 50


async def test_syncing_happens_beside_the_loop(log, monkeypatch):
    threads: list[str] = []
    done = threading.Event()

    def slow(descriptor):
        threads.append(threading.current_thread().name)
        done.wait(2)

    monkeypatch.setattr(os, "fdatasync", slow)
    await log.append(wal.DISPATCHED, b"{}")
    await asyncio.sleep(0.25)  # the thread hangs in it now
    started = asyncio.get_running_loop().time()
    await log.append(wal.DISPATCHED, b"{}")
    assert asyncio.get_running_loop().time() - started < 1
    done.set()
    assert set(threads) == {"wal-sync"}


async def test_a_torn_last_line_is_recognised_and_the_others_are_read(log):
    for number in range(3):
        await log.append(wal.SETTLED, b'{"n":%d}' % number)
    whole = log.path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(whole)):
        log.path.write_bytes(whole[:cut])
        found = wal.read(log.path)
        assert (len(found.lines), found.torn, found.damaged) == (3, True, 0), whole[last:cut]
    log.path.write_bytes(whole)
    assert not wal.read(log.path).torn


def test_a_segment_is_read_line_by_line(tmp_path):
    """A worker reads its own after an opening, while it serves."""
    progress = [
        b'{"call_id":"a","running":{"output":%d,"pad":"%b"}}' % (number, b"x" * 1000) for number in range(8_000)
    ]
    path = tmp_path / "a.000001.wal"
    path.write_bytes(b"".join(wal.line(wal.PROGRESS, payload) for payload in progress) + b"P 0000")
    tracemalloc.start()
    try:
        told = remains.told([path, tmp_path / "retired.wal"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert told["a"].progress == progress[-1]
    assert peak < path.stat().st_size / 8


async def test_a_changed_byte_is_recognised_anywhere(log):
    await log.append(wal.SETTLED, b'{"cost_nanos":38000}')
    whole = log.path.read_bytes()
    start = whole.index(b"S ")
    for place in range(start, len(whole) - 1):
        log.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = wal.read(log.path)
        assert [line for line in found.lines if line.kind == wal.SETTLED] == [], whole[place : place + 1]


async def test_a_living_workers_file_cannot_be_claimed_and_a_dead_ones_can(log):
    assert wal.claim(log.path) is None
    program = f"""
        import asyncio, os
        from pathlib import Path
        from billing import remains, wal
        async def main():
            log = wal.Wal(Path({str(log.folder)!r}))
            await log.append(wal.DISPATCHED, b"{{}}")
            print(log.path, flush=True)
            os.kill(os.getpid(), 9)
        asyncio.run(main())
    """
    died = run(program)
    assert died.returncode == -9
    path = Path(died.stdout.strip())
    descriptor = wal.claim(path)
    assert descriptor is not None
    assert wal.claim(path) is None  # one replayer
    os.close(descriptor)
    assert kinds(path) == b"HD"
    assert wal.claim(path.with_name("gone.wal")) is None


async def test_a_full_segment_is_followed_by_the_next(log, monkeypatch):
    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", 500)
    first = log.path
    for number in range(60):
        await log.append(wal.PROGRESS, b'{"number":%d}' % number)
    assert log.path != first
    assert len(wal.files(log.folder)) > 1
    lines = [line for path in wal.files(log.folder) for line in wal.read(path).lines]
    numbers = [json.loads(line.payload)["number"] for line in lines if line.kind != wal.HEADER]
    assert numbers == list(range(60))
    headers = [msgspec.json.decode(wal.read(path).lines[0].payload, type=wal.Header) for path in wal.files(log.folder)]
    assert [header.segment for header in headers] == list(range(1, len(headers) + 1))
    assert wal.claim(log.path) is None


async def test_a_failed_write_refuses_new_work_and_the_file_stays_readable(log, monkeypatch):
    real = os.write

    def full(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) - 10])  # some of it fits

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WalUnavailable, match="No space"):
        await log.append(wal.DISPATCHED, b'{"n":1, "long enough": true}')
    assert not log.healthy
    assert not log.probe()
    monkeypatch.setattr(os, "write", real)
    assert log.probe()
    await log.append(wal.DISPATCHED, b'{"n":2}')
    found = wal.read(log.path)
    assert [line.payload for line in found.lines[1:]] == [b'{"n":2}']
    assert (found.torn, found.damaged) == (False, 0)


def with_room(path, size):
    """os.write on a disk that is full when the file has grown by `size` bytes."""
    real, limit = os.write, path.stat().st_size + size

    def write(descriptor, data):
        left = limit - os.fstat(descriptor).st_size
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:left])

    return write


async def test_what_could_not_be_written_whole_leaves_nothing_but_charges(log, monkeypatch):
    """A D line that stayed would be taken for a call that went out, though its caller gave it up."""
    charge = wal.line(wal.SETTLED, b'{"n":2}')
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", with_room(log.path, 2 * len(charge) + 5))
        refused = [log.append(kind, b'{"n":%d}' % n) for n, kind in enumerate((b"D", b"D", b"S", b"D"))]
        outcomes = await asyncio.gather(*refused, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [WalUnavailable] * 4
        assert kinds(log.path) == b"HS"
        for number in range(3):
            log.note(wal.SETTLED, b'{"n":%d}' % number)
        log.flush()
        assert kinds(log.path) == b"HSS"
        assert not log.probe()
    assert log.probe()
    await log.append(wal.DISPATCHED, b"{}")
    found = wal.read(log.path)
    assert (kinds(log.path), found.torn, found.damaged) == (b"HSSSSD", False, 0)


async def test_a_file_that_cannot_be_cut_back_either_stays_readable(log, monkeypatch):
    def broken(descriptor, size):
        raise OSError(errno.EIO, "Input/output error")

    await log.append(wal.DISPATCHED, b'{"n":1}')
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", broken)
        for room in (20, 3):
            with patch.context() as full_disk:
                full_disk.setattr(os, "write", with_room(log.path, room))
                with pytest.raises(WalUnavailable):
                    await log.append(wal.PROGRESS, b'{"n":"long enough"}')
        await log.append(wal.DISPATCHED, b'{"n":2}')
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", with_room(log.path, 15))
        with pytest.raises(WalUnavailable):
            await log.append(wal.DISPATCHED, b'{"n":3}')
    await log.append(wal.DISPATCHED, b'{"n":4}')
    found = wal.read(log.path)
    assert [line.payload for line in found.lines[1:]] == [b'{"n":%d}' % n for n in (1, 2, 4)]
    assert (found.torn, found.damaged) == (False, 2)  # one line of each write that could not be undone


async def test_a_full_segment_is_synced_and_closed_beside_the_loop(log, monkeypatch):
    """On a slow disk that takes its time: calls do not wait for it."""
    synced, go_on, real = [], threading.Event(), os.fdatasync

    def slow(descriptor):
        synced.append((threading.current_thread().name, os.readlink(f"/proc/self/fd/{descriptor}")))
        go_on.wait(5)
        real(descriptor)

    monkeypatch.setattr(wal, "SEGMENT_BYTES_MAX", 400)
    open_before = len(os.listdir("/proc/self/fd"))
    await log.append(wal.DISPATCHED, b"{}")
    monkeypatch.setattr(os, "fdatasync", slow)
    await asyncio.sleep(0.25)  # the thread hangs in the first segment now
    started = asyncio.get_running_loop().time()
    for number in range(60):
        await log.append(wal.PROGRESS, b'{"number":%d}' % number)
    assert asyncio.get_running_loop().time() - started < 1
    go_on.set()
    for _ in range(100):
        if len(os.listdir("/proc/self/fd")) <= open_before:
            break
        await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= open_before
    assert {name for name, _ in synced} == {"wal-sync"}
    assert {path for _, path in synced} == {str(path) for path in wal.files(log.folder)}
    assert len(wal.files(log.folder)) > 3


def full(descriptor, data):
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_folder_that_cannot_be_made_is_tried_again(tmp_path, caplog):
    """Root may write everywhere, but not below a regular file."""
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    log = Wal(blocker / "wal")
    assert not log.healthy
    assert not log.probe()
    with pytest.raises(WalUnavailable):
        await log.append(wal.DISPATCHED, b"{}")
    assert remains.segments(log.folder, log.worker) == []
    assert remains.is_dead(log.folder, log.worker)
    assert [record.levelname for record in caplog.records] == ["ERROR"]  # said once
    blocker.unlink()
    assert not log.probe()
    assert log.has_file
    log.is_leased = True  # as its assertion does
    assert log.probe()
    await log.append(wal.DISPATCHED, b'{"n":1}')
    assert kinds(log.path) == b"HD"
    assert not remains.is_dead(log.folder, log.worker)
    log.close()
    assert remains.is_dead(log.folder, log.worker)


async def test_a_full_disk_leaves_no_beginning_of_a_file_and_no_descriptor(wal_dir, monkeypatch):
    open_before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log = Wal(wal_dir)
        for _ in range(3):
            assert not log.probe()
        assert list(wal_dir.iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) == open_before
    log.probe()
    log.is_leased = True
    assert log.probe()
    assert kinds(log.path) == b"H"
    assert wal.claim(log.path) is None
    log.close()


async def test_a_worker_that_never_had_a_file_stops(wal_dir, monkeypatch):
    monkeypatch.setattr(os, "write", full)
    log = Wal(wal_dir)
    log.close()
    assert list(wal_dir.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_file_that_was_deleted_under_its_worker_is_followed_by_another(log, what):
    await log.append(wal.SETTLED, b'{"call_id":"a"}')
    first = log.path
    if what == "file":
        first.unlink()
    else:
        shutil.rmtree(log.folder)
    assert log.probe()
    await log.append(wal.SETTLED, b'{"call_id":"b"}')
    assert log.path != first
    assert wal.files(log.folder) == [log.path]
    assert [line.payload for line in wal.read(log.path).lines[1:] if line.kind == wal.SETTLED] == [b'{"call_id":"b"}']
    assert not remains.is_dead(log.folder, log.worker)


async def test_a_disk_that_does_not_sync_refuses_new_work(log, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    await log.append(wal.DISPATCHED, b"{}")
    await asyncio.sleep(0.5)
    assert not log.healthy
    monkeypatch.undo()
    await asyncio.sleep(0.5)
    assert log.healthy


async def test_lines_carry_what_a_replay_needs(redis_connection, wal_dir, settings):
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL) as s:
        hold = await s.reserve(stream=True, address="192.0.2.1")
        await s.admission.dispatched(hold, 3)
        s.admission.progress(hold, Usage(input=90, output=5), "running")
        await asyncio.sleep(0)
        await s.settle(hold, agent="\ud800 torn letters", metadata={"a": "b"})
        await s.admission.drain(5)
        lines = {line.kind: line.payload for line in wal.read(s.wal.path).lines}
        dispatched = msgspec.json.decode(lines[b"D"], type=wal.Dispatched)
        given = dispatched.facts
        assert (dispatched.call_id, dispatched.engine_id, dispatched.held_nanos) == (hold.call_id, 3, 420_000)
        assert (given.stream, given.address, given.rates["output_picos"]) == (True, "192.0.2.1", 400_000)
        progress = msgspec.json.decode(lines[b"P"], type=wal.Progress)
        assert (progress.call_id, progress.running.usage().output) == (hold.call_id, 5)
        event = decode(lines[b"S"])
        assert (event.call_id, event.cost_nanos, event.day) == (hold.call_id, 38_000, hold.day)
        (entry,) = s.entries()
        assert lines[b"S"].decode() == entry["e"]


async def test_a_call_that_another_engine_took_over_is_that_engines_if_its_worker_dies(
    redis_connection, wal_dir, settings
):
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL) as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 3)
        await s.admission.dispatched(hold, 4)
        await asyncio.sleep(0)
        lapsed = remains.told([s.wal.path])[hold.call_id].event(0)
        assert lapsed is not None
        assert (lapsed.engine_id, lapsed.cost_nanos, lapsed.usage_source) == (4, 0, "none")


async def test_progress_is_written_now_and_then(redis_connection, wal_dir, settings):
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL) as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 3)
        for number in range(200):
            s.admission.progress(hold, Usage(input=90, output=number))
        await asyncio.sleep(0)
        assert kinds(s.wal.path) == b"HDP"
        await asyncio.sleep(0.3)
        s.admission.progress(hold, Usage(input=90, output=300))
        await s.settle(hold)
        assert kinds(s.wal.path) == b"HDPPS"


async def test_without_a_wal_new_calls_are_refused_and_running_ones_settle_in_redis(
    redis_connection, wal_dir, settings, monkeypatch
):
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL) as s:
        running, undispatched = await s.reserve(), await s.reserve()
        await s.admission.dispatched(running, 1)

        def full(descriptor, data):
            raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StoreUnavailable):
                await s.admission.dispatched(undispatched, 1)
            await s.admission.void(undispatched)
            with pytest.raises(StoreUnavailable, match="WAL"):
                await s.reserve()
            charge = await s.settle(running)
            assert s.account()["bal"] == 10**12 - charge.cost_nanos  # it waited for Redis
        assert (await s.reserve()).granted == 1000


async def test_a_call_cancelled_while_its_d_line_is_written_has_its_event(redis_connection, wal_dir, settings):
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL) as s:
        hold = await s.reserve()
        dispatching = asyncio.ensure_future(s.admission.dispatched(hold, 1))
        await asyncio.sleep(0)
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
        assert kinds(s.wal.path) == b"HD"
        await s.admission.void(hold)
        await s.admission.drain(5)
        assert kinds(s.wal.path) == b"HDS"
        assert [decode(entry["e"].encode()).cost_nanos for entry in s.entries()] == [0]


DISK_FULL = """
    import asyncio, resource, sys
    from pathlib import Path
    import redis
    from tests.billing.stage import Stage, limit
    from billing.admission import StoreUnavailable

    async def main(url, folder):
        sync = redis.Redis.from_url(url)
        async with Stage(sync, Path(folder), url, balance=10**12) as s:
            holds = [await s.reserve() for _ in range(6)]
            holds, given_up = holds[:3], holds[3:]
            for hold in holds:
                before = s.wal.path.stat().st_size
                await s.admission.dispatched(hold, 1)
            size = s.wal.path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + (size - before) * 3 // 2, resource.RLIM_INFINITY))
            outcomes = await asyncio.gather(
                *(s.admission.dispatched(hold, 1) for hold in given_up), return_exceptions=True
            )
            print("not sent:", *(type(outcome).__name__ for outcome in outcomes))
            for hold in given_up:
                await s.admission.void(hold)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
            charges = [await s.settle(hold) for hold in holds]
            try:
                await s.reserve()
            except StoreUnavailable as refused:
                print("refused:", refused)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            again = await s.reserve()
            await s.settle(again)
            await s.admission.drain(5)
            charged = sum(charge.cost_nanos for charge in charges)
            print("charged:", charged, 10**12 - s.account()["bal"], len(s.entries()))
            print("file:", s.wal.path)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_disk_that_is_full_loses_no_charge(redis_connection, wal_dir, settings):
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert soft == resource.RLIM_INFINITY
    done = run(DISK_FULL, settings.REDIS_URL, str(wal_dir))
    assert done.returncode == 0, done.stderr
    not_sent, refused, charged, file = done.stdout.strip().splitlines()
    assert not_sent == "not sent:" + 3 * " StoreUnavailable"
    assert refused == "refused: the WAL cannot be written"
    assert charged == f"charged: {3 * 38_000} {4 * 38_000} 4"
    found = wal.read(Path(file.removeprefix("file: ")))
    assert b"".join(line.kind for line in found.lines) == b"HDDDSSSDS"  # what could not be written follows
    assert found.damaged == 0


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "tests.settings"},
    )
