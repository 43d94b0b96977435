"""What a trial brought, in words: one table, what was aimed at, and whether the run counts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple

from tests.speed.load import WHOLE
from tests.speed.trial import ENGINE_ROOM_MIN, MANY, Results, Side

RATE_MIN = 0.06
CPU_MAX = 16.0
LIMITS_CPU_MAX = 1.3
Row = tuple[str, str, str, str]


class Aim(NamedTuple):
    """What was aimed at, and what came of it. `is_least`: the bound is the least that meets it, else the most."""

    name: str
    value: float
    bound: float
    is_least: bool

    @property
    def is_met(self) -> bool:
        """Nothing measured (not a number) meets nothing."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def line(self) -> str:
        most = "at least" if self.is_least else "at most"
        return f"{self.name}: {self.value:.3g} (aim: {most} {self.bound:g}): {'met' if self.is_met else 'MISSED'}."


def aims(results: Results) -> list[Aim]:
    nginx, proxy, few, many = results.nginx, results.proxy, results.few_limits, results.many_limits
    rates = [p.rate / n.rate for n, p in zip(nginx.bursts[MANY], proxy.bursts[MANY], strict=True) if n.rate]
    return [
        Aim("Throughput, nginx = 1", _median(rates), RATE_MIN, is_least=True),
        Aim(
            "CPU per call, nginx = 1", _median(_pairs(nginx.cpu_us[MANY], proxy.cpu_us[MANY])), CPU_MAX, is_least=False
        ),
        Aim(
            f"CPU of worker and Redis per call with {many.limits} limits, with {few.limits} = 1",
            _median(_pairs(few.cpu_us, many.cpu_us)),
            LIMITS_CPU_MAX,
            is_least=False,
        ),
    ]


def exit_status(aims: Sequence[Aim], void: Sequence[str]) -> int:
    """0 only for a run that counts and in which every aim was met."""
    return 0 if not void and all(aim.is_met for aim in aims) else 1


def table(results: Results) -> str:
    rows: list[Row] = [("", "nginx", "proxy", "proxy / nginx: median (least to most)")]
    for connections in results.plan.connections:
        rows += _whole_rows(results, connections)
    rows += _stream_rows(results)
    rows += _limit_rows(results)
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = [
        f"{label:<{widths[0]}}  {nginx:>{widths[1]}}  {proxy:>{widths[2]}}  {ratio}".rstrip()
        for label, nginx, proxy, ratio in rows
    ]
    return "\n".join([*lines, "", *_behind(results), *_verdicts(results)])


def _whole_rows(results: Results, connections: int) -> list[Row]:
    nginx, proxy = results.nginx, results.proxy
    title = f"whole, {connections} connections: "

    def row(label: str, form: str, values: dict[str, Sequence[float]]) -> Row:
        return (title + label, form.format(median(values["n"])), form.format(median(values["p"])), _ratio(**values))

    def of(name: str) -> dict[str, Sequence[float]]:
        return {
            letter: [getattr(burst, name) for burst in side.bursts[connections]]
            for letter, side in (("n", nginx), ("p", proxy))
        }

    cpu: dict[str, Sequence[float]] = {"n": nginx.cpu_us[connections], "p": proxy.cpu_us[connections]}
    return [
        row("calls/s", "{:.0f}", of("rate")),
        row("CPU µs per call", "{:.1f}", cpu),
        row("median ms", "{:.2f}", of("p50_ms")),
        row("p99 ms", "{:.2f}", of("p99_ms")),
    ]


def _stream_rows(results: Results) -> list[Row]:
    nginx, proxy, pace = results.nginx, results.proxy, results.plan.pace
    title = f"{pace.streams} streams of {pace.chunks}: "
    rows = [(title + "whole", _whole_streams(nginx), _whole_streams(proxy), "")]
    for label, percent in (("median", 50), ("p99", 99)):
        n, p = ([_percentile(run.first_chunk_ms, percent) for run in side.streams] for side in (nginx, proxy))
        name = f"{title}{label} ms to first chunk"
        rows.append((name, f"{median(n):.1f}", f"{median(p):.1f}", _ratio(n, p)))
    n, p = nginx.chunk_cpu_us, proxy.chunk_cpu_us
    rows.append((title + "CPU µs per chunk", f"{median(n):.1f}", f"{median(p):.1f}", _ratio(n, p)))
    return rows


def _whole_streams(side: Side) -> str:
    return f"{sum(run.whole for run in side.streams)}/{sum(run.begun for run in side.streams)}"


def _percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else float("nan")


def _limit_rows(results: Results) -> list[Row]:
    few, many = results.few_limits, results.many_limits
    title = f"whole, {MANY} connections, limits: "
    rows: list[Row] = [
        ("", "", "", ""),
        ("", f"{few.limits} limits", f"{many.limits} limits", f"{many.limits} / {few.limits}: median (least to most)"),
    ]
    values = (
        ("calls/s", "{:.0f}", [burst.rate for burst in few.bursts], [burst.rate for burst in many.bursts]),
        ("CPU µs per call, worker", "{:.1f}", few.worker_cpu_us, many.worker_cpu_us),
        ("CPU µs per call, Redis", "{:.1f}", few.redis_cpu_us, many.redis_cpu_us),
        ("CPU µs per call, both", "{:.1f}", few.cpu_us, many.cpu_us),
        ("usec in Redis' script per call", "{:.1f}", few.script_us, many.script_us),
    )
    for label, form, f, m in values:
        rows.append((title + label, form.format(median(f)), form.format(median(m)), _ratio(f, m)))
    return rows


def _ratio(n: Sequence[float], p: Sequence[float]) -> str:
    found = _pairs(n, p)
    if not found:
        return "too little to tell"
    return f"{median(found):.3g} ({min(found):.3g} to {max(found):.3g})"


def _pairs(n: Sequence[float], p: Sequence[float]) -> list[float]:
    """Each round's own ratio."""
    return [ours / theirs for ours, theirs in zip(p, n, strict=True) if theirs]


def _median(values: Sequence[float]) -> float:
    return median(values) if values else float("nan")


def _behind(results: Results) -> list[str]:
    behind = results.behind
    return [
        f"Behind the proxy, per call at {MANY} connections: Redis {median(behind.redis_cpu_us):.0f} µs CPU"
        f" ({median(behind.script_us):.0f} µs in the script, {median(behind.batch):.1f} calls per run of it),"
        f" journal and PostgreSQL {median(behind.books_cpu_us):.0f} µs CPU.",
        f"The engine alone: {median(b.rate for b in results.engine_alone):.0f} calls/s,"
        f" {results.engine_room:.1f} times the proxy's rate.",
    ]


def _verdicts(results: Results) -> list[str]:
    asked, events = sum(results.asked.values()), sum(results.events.values())
    given = results.events[WHOLE] - results.left[WHOLE]
    said = [
        f"Metered: engines were asked {asked} times through the proxy, {events} calls are in the books.",
        f"Of whole calls clients had {results.answered} answers, and {given} are booked that did not end before any.",
    ]
    said += [aim.line() for aim in aims(results)]
    return [*said, *(f"VOID: {reason}" for reason in void(results))]


def void(results: Results) -> list[str]:
    """Why the figures may not be used; nothing when they may."""
    reasons = []
    if results.engine_room < ENGINE_ROOM_MIN:
        reasons.append(f"the engine alone does less than {ENGINE_ROOM_MIN:g} times the proxy's rate")
    if results.errors:
        reasons.append(f"{results.errors} calls failed")
    if not results.is_whole:
        reasons.append("streams were not whole")
    if not results.is_metered:
        reasons.append(f"asked {results.asked}, answered {results.answered}, booked {results.events}")
    if results.unlike:
        reasons.append(f"{results.unlike} streams were booked otherwise than the engine made them")
    return reasons
