"""One trial: rounds in which nginx and the proxy take turns on the same load, so that whatever else the machine does
falls on both. What is compared is a round's own pair; what is reported is the median over rounds, and the spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from billing import script
from billing.models import UsageEvent
from keys.connections import redis_client
from portal.stores.children import wait_until
from tests.speed import load
from tests.speed.customer import Customers
from tests.speed.load import STREAMED, WHOLE, Burst, Streams, Target
from tests.speed.programs import Pace, Programs, asked, cpu_seconds, family_cpu_seconds

BOOKED_SECONDS_MAX = 60.0
PAUSE_SECONDS = 0.3
MANY, FEW = 64, 8
"""Connections: for throughput, and for latency."""
ENGINE_ROOM_MIN = 5.0


class Plan(NamedTuple):
    """`seconds` are those of each burst of whole calls."""

    rounds: int
    seconds: int
    stream_rounds: int
    limit_rounds: int
    pace: Pace
    connections: tuple[int, ...] = (MANY, FEW)
    warm_up_seconds: int = 1


USUAL = Plan(
    rounds=3,
    seconds=4,
    stream_rounds=2,
    limit_rounds=3,
    pace=Pace(streams=300, spread_s=2.0, chunks=50, interval_ms=80),
)
SHORT = Plan(
    rounds=1,
    seconds=1,
    stream_rounds=1,
    limit_rounds=1,
    pace=Pace(streams=20, spread_s=0.2, chunks=5, interval_ms=20),
    connections=(MANY,),
    warm_up_seconds=0,
)
"""Only shows that everything works: its figures mean nothing."""


@dataclass
class Side:
    """nginx or the proxy: how to reach it, which processes its CPU is read of, and what each round brought."""

    target: Target
    pids: list[int]
    bursts: dict[int, list[Burst]] = field(default_factory=lambda: {MANY: [], FEW: []})
    cpu_us: dict[int, list[float]] = field(default_factory=lambda: {MANY: [], FEW: []})
    """Per call, by connections."""
    streams: list[Streams] = field(default_factory=list)
    chunk_cpu_us: list[float] = field(default_factory=list)


@dataclass
class Behind:
    """What stands behind the proxy, per call at MANY connections: a value for each round."""

    redis_cpu_us: list[float] = field(default_factory=list)
    script_us: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    """Calls per run of the script; each takes two steps, so that one alone makes half a call per run."""
    books_cpu_us: list[float] = field(default_factory=list)
    """Journal process and PostgreSQL, until the round's last call is booked."""


@dataclass
class Limited:
    """Whole calls at MANY connections of a customer with so many limits: a value for each round, CPU in µs per call."""

    limits: int
    target: Target
    bursts: list[Burst] = field(default_factory=list)
    worker_cpu_us: list[float] = field(default_factory=list)
    redis_cpu_us: list[float] = field(default_factory=list)
    script_us: list[float] = field(default_factory=list)
    """As Redis itself says (INFO commandstats, EVALSHA)."""

    @property
    def cpu_us(self) -> list[float]:
        """Of worker and Redis together."""
        return [worker + redis for worker, redis in zip(self.worker_cpu_us, self.redis_cpu_us, strict=True)]


@dataclass
class Results:
    plan: Plan
    nginx: Side
    proxy: Side
    few_limits: Limited
    many_limits: Limited
    behind: Behind = field(default_factory=Behind)
    engine_alone: list[Burst] = field(default_factory=list)
    asked: dict[str, int] = field(default_factory=lambda: {WHOLE: 0, STREAMED: 0})
    """By model: what its engine was asked for through the proxy."""
    answered: int = 0
    """Whole calls whose answer a client of the proxy had."""
    events: dict[str, int] = field(default_factory=dict)
    """By model: what was metered and booked."""
    left: dict[str, int] = field(default_factory=lambda: {WHOLE: 0, STREAMED: 0})
    """By model: those among them whose client left before anything came, as wrk does at the end of a burst. Whether the
    engine was asked for them is open: they cost nothing."""
    unlike: int = 0
    """Events that do not say what the engine has made."""

    @property
    def is_metered(self) -> bool:
        told = all(booked - self.left[model] <= self.asked[model] <= booked for model, booked in self.events.items())
        return told and self.answered <= self.events[WHOLE] - self.left[WHOLE]

    @property
    def is_whole(self) -> bool:
        return all(run.whole == run.begun for run in self.nginx.streams + self.proxy.streams)

    @property
    def errors(self) -> int:
        bursts = [*self.engine_alone]
        for side in (self.nginx, self.proxy):
            bursts += side.bursts[MANY] + side.bursts[FEW]
        bursts += self.few_limits.bursts + self.many_limits.bursts
        return sum(burst.errors for burst in bursts)

    @property
    def engine_room(self) -> float:
        """How many times the proxy's rate the engine alone can do; below ENGINE_ROOM_MIN it is the engine that was
        measured, and the run is void."""
        ours = median(burst.rate for burst in self.proxy.bursts[MANY])
        return median(burst.rate for burst in self.engine_alone) / ours


class Trial:
    def __init__(self, plan: Plan, programs: Programs, customers: Customers, folder: Path) -> None:
        ports = programs.ports
        self._plan = plan
        self._programs = programs
        self._folder = folder
        self._redis = redis_client()
        self._shards = {customer.shard for customer in customers}
        self._engine = Target(ports.engine, "/v1/chat/completions", "", {})
        self._engine_ports = {WHOLE: ports.engine, STREAMED: ports.paced}
        ours = [
            Target(ports.proxy, customer.path, customer.path, {"authorization": f"Bearer {customer.secret}"})
            for customer in customers
        ]
        bare = ours[0]._replace(
            port=ports.gateway, whole_path="/whole/v1/chat/completions", streamed_path="/streamed/v1/chat/completions"
        )
        self.results = Results(
            plan,
            Side(bare, programs.gateway),
            Side(ours[0], programs.proxy),
            few_limits=Limited(customers.few_limits.limits, ours[1]),
            many_limits=Limited(customers.many_limits.limits, ours[2]),
        )

    def run(self, tell: Callable[[str], None]) -> Results:
        results, plan = self.results, self._plan
        if plan.warm_up_seconds:
            tell("Warming up")
            self._warm_up()
        for number in range(plan.rounds):
            tell(f"Whole calls, round {number + 1} of {plan.rounds}")
            results.engine_alone.append(self._burst(self._engine, MANY))
            for connections in plan.connections:
                for side in self._in_turn(number):
                    self._whole(side, connections)
        for number in range(plan.limit_rounds):
            tell(f"Few and many limits, round {number + 1} of {plan.limit_rounds}")
            sides = [results.few_limits, results.many_limits]
            for limited in sides if number % 2 == 0 else sides[::-1]:
                self._limited(limited)
        for number in range(plan.stream_rounds):
            tell(f"Streams, round {number + 1} of {plan.stream_rounds}")
            for side in self._in_turn(number):
                self._streams(side)
        self._read_books()
        return results

    def _in_turn(self, number: int) -> list[Side]:
        sides = [self.results.nginx, self.results.proxy]
        return sides if number % 2 == 0 else sides[::-1]

    # bursts -------------------------------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Not measured, but metered like the rest."""
        for side in (self.results.nginx, self.results.proxy):
            with self._counted(side):
                burst = load.whole(side.target, self._folder, connections=MANY, seconds=self._plan.warm_up_seconds)
                self._note_answers(side, burst)
                load.streams(side.target, self._plan.pace._replace(streams=10, spread_s=0.1))

    def _burst(self, target: Target, connections: int) -> Burst:
        time.sleep(PAUSE_SECONDS)
        return load.whole(target, self._folder, connections=connections, seconds=self._plan.seconds)

    def _whole(self, side: Side, connections: int) -> None:
        with self._counted(side):
            before, spent = self._behind(), cpu_seconds(side.pids)
            burst = self._burst(side.target, connections)
            side.cpu_us[connections].append((cpu_seconds(side.pids) - spent) * 1e6 / max(1, burst.answers))
            side.bursts[connections].append(burst)
            self._note_answers(side, burst)
            if side is self.results.proxy and connections == MANY:
                self._note_behind(before, max(1, burst.answers))

    def _limited(self, limited: Limited) -> None:
        proxy = self.results.proxy
        with self._counted(proxy):
            before, spent = self._behind(), cpu_seconds(proxy.pids)
            burst = self._burst(limited.target, MANY)
            calls, after = max(1, burst.answers), self._behind()
            limited.worker_cpu_us.append((cpu_seconds(proxy.pids) - spent) * 1e6 / calls)
            limited.redis_cpu_us.append((after[0] - before[0]) * 1e6 / calls)
            limited.script_us.append((after[2] - before[2]) / calls)
            limited.bursts.append(burst)
            self._note_answers(proxy, burst)

    def _note_answers(self, side: Side, burst: Burst) -> None:
        if side is self.results.proxy:
            self.results.answered += burst.answers

    def _streams(self, side: Side) -> None:
        pace = self._plan.pace
        with self._counted(side):
            time.sleep(PAUSE_SECONDS)
            spent = cpu_seconds(side.pids)
            side.streams.append(load.streams(side.target, pace))
            side.chunk_cpu_us.append((cpu_seconds(side.pids) - spent) * 1e6 / (pace.streams * pace.chunks))

    @contextmanager
    def _counted(self, side: Side) -> Iterator[None]:
        """Adds up what the engines were asked for through the proxy; ends when all of it has left the journal, so that
        no round pays for another."""
        if side is self.results.nginx:
            yield
            return
        time.sleep(PAUSE_SECONDS)  # what wrk left on its way to the engine, past the proxy
        before = self._asked()
        yield
        time.sleep(PAUSE_SECONDS)  # what wrk left in the sockets
        self._wait_until_drained()
        for model, count in self._asked().items():
            own_question = 1 if model == WHOLE else 0  # nginx counts being asked
            self.results.asked[model] += count - before[model] - own_question

    def _asked(self) -> dict[str, int]:
        """Without the health questions that the proxy asks of nginx beside the calls."""
        counts = {model: asked(port) for model, port in self._engine_ports.items()}
        counts[WHOLE] -= (self._folder / "probes.log").read_bytes().count(b"\n")
        return counts

    # behind the proxy -----------------------------------------------------------------------------------------------

    def _behind(self) -> tuple[float, float, float, float]:
        """So far: CPU of Redis, CPU of journal and PostgreSQL, µs and number of script runs."""
        stats: dict[str, Any] = self._redis.info("commandstats").get("cmdstat_evalsha", {"usec": 0, "calls": 0})
        books = cpu_seconds(self._programs.journal) + family_cpu_seconds(self._programs.postmaster)
        return cpu_seconds([self._programs.redis]), books, stats["usec"], stats["calls"]

    def _note_behind(self, before: tuple[float, float, float, float], calls: int) -> None:
        redis_s, _, script_us, runs = (now - then for now, then in zip(self._behind(), before, strict=True))
        self._wait_until_drained()
        behind = self.results.behind
        behind.redis_cpu_us.append(redis_s * 1e6 / calls)
        behind.script_us.append(script_us / calls)
        behind.batch.append(calls / max(1, runs))
        behind.books_cpu_us.append((self._behind()[1] - before[1]) * 1e6 / calls)

    def _wait_until_drained(self) -> None:
        if not wait_until(self._is_drained, within_seconds=BOOKED_SECONDS_MAX, every_seconds=0.1):
            raise RuntimeError("the journal does not come to its end")

    def _is_drained(self) -> bool:
        return not any(
            self._redis.xlen(script.name(shard, script.JOURNAL)) or self._redis.zcard(script.name(shard, script.LEASES))
            for shard in self._shards
        )

    def _read_books(self) -> None:
        results = self.results
        wait_until(self._all_booked, within_seconds=BOOKED_SECONDS_MAX, every_seconds=0.2)
        streamed = UsageEvent.objects.filter(stream=True)
        made = {"end_reason": "stop", "usage_source": "final", "output_tokens": results.plan.pace.chunks}
        results.unlike = streamed.exclude(**made).count()

    def _all_booked(self) -> bool:
        results = self.results
        for model, stream in ((WHOLE, False), (STREAMED, True)):
            events = UsageEvent.objects.filter(stream=stream)
            results.events[model] = events.count()
            results.left[model] = events.filter(end_reason="client_gone", usage_source="none").count()
        return results.is_metered
