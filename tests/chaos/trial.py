"""One run: an installation, customers, changes and faults; then quiet, and what the books say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import connection

from billing import script
from billing.money import nanos
from keys.caller import SHARDS
from portal.demo.engine import DemoEngine
from portal.stores.place import PROJECT_DIR
from tests.chaos.changes import Changes
from tests.chaos.faults import Breaker, Fault, plan
from tests.chaos.load import Customer, Load
from tests.chaos.sent import SentTimes
from tests.chaos.stores import Stores
from tests.chaos.verdict import Books, Verdict, judge
from tests.chaos.world import World, event_loop
from tests.inference import Inference, served
from tests.proxy.shop import Shop

LOOK_SECONDS: Final = 0.05
TELL_SECONDS: Final = 5.0
QUIET_SECONDS_MAX: Final = 150.0
RECONCILE_SECONDS_MAX: Final = 120.0
LIMITED: Final = "metered"
CREDITS: Final = {"rich": "1000", "thrifty": "0.02", "poor": "0.004", LIMITED: "1"}
"""Units of money that customers begin with; the poor run out of it between grants."""

Tell = Callable[[str], None]


@dataclass
class Report:
    seed: int
    seconds: float
    replays: bool
    load: Load
    verdict: Verdict
    begun: list[Fault]
    changes: Counter[str]
    wires: Counter[str]
    served_after_revocation: int
    reconcile: list[str]
    left: list[str] = field(default_factory=list)
    """What was not at rest after the quiet."""

    @property
    def is_good(self) -> bool:
        wrong = self.served_after_revocation + len(self.load.refused_wrongly)
        return not (self.verdict.findings or wrong or self.reconcile or self.left)


def run(stores: Stores, *, seed: int, seconds: float, replays: bool, tell: Tell) -> Report:
    """The load goes on for `seconds`, or until every fault that the seed plans has happened. `replays`: see World."""
    with event_loop() as loop:
        world = World(stores, loop, seed=seed, replays=replays)
        try:
            return _trial(world, seed=seed, seconds=seconds, tell=tell)
        finally:
            world.close()


def _trial(world: World, *, seed: int, seconds: float, tell: Tell) -> Report:
    with served(timed := SentTimes(DemoEngine())) as engine_port:
        inference = Inference(timed.engine, engine_port)
        shop = Shop(inference, world.store())
        customers = _customers(shop, seconds)
        world.start_programs()
        ports = [proxy.port for proxy in world.proxies]
        _wait(lambda: all(world.is_ready(name) for name in world.programs), 60, "the programs' start", world)
        load = Load(list(customers.values()), ports, seed)
        changes = Changes(customers, shop.models["aion-v3"], ports, seed)
        for organization_id, customer in customers.items():
            changes.granted[organization_id] = nanos(CREDITS[customer.name])
        breaker = Breaker(world, plan(seed, seconds))
        tell(f"{len(breaker.faults)} faults in {seconds:g} s, seed {seed}")
        world.in_loop(load.start())
        changes.start()
        _break(world, breaker, load, seconds, tell)
        breaker.mend()
        return _ended(world, timed, load, changes, breaker, seed=seed, seconds=seconds, tell=tell)


def _customers(shop: Shop, seconds: float) -> dict[int, Customer]:
    """By organization's id. One is on a tier whose tokens of a day run out in the middle of the run."""
    limits = (
        {"unit": "tokens", "window": "day", "amount": _tokens_of_a_day(seconds)},
        {"unit": "concurrent", "window": "minute", "amount": 4},
        {"unit": "requests", "window": "minute", "scope": "key", "amount": 100_000},
    )
    found = {}
    for name, credit in CREDITS.items():
        made = shop.customer(*(limits if name == LIMITED else ()), credit=credit)
        found[made.organization.id] = Customer(name, made.organization.id, made.issued.secret)
    return found


def _tokens_of_a_day(seconds: float) -> int:
    return int(seconds * 150)


def _break(world: World, breaker: Breaker, load: Load, seconds: float, tell: Tell) -> None:
    began = told_at = time.monotonic()
    while (now := time.monotonic() - began) < seconds or breaker.left:
        breaker.step(now)
        world.look()
        if time.monotonic() - told_at > TELL_SECONDS:
            told_at = time.monotonic()
            broken = breaker.now_broken
            tell(
                f"{now:5.0f} s  {len(load.seen):6} calls, {load.running:2} running, {len(breaker.begun):4} faults"
                + (f"; now broken: {broken}" if broken else "")
            )
        time.sleep(LOOK_SECONDS)


def _ended(
    world: World,
    timed: SentTimes,
    load: Load,
    changes: Changes,
    breaker: Breaker,
    *,
    seed: int,
    seconds: float,
    tell: Tell,
) -> Report:
    tell("Everything is mended; waiting until nothing runs")
    world.soon(lambda: setattr(load, "is_over", True))
    _watch(world, lambda: load.running == 0, QUIET_SECONDS_MAX)
    changes.stop()
    left = _come_to_rest(world)
    connection.close()  # PostgreSQL has been away since it was opened
    reconcile = reconcile_deep()
    limited = {each.organization_id: _tokens_of_a_day(seconds) for each in load.customers if each.name == LIMITED}
    verdict = judge(
        timed.log(),
        load.seen,
        Books.read(),
        deaths={proxy.port: proxy.deaths for proxy in world.proxies},
        priced=changes.priced,
        granted=changes.granted,
        limited=limited,
    )
    return Report(
        seed=seed,
        seconds=seconds,
        replays=world.replays,
        load=load,
        verdict=verdict,
        begun=breaker.begun,
        changes=changes.done,
        wires=world.redis_wire.done + Counter({"PostgreSQL " + k: n for k, n in world.postgresql_wire.done.items()}),
        served_after_revocation=changes.served_after_revocation,
        reconcile=reconcile,
        left=left,
    )


def _come_to_rest(world: World) -> list[str]:
    """Holds end, streams are read, then proxies and journal are ended in order; what did not happen."""
    left = []
    if not world.replays:
        world.end_leases()  # nobody will replay what they were held for
    if not _watch(world, lambda: not open_ends(world), QUIET_SECONDS_MAX):
        left += open_ends(world)
    for proxy in world.proxies:
        if not world.stop_program(proxy.name):
            left.append(f"{proxy.name} had to be killed")
    if not _watch(world, lambda: not list(world.wal_dir.glob("*.wal")), QUIET_SECONDS_MAX):
        left += [f"{path.name} was not retired" for path in world.wal_dir.glob("*.wal")]
    for name in ("worker", "journal"):
        if not world.stop_program(name):
            left.append(f"{name} had to be killed")
    return left


def open_ends(world: World) -> list[str]:
    """Shards that are closed, holds, and entries that are not booked."""
    store, found = world.store(), []
    if not world.is_open():
        found.append("shards are closed")
    if holds := sum(len(script.read_holds(store, shard)) for shard in range(SHARDS)):
        found.append(f"{holds} holds stand")
    if unread := sum(int(store.xlen(script.name(shard, script.JOURNAL))) for shard in range(SHARDS)):
        found.append(f"{unread} entries are not booked")
    return found


def reconcile_deep() -> list[str]:
    """The lines of `manage.py reconcile --deep`, when it finds a difference."""
    done = subprocess.run(
        [sys.executable, "manage.py", "reconcile", "--deep"],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=RECONCILE_SECONDS_MAX,
        check=False,
    )
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()


def _watch(world: World, true: Callable[[], Any], within_seconds: float) -> bool:
    """Whether it came true in time; what dies meanwhile is started again."""
    until = time.monotonic() + within_seconds
    while not true():
        if time.monotonic() > until:
            return False
        world.look()
        time.sleep(LOOK_SECONDS)
    return True


def _wait(true: Callable[[], Any], within_seconds: float, what: str, world: World) -> None:
    if not _watch(world, true, within_seconds):
        raise AssertionError(f"{what}: not in {within_seconds} s; logs are in {world.place.logs}")
