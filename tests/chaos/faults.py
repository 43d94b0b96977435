"""What goes wrong, when, and for how long: drawn from a seed before anything starts."""

from __future__ import annotations

import heapq
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from billing import script, wal
from keys.caller import SHARDS
from tests.chaos.world import PROXIES, ProxyProgram, World

GAP_SECONDS: Final = (0.6, 5.0)
"""From one fault's beginning to the next one's. Where a target was waited for, later faults make up for it, down to the
least gap."""
READY_SECONDS_MAX: Final = 90.0
ALONE_SECONDS: Final = 1.5
"""After a fault that is alone: its worker has tried its disk again, and written what it owed."""
WIRE: Final = {"lose": 0.15, "late": 0.1, "double": 0.2}
SET_BACK_SECONDS: Final = 1.5
TORN: Final = b'S 0123abcd {"call_id":"0199'

End = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """`at`: seconds from the start. `target`: what it breaks, which must be there when it begins."""

    at: float
    kind: Kind
    target: str
    seconds: float


class Kind(NamedTuple):
    """`begin` breaks something and returns what mends it after `seconds`, drawn between the two bounds. `alone`: until
    a moment after its end nothing else is broken. `bites`: whether it would do anything just now; else it waits, so
    that no fault is counted that was none."""

    name: str
    targets: tuple[str, ...]
    seconds: tuple[float, float]
    begin: Callable[[World, Fault], End]
    alone: bool = False
    bites: Callable[[World, str], bool] = lambda world, target: True


def _nothing() -> None:
    pass


def _proxy(world: World, fault: Fault) -> ProxyProgram:
    return _proxy_named(world, fault.target)


def _proxy_named(world: World, name: str) -> ProxyProgram:
    program = world.programs[name]
    assert isinstance(program, ProxyProgram)
    return program


# proxies


def _kill_worker(world: World, fault: Fault) -> End:
    proxy = _proxy(world, fault)
    pid = proxy.worker()
    world.forget_files(proxy)
    if pid is not None:
        proxy.kill_worker(pid)
    return _nothing


def _kill_worker_and_tear(world: World, fault: Fault) -> End:
    """As a write that was not finished leaves the file."""
    proxy = _proxy(world, fault)
    files, pid = proxy.files(), proxy.worker()
    world.forget_files(proxy)
    if pid is None:
        return _nothing
    proxy.kill_worker(pid)
    with suppress(FileNotFoundError):
        descriptor = os.open(files[-1], os.O_WRONLY | os.O_APPEND)  # never made anew when it has been retired
        os.write(descriptor, TORN)
        os.close(descriptor)
    return _nothing


def _kill_proxy(world: World, fault: Fault) -> End:
    proxy = _proxy(world, fault)
    world.forget_files(proxy)
    proxy.kill(fault.seconds)
    return _nothing


def _stop_proxy(world: World, fault: Fault) -> End:
    proxy = _proxy(world, fault)
    pid = proxy.worker()
    if pid is None:
        return _nothing
    proxy.stop_worker(pid)
    return lambda: proxy.wake_worker(pid)


def _stop_proxy_past_its_leases(world: World, fault: Fault) -> End:
    """Its running calls' leases are set to have ended, as if it had slept for a minute."""
    proxy = _proxy(world, fault)
    end = _stop_proxy(world, fault)
    pipe = world.store().pipeline(transaction=False)
    for call in _running_calls(proxy):
        pipe.zadd(script.name(call.organization_id % SHARDS, script.LEASES), {call.call_id: 1}, xx=True)
    pipe.execute(raise_on_error=False)
    return end


def _has_calls(world: World, target: str) -> bool:
    return bool(_running_calls(_proxy_named(world, target)))


def _running_calls(proxy: ProxyProgram) -> list[wal.Dispatched]:
    running: dict[str, wal.Dispatched] = {}
    for path in proxy.files():
        for line in wal.read(path).lines:
            if line.kind == wal.DISPATCHED:
                call = msgspec.json.decode(line.payload, type=wal.Dispatched)
                running[call.call_id] = call
            elif line.kind == wal.SETTLED:
                running.pop(msgspec.json.decode(line.payload)["call_id"], None)
    return list(running.values())


def _end_proxy(world: World, fault: Fault) -> End:
    proxy = _proxy(world, fault)
    os.kill(proxy.pid, signal.SIGTERM)
    return _nothing


def _fill_disk(world: World, fault: Fault) -> End:
    """The worker can make no file longer than its log is now."""
    proxy = _proxy(world, fault)
    files, pid = proxy.files(), proxy.worker()
    if pid is None:
        return _nothing
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with suppress(ProcessLookupError, FileNotFoundError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (files[-1].stat().st_size, resource.RLIM_INFINITY))

    def end() -> None:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

    return end


# journal and Celery


def _kill_program(world: World, fault: Fault) -> End:
    world.programs[fault.target].kill(fault.seconds)
    return _nothing


def _stop_program(world: World, fault: Fault) -> End:
    pid = world.programs[fault.target].pid
    os.kill(pid, signal.SIGSTOP)
    return lambda: _continue(pid)


def _end_program(world: World, fault: Fault) -> End:
    os.kill(world.programs[fault.target].pid, signal.SIGTERM)
    return _nothing


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


# Redis


def _kill_redis(world: World, fault: Fault) -> End:
    return _restart_redis(world, signal.SIGKILL, _nothing)


def _end_redis(world: World, fault: Fault) -> End:
    return _restart_redis(world, signal.SIGTERM, _nothing)


def _wipe_redis(world: World, fault: Fault) -> End:
    return _restart_redis(world, signal.SIGKILL, world.forget_redis)


def _set_redis_back(world: World, fault: Fault) -> End:
    """The end of its append-only file is gone, as after a loss of power."""

    def cut() -> None:
        size = world.file_size_before(SET_BACK_SECONDS)
        if size is not None:
            os.truncate(world.append_only_file, size)

    return _restart_redis(world, signal.SIGKILL, cut)


def _has_written(world: World, target: str) -> bool:
    """Lately: there is something to lose."""
    size = world.file_size_before(SET_BACK_SECONDS)
    return size is not None and world.append_only_file.stat().st_size > size


def _restart_redis(world: World, how: signal.Signals, meanwhile: Callable[[], None]) -> End:
    child = world.redis.child
    assert child is not None
    world.stores_wanted["redis"] = False
    child.send_signal(how)
    child.wait(30)
    meanwhile()

    def end() -> None:
        world.redis.start()
        world.stores_wanted["redis"] = True

    return end


def _flush_redis(world: World, fault: Fault) -> End:
    world.store().flushall()
    return _nothing


def _stop_redis(world: World, fault: Fault) -> End:
    child = world.redis.child
    assert child is not None
    pid = child.pid
    world.stores_wanted["redis"] = False
    os.kill(pid, signal.SIGSTOP)

    def end() -> None:
        _continue(pid)
        world.stores_wanted["redis"] = True

    return end


def _sleep_redis(world: World, fault: Fault) -> End:
    wire = socket.socket(socket.AF_UNIX)
    wire.connect(str(world.place.redis_socket))
    wire.sendall(b"DEBUG SLEEP %.1f\r\n" % fault.seconds)
    return wire.close


# PostgreSQL


def _end_postgresql_at_once(world: World, fault: Fault) -> End:
    return _restart_postgresql(world, signal.SIGQUIT)


def _kill_postgresql(world: World, fault: Fault) -> End:
    return _restart_postgresql(world, signal.SIGKILL)


def _restart_postgresql(world: World, how: signal.Signals) -> End:
    child = world.postgresql.child
    assert child is not None
    world.stores_wanted["postgresql"] = False
    child.send_signal(how)
    child.wait(30)

    def end() -> None:
        world.postgresql.start()
        world.stores_wanted["postgresql"] = True

    return end


# wires


def _trouble_wire(world: World, fault: Fault, trouble: str) -> End:
    world.soon(lambda: setattr(world.redis_wire, trouble, WIRE[trouble]))
    return lambda: world.soon(lambda: setattr(world.redis_wire, trouble, 0.0))


def _cut_postgresql(world: World, fault: Fault) -> End:
    """The journal's connections: in the middle of a commit, if it so happens. Replies are lost for a while, too."""
    world.soon(world.postgresql_wire.cut)
    world.soon(lambda: setattr(world.postgresql_wire, "lose", 0.05))
    return lambda: world.soon(world.postgresql_wire.calm)


def _lose_everything(world: World, fault: Fault) -> End:
    """Redis and all who might remember: what is left are PostgreSQL and the write-ahead logs."""
    for proxy in world.proxies:
        world.forget_files(proxy)
        proxy.kill(fault.seconds)
    world.programs["journal"].kill(fault.seconds)
    return _wipe_redis(world, fault)


_PROXY = tuple(f"proxy {number}" for number in range(PROXIES))
KINDS: Final[tuple[Kind, ...]] = (
    Kind("proxy worker killed", _PROXY, (0, 0), _kill_worker),
    Kind("proxy worker killed, torn line", _PROXY, (0, 0), _kill_worker_and_tear),
    Kind("proxy killed, master too", _PROXY, (0, 2), _kill_proxy),
    Kind("proxy stopped and continued", _PROXY, (0.5, 4), _stop_proxy),
    Kind("proxy stopped past its leases", _PROXY, (7, 10), _stop_proxy_past_its_leases, bites=_has_calls),
    Kind("proxy ended (SIGTERM)", _PROXY, (0, 0), _end_proxy),
    # What a proxy settles while its disk takes no line is in Redis alone: no design survives the loss of both.
    Kind("proxy's disk full", _PROXY, (1, 4), _fill_disk, alone=True),
    Kind("journal killed", ("journal",), (0, 3), _kill_program),
    Kind("journal stopped and continued", ("journal",), (1, 6), _stop_program),
    Kind("journal ended (SIGTERM)", ("journal",), (0, 0), _end_program),
    Kind("Celery killed", ("worker",), (0, 3), _kill_program),
    Kind("Redis killed", ("redis",), (0, 2), _kill_redis),
    Kind("Redis ended (SIGTERM)", ("redis",), (0, 1), _end_redis),
    Kind("Redis wiped", ("redis",), (0, 2), _wipe_redis),
    Kind("Redis set back by seconds", ("redis",), (0, 1), _set_redis_back, bites=_has_written),
    Kind("Redis flushed", ("redis",), (0, 0), _flush_redis),
    Kind("Redis stopped and continued", ("redis",), (0.5, 5), _stop_redis),
    Kind("Redis asleep", ("redis",), (1, 4), _sleep_redis),
    Kind("PostgreSQL ended at once", ("postgresql",), (0, 3), _end_postgresql_at_once),
    Kind("PostgreSQL killed", ("postgresql",), (0, 2), _kill_postgresql),
    Kind("replies of Redis lost", ("wire",), (1, 3), lambda world, fault: _trouble_wire(world, fault, "lose")),
    Kind("replies of Redis late", ("wire",), (1, 3), lambda world, fault: _trouble_wire(world, fault, "late")),
    Kind("commands to Redis twice", ("wire",), (1, 4), lambda world, fault: _trouble_wire(world, fault, "double")),
    Kind("journal cut off PostgreSQL", ("postgresql wire",), (0.5, 2), _cut_postgresql),
    Kind("Redis wiped, all killed", ("redis",), (0, 1), _lose_everything),
)
SLEEP = Kind("proxy stopped for 70 s", _PROXY, (70, 75), _stop_proxy)
"""Past its leases by the clock: in long runs only."""
SLEEP_EVERY_SECONDS: Final = 200.0
LATE_SECONDS: Final = 10.0
"""How much later than planned a fault may begin, as far as plans reckon with it."""


def plan(seed: int, seconds: float) -> list[Fault]:
    """Each kind once, in a drawn order, then all again; as many as begin within `seconds`. While a proxy sleeps it is
    no other fault's target, and nothing happens that would have to wait for its end."""
    luck = random.Random(seed)
    bag: list[Kind] = []
    found: list[Fault] = []
    at, sleeper, sleep_at, awake_at = 1.0, "", SLEEP_EVERY_SECONDS / 2, 0.0
    while at < seconds:
        if at > sleep_at and at + SLEEP.seconds[1] < seconds:
            kind, sleep_at = SLEEP, sleep_at + SLEEP_EVERY_SECONDS
        else:
            kind = _drawn(bag, luck, may_be_alone=at > awake_at)
        targets = [target for target in kind.targets if at > awake_at or target != sleeper]
        found.append(Fault(at, kind, luck.choice(targets), luck.uniform(*kind.seconds)))
        if kind is SLEEP:
            sleeper, awake_at = found[-1].target, at + found[-1].seconds + LATE_SECONDS
        at += luck.uniform(*GAP_SECONDS)
    return found


def _drawn(bag: list[Kind], luck: random.Random, *, may_be_alone: bool) -> Kind:
    if not any(may_be_alone or not kind.alone for kind in bag):
        bag += luck.sample(KINDS, len(KINDS))
    place = next(place for place in reversed(range(len(bag))) if may_be_alone or not bag[place].alone)
    return bag.pop(place)


@dataclass
class Breaker:
    """Lets a plan happen. A fault waits until its target is there, so that the number of faults never depends on the
    machine; later ones wait with it."""

    world: World
    faults: Sequence[Fault]
    begun: list[Fault] = field(default_factory=list)
    _ends: list[tuple[float, int, str, End]] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)
    _last_at: float = 0.0
    _alone_until: float = 0.0

    @property
    def left(self) -> int:
        return len(self.faults) - len(self.begun)

    @property
    def now_broken(self) -> str:
        return ", ".join(sorted(self._busy))

    def step(self, now: float) -> None:
        """`now`: seconds from the start."""
        while self._ends and self._ends[0][0] <= now:
            _, _, target, end = heapq.heappop(self._ends)
            end()
            self._busy.discard(target)
        if not self.left:
            return
        fault = self.faults[len(self.begun)]
        due = max(fault.at, self._last_at + GAP_SECONDS[0])
        if now < due:
            return
        if not self._may_begin(fault, now):
            if now > due + READY_SECONDS_MAX:
                raise AssertionError(f"{fault.target} is not there after {READY_SECONDS_MAX} s: {fault}")
            return
        self._last_at = now
        end = fault.kind.begin(self.world, fault)
        self._busy.add(fault.target)
        if fault.kind.alone:
            self._alone_until = now + fault.seconds + ALONE_SECONDS
        heapq.heappush(self._ends, (now + fault.seconds, len(self.begun), fault.target, end))
        self.begun.append(fault)

    def _may_begin(self, fault: Fault, now: float) -> bool:
        if now < self._alone_until or fault.target in self._busy or not self.world.is_ready(fault.target):
            return False
        if not fault.kind.bites(self.world, fault.target):
            return False
        return not fault.kind.alone or (not self._busy and self.world.is_open())

    def mend(self) -> None:
        """Everything, now."""
        for _, _, _, end in sorted(self._ends, key=lambda item: item[:2]):
            end()
        self._ends.clear()
        self._busy.clear()
        for wire in (self.world.redis_wire, self.world.postgresql_wire):
            self.world.soon(wire.calm)
        time.sleep(0.1)
