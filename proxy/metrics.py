"""A dozen numbers about this worker and its fellows, for Prometheus.

On a call's way a metric is an entry of a dict. Every second a worker writes its numbers to a file of its own below
VAR_DIR; whoever is asked for /metrics adds up all files. Files of the dead keep their counts and lose their gauges.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from redis.exceptions import RedisError

from billing import script
from billing.engine_counters import FINDINGS
from billing.reconcile_books import LAST
from billing.snapshot import EngineRecord
from keys.caller import SHARDS
from proxy.call import Call
from proxy.meter import Measured
from proxy.refusals import Problem

WRITE_SECONDS = 1.0
SECONDS_MAX = 2.0
ADDED_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
DURATION_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

COUNTERS = {
    "gateway_calls": ("Settled calls.", ("endpoint", "end_reason")),
    "gateway_test_calls": ("Calls of test keys, which are in no other number.", ("endpoint", "end_reason")),
    "gateway_tokens": ("Metered tokens; cached ones are part of input.", ("kind",)),
    "gateway_refusals": ("Requests answered with an error.", ("reason", "status")),
    "gateway_limit_refusals": ("Refusals by the limit that stood in the way.", ("unit", "window", "scope")),
    "gateway_session_turns": ("Calls with a session_id, by what became of their turns.", ("outcome",)),
    "gateway_engine_failures": ("Exchanges with engines that failed.", ("engine", "kind")),
}
HISTOGRAMS = {
    "gateway_added_seconds": ("From a request's arrival to its dispatch.", ADDED_S),
    "gateway_first_token_seconds": ("From a request's arrival to its first token.", FIRST_TOKEN_S),
    "gateway_call_seconds": ("From a request's arrival to its settlement.", DURATION_S),
}

_INPUT, _CACHED, _OUTPUT, _REASONING = ("input",), ("cached",), ("output",), ("reasoning",)


class Metrics:
    def __init__(self, folder: Path, gauges: Callable[[], dict[str, Any]]) -> None:
        self._folder = folder
        self._gauges = gauges
        self._path = folder / f"{os.getpid()}-{time.time_ns()}.json"
        self._counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in COUNTERS}
        self._buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in HISTOGRAMS.items()}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        with contextlib.suppress(OSError):  # as in `write`
            self._folder.mkdir(parents=True, exist_ok=True)
            _fold_the_dead(self._folder)
        self._writing = asyncio.get_running_loop().create_task(self._write_forever(), name="proxy: metrics")

    async def stop(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        self.write()

    # what happens on a call's way ---------------------------------------------------------------------------------

    def dispatched(self, call: Call) -> None:
        call.sent_at = time.perf_counter()
        self._observe("gateway_added_seconds", call.sent_at - call.began)

    def settled(self, call: Call, measured: Measured) -> None:
        self._count("gateway_calls", (call.endpoint.name, measured.end_reason))
        usage = measured.usage
        if usage.output:
            self._count("gateway_tokens", _OUTPUT, usage.output)
        if usage.input or usage.cache_read or usage.cache_write:
            self._count("gateway_tokens", _INPUT, usage.prompt_tokens)
        if usage.cache_read:
            self._count("gateway_tokens", _CACHED, usage.cache_read)
        if usage.reasoning:
            self._count("gateway_tokens", _REASONING, usage.reasoning)
        if call.first_token_at:
            self._observe("gateway_first_token_seconds", call.first_token_at - call.began)
        self._observe("gateway_call_seconds", time.perf_counter() - call.began)

    def turn_ended(self, outcome: str) -> None:
        self._count("gateway_session_turns", (outcome,))

    def refused(self, call: Call, problem: Problem) -> None:
        self._count("gateway_refusals", (problem.reason.value, str(problem.status)))
        if problem.quota is not None:
            quota = problem.quota
            self._count("gateway_limit_refusals", (quota.unit, quota.window, quota.scope))

    def engine_failed(self, engine: EngineRecord, kind: str) -> None:
        self._count("gateway_engine_failures", (engine.name, kind))

    def _count(self, name: str, labels: tuple[str, ...], amount: int = 1) -> None:
        counts = self._counts[name]
        counts[labels] = counts.get(labels, 0) + amount

    def _observe(self, name: str, seconds: float) -> None:
        self._buckets[name][bisect_left(HISTOGRAMS[name][1], seconds)] += 1
        self._sums[name] += seconds

    # files --------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        counts = {name: [[*labels, n] for labels, n in counts.items()] for name, counts in self._counts.items()}
        numbers = {"pid": os.getpid(), "counts": counts, "buckets": self._buckets, "sums": self._sums}
        numbers["gauges"] = self._gauges()
        temporary = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk is the WAL's affair to tell
            temporary.write_bytes(orjson.dumps(numbers))
            temporary.replace(self._path)

    async def _write_forever(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(WRITE_SECONDS)

    async def exposition(self, redis: Any) -> bytes:
        """Everything as Prometheus reads it: this worker's numbers as of now, its fellows' as of a second ago."""
        self.write()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_All([numbers for _, numbers in _files(self._folder)], await _of_the_books(redis)))
        return generate_latest(registry)


def _fold_the_dead(folder: Path) -> None:
    """Workers that are gone share one file of counts, so that restarts do not leave files without end."""
    with (folder / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        dead = [(path, numbers) for path, numbers in _files(folder) if not _is_alive(numbers["pid"])]
        if len(dead) < 2:
            return
        past = _Sums([numbers for _, numbers in dead])
        folded = {"pid": 0, "gauges": {}, **past.as_numbers()}
        kept = folder / "past.json"
        kept.with_suffix(".new").write_bytes(orjson.dumps(folded))
        for path, _ in dead:
            path.unlink()
        kept.with_suffix(".new").replace(kept)


def _files(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            found.append((path, orjson.loads(path.read_bytes())))
    return found


class _Sums:
    """The counts of several workers, added up. A metric that an older release did not have counts from nought."""

    def __init__(self, files: Iterable[dict[str, Any]]) -> None:
        self.counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in COUNTERS}
        self.buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in HISTOGRAMS.items()}
        self.sums = dict.fromkeys(HISTOGRAMS, 0.0)
        for numbers in files:
            self._add(numbers)

    def _add(self, numbers: dict[str, Any]) -> None:
        for name, sums in self.counts.items():
            for *labels, amount in numbers["counts"].get(name, ()):
                sums[tuple(labels)] = sums.get(tuple(labels), 0) + amount
        for name, buckets in self.buckets.items():
            more = numbers["buckets"].get(name, ())
            if len(more) == len(buckets):
                self.buckets[name] = [a + b for a, b in zip(buckets, more, strict=True)]
                self.sums[name] += numbers["sums"].get(name, 0.0)

    def as_numbers(self) -> dict[str, Any]:
        counts = {name: [[*labels, n] for labels, n in sums.items()] for name, sums in self.counts.items()}
        return {"counts": counts, "buckets": self.buckets, "sums": self.sums}


async def _of_the_books(redis: Any) -> list[Metric]:
    """What Redis knows of the journal and of the last reconcile; nothing when it cannot be asked."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            waiting = sum([int(await redis.xlen(script.name(shard, script.JOURNAL))) for shard in range(SHARDS)])
            last = await redis.hgetall(LAST)
            findings = await redis.get(FINDINGS)
    except (RedisError, OSError, TimeoutError):
        return []
    found: list[Metric] = [
        GaugeMetricFamily("gateway_journal_entries", "Settled calls on their way to PostgreSQL.", waiting)
    ]
    if findings is not None:
        text = "Intervals over which an engine's own counters contradict what was metered, not resolved."
        found.append(GaugeMetricFamily("gateway_engine_findings", text, int(findings)))
    if last:
        text = "Differences that the last complete reconcile found."
        found.append(GaugeMetricFamily("gateway_reconcile_differences", text, int(last[b"differences"])))
    return found


class EngineNow(NamedTuple):
    """What this host's workers make of an engine. `is_well` None: none of them has used it lately."""

    in_flight: int = 0
    is_reached: bool = True
    is_well: bool | None = None


def engines_now(folder: Path) -> dict[int, EngineNow] | None:
    """By engine id, as of a second ago; None where no worker of this host is alive to tell."""
    alive = [numbers["gauges"] for _, numbers in _files(folder) if _is_alive(numbers["pid"])]
    if not alive:
        return None
    found: dict[int, EngineNow] = {}
    for gauges in alive:
        for id, calls in gauges["in_flight"].items():
            now = found.get(int(id), EngineNow())
            found[int(id)] = now._replace(in_flight=now.in_flight + calls)
        for id, (_, healthy) in gauges["healthy"].items():
            now = found.get(int(id), EngineNow())
            found[int(id)] = now._replace(is_well=bool(healthy) and now.is_well is not False)
        for id in gauges["unreachable"]:
            found[int(id)] = found.get(int(id), EngineNow())._replace(is_reached=False, is_well=False)
    return found


class _All(Collector):
    def __init__(self, files: list[dict[str, Any]], books: list[Metric]) -> None:
        self._sums = _Sums(files)
        self._alive = [numbers["gauges"] for numbers in files if _is_alive(numbers["pid"])]
        self._books = books

    def collect(self) -> Iterable[Metric]:
        for name, (text, labels) in COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=labels)
            for values, amount in sorted(self._sums.counts[name].items()):
                family.add_metric(values, amount)
            yield family
        for name, (text, bounds) in HISTOGRAMS.items():
            yield self._histogram(name, text, bounds)
        yield from self._gauges()
        yield from self._books

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Metric:
        running, buckets = 0, []
        for bound, amount in zip((*map(str, bounds), "+Inf"), self._sums.buckets[name], strict=True):
            running += amount
            buckets.append((bound, running))
        family = HistogramMetricFamily(name, text)
        family.add_metric([], buckets, self._sums.sums[name])
        return family

    def _gauges(self) -> Iterable[Metric]:
        alive = self._alive
        in_flight: dict[str, int] = {}
        for gauges in alive:
            for engine, calls in gauges["in_flight"].items():
                in_flight[engine] = in_flight.get(engine, 0) + calls
        family = GaugeMetricFamily("gateway_engine_in_flight", "Calls on an engine now.", labels=("engine_id",))
        for engine, calls in sorted(in_flight.items()):
            family.add_metric((engine,), calls)
        yield family
        unreachable = {engine for gauges in alive for engine in gauges["unreachable"]}
        text = "1: a worker could not reach the engine in the last seconds."
        family = GaugeMetricFamily("gateway_engine_unreachable", text, labels=("engine_id",))
        for engine in sorted(unreachable):
            family.add_metric((str(engine),), 1)
        yield family
        well: dict[tuple[str, str], int] = {}
        for gauges in alive:
            for engine, (name, healthy) in gauges["healthy"].items():
                well[engine, name] = min(well.get((engine, name), 1), int(healthy))
        text = "1: every worker that uses the engine finds it reachable and ready."
        family = GaugeMetricFamily("gateway_engine_healthy", text, labels=("engine_id", "engine"))
        for labels, healthy in sorted(well.items()):
            family.add_metric(labels, healthy)
        yield family
        running = sum(gauges["running"] for gauges in alive)
        yield GaugeMetricFamily("gateway_calls_running", "Calls that hold something now.", running)
        taken = sum(gauges["calls"] for gauges in alive)
        yield GaugeMetricFamily("gateway_calls_admitted", "Metered requests that are being worked on.", taken)
        held = sum(gauges["body_bytes"] for gauges in alive)
        yield GaugeMetricFamily("gateway_body_bytes", "Bytes of request bodies held now.", held)
        healthy = int(all(gauges["wal_healthy"] for gauges in alive))
        yield GaugeMetricFamily("gateway_wal_healthy", "1: every write-ahead log can be written.", healthy)
        workers = max([gauges["workers"] for gauges in alive], default=0)
        yield GaugeMetricFamily("gateway_workers", "Proxy workers that live, on all hosts.", workers)


def _is_alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()
