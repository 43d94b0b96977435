"""The result of a run as people read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.load import ENDS, KINDS
from tests.chaos.trial import Report
from tests.chaos.verdict import DOUBLED, LOST, OLD_PRICE, OVERSPENT, WRONG_PRICE

FINDINGS_MAX = 20


def lines(report: Report) -> Iterator[str]:
    yield from _calls(report)
    yield ""
    yield from _faults(report)
    yield ""
    changed = ", ".join(f"{count} {what}" for what, count in sorted(report.changes.items()))
    yield f"Meanwhile: {changed}; on the wires: {dict(report.wires)}"
    yield ""
    yield from _books(report)
    yield from _details(report)


def _calls(report: Report) -> Iterator[str]:
    counts = report.load.by_kind_and_end()
    yield f"{'Calls, as their clients saw them':34}" + "".join(f"{end:>13}" for end in ENDS)
    for kind in KINDS:
        yield f"  {kind:32}" + "".join(f"{counts[kind, end]:13}" for end in ENDS)
    statuses = Counter(seen.status for seen in report.load.seen if seen.status not in (0, 200))
    yield f"  {len(report.load.seen)} calls; refused with {dict(sorted(statuses.items()))}"


def _faults(report: Report) -> Iterator[str]:
    kinds = Counter(fault.kind.name for fault in report.begun)
    yield "Faults"
    for name, count in sorted(kinds.items()):
        yield f"  {name:32}{count:6}"
    yield f"  {'in all':32}{len(report.begun):6}"


def _books(report: Report) -> Iterator[str]:
    verdict = report.verdict
    replay = "" if report.replays else ", write-ahead logs WITHHELD"
    yield f"Books: seed {report.seed}, {report.seconds:g} s{replay}"
    for what, value in (
        ("calls in the engine's log", verdict.calls),
        ("seen or made to the end, charged exactly", verdict.exact),
        ("tokens: the engine's log", verdict.engine_tokens),
        ("tokens: metered", verdict.charged_tokens),
        ("lost", verdict.count(LOST)),
        ("doubled", verdict.count(DOUBLED)),
        ("overspent", verdict.count(OVERSPENT)),
        ("charged at an older price than held", verdict.count(OLD_PRICE)),
        ("charged otherwise than priced", verdict.count(WRONG_PRICE)),
        ("served after their key was revoked", report.served_after_revocation),
        ("refused though their key held", len(report.load.refused_wrongly)),
        ("streams cut by a kill", verdict.killed_streams),
        ("  under-charged by part of an interval", verdict.under_charged),
        ("  largest under-charge, tokens", verdict.largest_under_charge),
        ("whole calls killed, nothing charged", verdict.killed_whole),
        ("calls corrected after they had lapsed", verdict.corrected),
        ("reconcile --deep, differences", len(report.reconcile)),
        ("not at rest afterwards", len(report.left)),
    ):
        yield f"  {what:44}{value:10}"


def _details(report: Report) -> Iterator[str]:
    found = [*map(str, report.verdict.findings), *report.load.refused_wrongly, *report.reconcile, *report.left]
    yield from (f"  ! {line}" for line in found[:FINDINGS_MAX])
    if len(found) > FINDINGS_MAX:
        yield f"  ! and {len(found) - FINDINGS_MAX} more"
