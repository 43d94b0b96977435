"""Forty seconds of the seeded run; its control, which must find charges lost; and how it judges."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.faults import KINDS, Breaker, Fault, Kind, plan
from tests.chaos.load import CANCELLED, CANCELLED_STREAM, COMPLETE, CUT, ERROR, STREAM, WHOLE, Seen
from tests.chaos.verdict import DOUBLED, LOST, OLD_PRICE, OVERSPENT, WRONG_PRICE, Books, Charged, Line, Price, judge
from tests.chaos.world import Death
from tests.portal.installations import OURS

ROOT = Path(__file__).resolve().parents[2]
PORT = 8001
KILLED_THEN, SLEPT_THEN = [Death(100.5, 100.5)], [Death(99.0, 99.5), Death(102.0, 103.0)]
PRICE = Price(1_000, 500, 2_000)
CALL = "01a1fc6d-7069-7781-afa8-84dd513f0e5b"


def run(*argv):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run(
        ["nice", sys.executable, "-m", "tests.chaos", *argv],  # other tests run beside it, and look at the clock
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    print(done.stdout, done.stderr)  # the seed and the table, for whoever reads a failure
    return done


def row(done, name):
    (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith(name)]
    return int(line.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_nothing_is_lost_doubled_or_overspent_whatever_breaks(migrated_data):
    done = run("--seconds", "38", "--seed", "340", "--tables", str(migrated_data))
    assert done.returncode == 0, done.stderr
    assert row(done, "in all") == len(plan(340, 38)) == 17
    assert row(done, "seen or made to the end") > 100
    assert [row(done, name) for name in ("lost", "doubled", "overspent", "reconcile --deep")] == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_without_replay_charges_are_found_lost(migrated_data):
    done = run("--seconds", "3", "--seed", "277", "--without", "wal-replay", "--tables", str(migrated_data))
    assert "Redis wiped, all killed" in [fault.kind.name for fault in plan(277, 3)]
    assert done.returncode == 1
    assert row(done, "lost") > 0
    assert [row(done, name) for name in ("doubled", "overspent")] == [0, 0]


def test_a_seed_draws_the_same_faults_again_and_every_kind():
    assert plan(5, 100) == plan(5, 100) != plan(6, 100)
    assert {fault.kind for fault in plan(5, 200)} >= set(KINDS)


def test_a_fault_that_would_do_nothing_waits():
    bites: list[bool] = []
    world: Any = SimpleNamespace(is_ready=lambda target: True)
    kind = Kind("a", ("x",), (0, 0), lambda world, fault: lambda: None, bites=lambda world, target: bool(bites))
    breaker = Breaker(world, [Fault(1.0, kind, "x", 0.0)])
    breaker.step(2.0)
    assert breaker.left == 1
    bites.append(True)
    breaker.step(3.0)
    assert breaker.left == 0


def charged(**changes):
    usual: dict[str, Any] = {
        "organization_id": 1,
        "rate_id": 1,
        "end_reason": "stop",
        "source": "final",
        "held_nanos": 1_000,
    }
    usual |= {
        "stream": True,
        "day": date(2026, 11, 21),
        "events": 1,
        "uncached": 10,
        "cached": 0,
        "output": 20,
        "nanos": 50,
    }
    return Charged(**(usual | changes))


def judged(call=None, seen=None, entry=None, *, deaths=(), lines=(), granted=0, priced=(), prices=None, limit=30):
    made = {"request_id": CALL, "prompt_tokens": 10, "cached_tokens": 0, "output_tokens": 20, "end": "stop"}
    made |= {"started_at": 100.0, "ended_at": 100.5, "sent_at": [100 + number / 40 for number in range(20)]}
    calls = {} if call is None else {CALL: call}
    spent = [] if call is None else [Line(1, -call.nanos, False)]
    books = Books(calls, prices or {1: PRICE}, [Line(1, 1_000, False), *lines, *spent])
    given = {"deaths": {PORT: deaths}, "priced": priced, "granted": {1: 1_000 + granted}, "limited": {1: limit}}
    found = judge([made | (entry or {})], [] if seen is None else [seen], books, **given)
    return found, [finding.what for finding in found.findings]


def seen(kind=STREAM, end=COMPLETE, **changes):
    return Seen(kind, 100.0, PORT, 100.5, **({"call_id": CALL, "status": 200, "end": end, "tokens": 20} | changes))


def test_what_is_charged_as_it_was_made_is_exact():
    found, what = judged(charged(), seen())
    assert (what, found.exact, found.engine_tokens, found.charged_tokens) == ([], 1, 30, 30)


@pytest.mark.parametrize(
    ("call", "said", "entry", "what"),
    [
        (None, seen(), {}, [LOST]),
        (None, None, {"end": "aborted"}, [LOST]),
        (charged(output=19, nanos=48), seen(), {}, [LOST]),
        (charged(nanos=49), seen(), {}, [LOST, WRONG_PRICE]),
        (charged(output=21, nanos=52, late_tokens=1), seen(), {}, [DOUBLED, DOUBLED]),
        (charged(events=2), seen(), {}, [DOUBLED]),
        (charged(held_nanos=40), seen(), {}, [OVERSPENT, WRONG_PRICE]),
        (charged(end_reason="client_gone", output=5, nanos=20), seen(end=CANCELLED, tokens=6), {}, [LOST]),
        (charged(end_reason="client_gone", output=7, nanos=24), seen(end=CANCELLED, tokens=6), {}, []),
        (charged(end_reason="lapsed", output=0, uncached=0, nanos=0, source="none"), seen(WHOLE), {}, [LOST]),
    ],
)
def test_what_differs_is_named(call, said, entry, what):
    assert judged(call, said, entry)[1] == what


def lapsed(output):
    return charged(end_reason="lapsed", source="running", output=output, nanos=10 + 2 * output)


TIMES = tuple(number / 40 for number in range(20))
AT_ONCE = (*TIMES[:4], *(16 * [0.4]))
"""As after a moment in which their worker, or they, did nothing."""


@pytest.mark.parametrize(
    ("missing", "times", "what"),
    [(8, TIMES, []), (14, TIMES, []), (16, TIMES, [LOST]), (17, AT_ONCE, []), (18, AT_ONCE, [LOST])],
)
def test_a_killed_stream_may_lack_what_was_sent_in_the_last_interval(missing, times, what):
    """At 40 tokens a second, an interval and what a busy machine adds are 14 tokens."""
    found, named = judged(lapsed(20 - missing), seen(end=CUT, tokens_at=times), deaths=KILLED_THEN)
    assert named == what
    assert (found.killed_streams, found.under_charged, found.largest_under_charge) == (1, 1, missing)


@pytest.mark.parametrize("end", [ERROR, CUT, CANCELLED])
@pytest.mark.parametrize("deaths", [(), SLEPT_THEN])
def test_a_stream_whose_worker_lived_lacks_nothing_though_it_lapsed(deaths, end):
    """Also where another one was killed before it, or long after."""
    assert judged(lapsed(19), seen(end=end, tokens_at=TIMES), deaths=deaths)[1] == [LOST]
    assert judged(lapsed(19), seen(end=end, tokens=19, tokens_at=TIMES[:19]), deaths=deaths)[1] == []


def test_a_worker_that_is_killed_in_its_sleep_did_its_last_when_it_was_stopped():
    cancelled = seen(kind=CANCELLED_STREAM, end=CANCELLED, tokens_at=TIMES)
    assert judged(lapsed(19), cancelled, deaths=[Death(100.4, 104.0)])[1] == []
    assert judged(lapsed(19), cancelled, deaths=[Death(104.0, 104.0)])[1] == [LOST]


def test_a_whole_call_that_lapsed_under_a_living_worker_is_lost():
    nothing = charged(end_reason="lapsed", output=0, uncached=0, nanos=0, source="none")
    assert judged(nothing, seen(WHOLE, CUT), deaths=KILLED_THEN)[1] == []
    assert judged(nothing, seen(WHOLE, CUT, tokens=0))[1] == [LOST]


def test_a_wallet_below_zero_is_overspent_unless_a_late_correction_brought_it_there():
    assert judged(charged(), seen(), lines=[Line(1, -2_000, False)], granted=-2_000)[1] == [OVERSPENT, OVERSPENT]
    assert judged(charged(), seen(), lines=[Line(1, -2_000, True)], granted=-2_000)[1] == []


def test_more_tokens_than_a_limit_allows_are_overspent_unless_they_came_late():
    assert judged(charged(), seen(), limit=29)[1] == [OVERSPENT]
    assert judged(charged(late_tokens=1), seen(), limit=29)[1] == []


def test_a_wallet_that_is_not_what_was_granted_less_what_was_charged_is_named():
    assert judged(charged(), seen(), granted=5)[1] == [LOST]


def test_a_call_at_an_older_price_than_held_is_named():
    prices = {2: PRICE, 1: PRICE, 3: PRICE}
    assert judged(charged(), seen(), priced=[(2, 50.0), (1, 99.0), (3, 101.0)], prices=prices)[1] == []
    assert judged(charged(), seen(), priced=[(2, 50.0), (3, 99.0)], prices=prices)[1] == [OLD_PRICE]
