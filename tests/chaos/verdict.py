"""What the engine really did, beside what the books say: lost, doubled, overspent. Pure, but for `Books.read`.

The engine's log has one entry per call that it finished or that was cut under it. A call has exactly one event, and:

  its client saw all of it      the event, corrections folded in, says the engine's tokens to the last one
  its worker was killed         a stream: what the client had got is charged, but for what the engine had sent of it in
                                the last progress interval; a whole call, of which nobody got anything: nothing, or all
  anybody else ended it, also   at least what the client had got, at most what the engine made
  where its worker slept

Whose worker was killed is what the one who killed it noted: where and when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, NamedTuple

from billing.admission import PROGRESS_MS
from billing.models import Rate
from tests.billing.books import rows
from tests.chaos.load import CANCELLED_STREAM, COMPLETE, CUT, STREAM, WHOLE, Seen
from tests.chaos.world import Death

JITTER_SECONDS: Final = 0.1
"""What a busy machine may add between two tokens."""
SETTLED_SECONDS: Final = 1.0
"""A worker that is killed so soon after a call's end may not have charged it yet."""
KILLED: Final = "lapsed"
FINISHED: Final = frozenset({"stop", "length"})


class Price(NamedTuple):
    """Picos per token."""

    input: int
    cache_read: int
    output: int

    def nanos(self, uncached: int, cached: int, output: int) -> int:
        return -(-(uncached * self.input + cached * self.cache_read + output * self.output) // 1000)


@dataclass(slots=True)
class Charged:
    """A call's events, added up. `source` is the last one's."""

    organization_id: int
    rate_id: int
    end_reason: str
    source: str
    held_nanos: int
    stream: bool
    day: date
    events: int = 0
    corrections: int = 0
    uncached: int = 0
    cached: int = 0
    output: int = 0
    nanos: int = 0
    late_tokens: int = 0
    """Of corrections: when the call lapsed they were free again for others."""

    @property
    def prompt(self) -> int:
        return self.uncached + self.cached


class Line(NamedTuple):
    """One of a wallet, oldest first. `is_correction`: of a call that had lapsed, whose money was free meanwhile."""

    organization_id: int
    nanos: int
    is_correction: bool


@dataclass
class Books:
    """PostgreSQL's half: calls by id, prices by rate id (oldest first), wallets line by line."""

    calls: dict[str, Charged]
    prices: dict[int, Price]
    lines: list[Line]

    @classmethod
    def read(cls) -> Books:
        calls: dict[str, Charged] = {}
        for call_id, kind, output, uncached, cached, nanos, *facts in rows(_CALLS):
            call = calls.setdefault(call_id, Charged(*facts))
            call.events += kind == "call"
            call.corrections += kind != "call"
            call.late_tokens += (output + uncached + (cached or 0)) * (kind != "call")
            call.source = facts[3]
            call.output += output
            call.uncached += uncached
            call.cached += cached or 0
            call.nanos += nanos
        prices = {
            rate.id: Price(rate.input_picos or 0, rate.cache_read_picos or 0, rate.output_picos or 0)
            for rate in Rate.objects.order_by("effective_from", "id")
        }
        return cls(calls, prices, [Line(*row) for row in rows(_LINES)])


_CALLS = """
    SELECT COALESCE(corrects, call_id)::text, kind, output_tokens, uncached_input_tokens, cache_read_tokens, cost_nanos,
        organization_id, rate_id, end_reason, usage_source, held_nanos, stream, day
    FROM usage_event ORDER BY kind, settled_at
"""  # calls come before their corrections
_LINES = """
    SELECT account.organization_id, line.amount_nanos, EXISTS (
        SELECT 1 FROM usage_event WHERE posting_id = posting.id AND kind = 'correction'
    ) FROM billing_postingline line
    JOIN billing_ledgeraccount account ON account.id = line.account_id AND account.kind = 'wallet'
    JOIN billing_posting posting ON posting.id = line.posting_id ORDER BY posting.id
"""


@dataclass
class Finding:
    """`what` is a row of the table; `amount`: tokens, or nanos of money."""

    what: str
    call_id: str
    amount: int
    said: str

    def __str__(self) -> str:
        return f"{self.what}: {self.call_id}: {self.said}"


@dataclass
class Verdict:
    findings: list[Finding] = field(default_factory=list)
    calls: int = 0
    exact: int = 0
    engine_tokens: int = 0
    charged_tokens: int = 0
    killed_streams: int = 0
    under_charged: int = 0
    largest_under_charge: int = 0
    """Tokens that a client had got of a stream whose proxy was killed, and that were not charged."""
    killed_whole: int = 0
    corrected: int = 0

    def count(self, what: str) -> int:
        return sum(finding.what == what for finding in self.findings)

    def add(self, what: str, call_id: str, amount: int, said: str) -> None:
        self.findings.append(Finding(what, call_id, amount, said))


LOST, DOUBLED, OVERSPENT, OLD_PRICE, WRONG_PRICE = "lost", "doubled", "overspent", "old price", "wrong price"


def judge(
    log: Iterable[Mapping[str, Any]],
    seen: Sequence[Seen],
    books: Books,
    *,
    deaths: Mapping[int, Sequence[Death]],
    priced: Sequence[tuple[int, float]],
    granted: Mapping[int, int],
    limited: Mapping[int, int],
) -> Verdict:
    """`log`: the engine's, with `sent_at`, when it sent each token of a stream; `deaths`: by port, when its worker was
    killed; `priced`: rates and the time from which no call may start at an older one; by organization's
    id `granted`, what its wallet was given, and `limited`, the tokens that it may use in a day."""
    verdict = Verdict()
    by_id = {each.call_id: each for each in seen if each.call_id}
    made = {entry["request_id"]: entry for entry in log if entry["end"] != "refused"}
    for call_id, entry in made.items():
        _judge_call(verdict, call_id, entry, by_id.get(call_id), books, deaths)
    for call_id, call in books.calls.items():
        if call.events != 1:
            verdict.add(DOUBLED, call_id, call.nanos, f"{call.events} events")
        if call_id not in made and (call.nanos or call.output):
            verdict.add(DOUBLED, call_id, call.nanos, f"{call.nanos} nanos for a call that the engine never saw")
        verdict.corrected += call.corrections > 0
    _judge_prices(verdict, by_id, books, priced)
    _judge_wallets(verdict, books, granted)
    _judge_limits(verdict, books, limited)
    return verdict


def _judge_call(
    verdict: Verdict,
    call_id: str,
    entry: Mapping[str, Any],
    seen: Seen | None,
    books: Books,
    deaths: Mapping[int, Sequence[Death]],
) -> None:
    verdict.calls += 1
    verdict.engine_tokens += entry["prompt_tokens"] + entry["output_tokens"]
    call = books.calls.get(call_id)
    said = f"{entry['prompt_tokens']} in {entry['output_tokens']} out, end {entry['end']}"
    if call is None:
        verdict.add(LOST, call_id, entry["output_tokens"], f"no event; the engine: {said}; {_told(seen)}")
        return
    verdict.charged_tokens += call.prompt + call.output
    said += f"; charged {call.prompt} in {call.output} out for {call.nanos} nanos, {call.end_reason}, {call.source}"
    if call.output > entry["output_tokens"] or call.prompt > entry["prompt_tokens"]:
        verdict.add(DOUBLED, call_id, call.output - entry["output_tokens"], said)
    if call.end_reason in FINISHED or (seen is not None and seen.end == COMPLETE):
        _judge_complete(verdict, call_id, entry, call, books, said)
    elif call.end_reason == KILLED and _was_killed(entry, seen, deaths):
        _judge_killed(verdict, call_id, entry, call, seen, said)
    elif seen is not None:
        _judge_cut(verdict, call_id, call, seen, said)
    _judge_charge(verdict, call_id, call, books, said)


def _told(seen: Seen | None) -> str:
    return (
        "its client has no id of it" if seen is None else f"its client: {seen.kind}, {seen.end}, {seen.tokens} tokens"
    )


def _judge_complete(
    verdict: Verdict, call_id: str, entry: Mapping[str, Any], call: Charged, books: Books, said: str
) -> None:
    cached, prompt, output = entry["cached_tokens"], entry["prompt_tokens"], entry["output_tokens"]
    cost = books.prices[call.rate_id].nanos(prompt - cached, cached, output)
    missing = output - call.output
    if (call.prompt, call.output) != (prompt, output):
        verdict.add(LOST if missing >= 0 else DOUBLED, call_id, missing, said)
    elif call.nanos != cost:
        verdict.add(LOST if call.nanos < cost else DOUBLED, call_id, 0, f"{said}, not {cost}")
    else:
        verdict.exact += 1


def _was_killed(entry: Mapping[str, Any], seen: Seen | None, deaths: Mapping[int, Sequence[Death]]) -> bool:
    """Whether the worker that ran it was killed meanwhile. A client that never heard of its call cannot tell where it
    ran."""
    if seen is None:
        among, began, ended = (
            [death for each in deaths.values() for death in each],
            entry["started_at"],
            entry["ended_at"],
        )
    else:
        among, began, ended = list(deaths.get(seen.port, ())), seen.sent_at, max(seen.ended_at, entry["ended_at"])
    return any(began <= death.at and death.silent_at <= ended + SETTLED_SECONDS for death in among)


def _judge_cut(verdict: Verdict, call_id: str, call: Charged, seen: Seen, said: str) -> None:
    """Its worker lived, or slept and woke up."""
    under = seen.tokens - call.output
    if under > 0:
        verdict.add(LOST, call_id, under, f"{_told(seen)}; {said}")
    if seen.kind == WHOLE and seen.end == CUT and call.end_reason == KILLED:
        verdict.add(LOST, call_id, 0, f"lapsed, and no worker was killed; {_told(seen)}; {said}")


def _judge_killed(
    verdict: Verdict, call_id: str, entry: Mapping[str, Any], call: Charged, seen: Seen | None, said: str
) -> None:
    if seen is None or seen.kind not in (STREAM, CANCELLED_STREAM):
        verdict.killed_whole += 1
        return
    verdict.killed_streams += 1
    under = seen.tokens - call.output
    if under <= 0:
        return
    verdict.under_charged += 1
    verdict.largest_under_charge = max(verdict.largest_under_charge, under)
    sent_at = entry["sent_at"][: seen.tokens]
    due = min(_before_last_interval(times) for times in (sent_at, seen.tokens_at))
    if call.output < due:
        spans = [times[-1] - times[call.output] for times in (sent_at, seen.tokens_at)]
        when = f"sent in {spans[0]:.2f} s, got in {spans[1]:.2f} s"
        verdict.add(LOST, call_id, under, f"{_told(seen)}, the last {under} {when}; {said}")


def _before_last_interval(times: Sequence[float]) -> int:
    """How many tokens were there one progress interval before the last one: the last one would have told of them."""
    return bisect_right(times, times[-1] - PROGRESS_MS / 1000 - JITTER_SECONDS)


def _judge_charge(verdict: Verdict, call_id: str, call: Charged, books: Books, said: str) -> None:
    """What was metered costs what its price says, and no more than was held."""
    cost = books.prices[call.rate_id].nanos(call.uncached, call.cached, call.output)
    if call.source == "none":
        cost = 0
    if call.nanos > call.held_nanos:
        verdict.add(OVERSPENT, call_id, call.nanos - call.held_nanos, f"held {call.held_nanos}; {said}")
    if call.nanos != min(cost, call.held_nanos) and not (call.nanos == 0 and call.output == 0):
        verdict.add(WRONG_PRICE, call_id, call.nanos - cost, f"{cost} by its price; {said}")


def _judge_prices(
    verdict: Verdict, by_id: Mapping[str, Seen], books: Books, priced: Sequence[tuple[int, float]]
) -> None:
    rank = {rate_id: number for number, rate_id in enumerate(books.prices)}
    for call_id, call in books.calls.items():
        seen = by_id.get(call_id)
        if seen is None:
            continue
        known = [rank[rate_id] for rate_id, since in priced if since <= seen.sent_at]
        if known and rank[call.rate_id] < known[-1]:
            verdict.add(OLD_PRICE, call_id, 0, f"rate {call.rate_id} after number {known[-1]} held")


def _judge_wallets(verdict: Verdict, books: Books, granted: Mapping[int, int]) -> None:
    """No wallet was ever below zero, but for corrections of calls whose money had been given back when they lapsed; and
    each is what was granted less what was charged."""
    balance: defaultdict[int, int] = defaultdict(int)
    late: defaultdict[int, int] = defaultdict(int)
    for line in books.lines:
        balance[line.organization_id] += line.nanos
        late[line.organization_id] += max(0, -line.nanos) if line.is_correction else 0
        if balance[line.organization_id] + late[line.organization_id] < 0:
            said = f"a wallet at {balance[line.organization_id]} nanos"
            verdict.add(OVERSPENT, f"organization {line.organization_id}", -balance[line.organization_id], said)
    charged: defaultdict[int, int] = defaultdict(int)
    for call in books.calls.values():
        charged[call.organization_id] += call.nanos
    for organization_id, given in granted.items():
        expected = given - charged[organization_id]
        if balance[organization_id] != expected:
            said = f"the wallet has {balance[organization_id]} nanos, not {expected}"
            verdict.add(LOST, f"organization {organization_id}", expected - balance[organization_id], said)


def _judge_limits(verdict: Verdict, books: Books, limited: Mapping[int, int]) -> None:
    used: defaultdict[tuple[int, date], int] = defaultdict(int)
    for call in books.calls.values():
        used[call.organization_id, call.day] += call.prompt + call.output - call.late_tokens
    for (organization_id, day), tokens in used.items():
        limit = limited.get(organization_id, tokens)
        if tokens > limit:
            verdict.add(
                OVERSPENT, f"organization {organization_id}", tokens - limit, f"{tokens} tokens of {limit} on {day}"
            )
