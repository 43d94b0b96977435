"""The script against plain integers, on numbers up to the ends of int64: entry by entry, and many in one run, which
reads and writes each window once for all of them."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import script
from tests.billing.oracle import EXACT_MAX, INT64_MAX, UNITS, Asked, Counter, Oracle
from tests.billing.stage import EPOCH, open_epoch

SHARD, ORGANIZATION, BRAND = 1, "65", "2"
WINDOWS = ("day", "month", "lifetime", "minute")
DAY_MS = 86_400_000
_numbers = itertools.count(1)

amounts = st.one_of(
    st.integers(0, 50),
    st.integers(0, 10**9),
    st.integers(2**53 - 40, EXACT_MAX),
)
wide = st.one_of(
    st.integers(-50, 2_000),
    st.integers(0, 10**12),
    st.integers(10**15 - 20, 10**15 + 20),
    st.integers(2**53 - 40, 2**53 + 40),
    st.integers(INT64_MAX - 2_000, INT64_MAX),
    st.integers(-INT64_MAX, -INT64_MAX + 2_000),
)
limits = st.one_of(st.none(), wide.filter(lambda amount: amount >= 0))


@st.composite
def asked(draw):
    wanted = draw(st.one_of(st.integers(0, 40), st.integers(0, 10**6)))
    needs = {"req": (1, 0, 1)}
    for unit in UNITS[1:]:
        fixed, per = draw(st.one_of(st.just((0, 0)), st.tuples(amounts, amounts)))
        per = min(per, (EXACT_MAX - fixed) // max(wanted, 1))
        scale = draw(st.sampled_from([1, 1000])) if unit == "cred" else 1
        needs[unit] = (fixed, per, 1000 if unit == "nano" else scale)
    key, model = draw(st.sampled_from(["k1", "k2"])), draw(st.sampled_from(["m1", "m2"]))
    counter = st.tuples(st.sampled_from(WINDOWS), st.sampled_from(["o", key, model]), st.sampled_from(UNITS))
    counters = draw(st.lists(counter, max_size=7, unique=True))
    # Limits that fit some of what is wanted, as well as any at all.
    near = [
        st.builds(
            lambda g, more, n=needs[unit]: -(-(n[0] + g * n[1]) // n[2]) + more,
            st.integers(0, wanted),
            st.integers(0, 40),
        )
        for _, _, unit in counters
    ]
    own = st.tuples(*[st.one_of(limits, fitting) for fitting in near]).map(list)
    plans = draw(st.lists(st.tuples(st.booleans(), own), min_size=1, max_size=2))
    slots = draw(st.lists(st.tuples(st.sampled_from(["o", key]), st.integers(0, 3)), max_size=1))
    judged = sorted(range(len(counters)), key=lambda place: all(own[place] is None for _, own in plans))
    return Asked(
        key=key,
        model=model,
        counters=[counters[place] for place in judged],
        plans=[(asks, [own[place] for place in judged]) for asks, own in plans],
        slots=slots,
        needs=needs,
        wanted=wanted,
        least=min(wanted, draw(st.sampled_from([1, 16]))),
    )


steps = st.one_of(
    st.tuples(st.just("reserve"), asked()),
    st.tuples(st.just("again"), st.integers(0, 5)),
    st.tuples(st.just("settle"), st.integers(0, 5), st.tuples(*[amounts] * 6), amounts),
    st.tuples(st.just("void"), st.integers(0, 5)),
    st.tuples(st.just("renew"), st.integers(0, 5)),
    st.tuples(st.just("change"), st.integers(-50, 50), st.integers(-50, 50)),
)
Step = tuple[script.Entry, Callable[[script.Verdict], Any]]
"""An entry, and what to make of its verdict."""


class Match:
    """The script and the oracle side by side."""

    def __init__(self, client, balance, posted):
        client.flushall()
        open_epoch(client, shards=[SHARD])
        for name in ("key:1", "key:2", f"org:{ORGANIZATION}"):
            client.hset(script.name(SHARD, name), "v", "1")
        client.hset(script.name(SHARD, "policy"), BRAND, "1")
        self.client = client
        now = int(time.time() * 1000)
        start = now // DAY_MS * DAY_MS
        self.bounds = ("d20261121", start - DAY_MS, start + 2 * DAY_MS, "m202611", start - DAY_MS, start + 9 * DAY_MS)
        self.oracle = Oracle("d20261121", "m202611", self.bounds[2], self.bounds[5], balance)
        self.calls = []
        self.first = {}
        self.changes = 0
        places = {"day": self.oracle.day, "month": self.oracle.month, "lifetime": "life"}
        windows: dict[str, list[tuple[str, str, str]]] = {}
        for kind, scope, unit in itertools.product(places, ("o", "k1", "k2", "m1", "m2"), UNITS):
            value = posted.get((kind, scope, unit), 0)
            self.oracle.counters[places[kind], scope, unit] = Counter(value)
            windows.setdefault(places[kind], []).append((scope, unit, str(value)))
        seed = (SHARD, EPOCH, ORGANIZATION, "0", "0-0", str(balance), [(w, 0, "", "~", c) for w, c in windows.items()])
        (verdict,) = script.run(client, [("seed", *seed)])
        assert verdict[0] == "OK"

    def static(self, asked):
        counters = [
            part
            for kind, scope, unit in asked.counters
            for part in (WINDOWS.index(kind) + 1, scope, UNITS.index(unit) + 1)
        ]
        plans = [("p", int(asks), ["" if one is None else str(one) for one in own]) for asks, own in asked.plans]
        judged = sum(any(own[place] is not None for _, own in asked.plans) for place in range(len(asked.counters)))
        numbers = [[n for n, c in enumerate(asked.counters, 1) if c[0] == window] for window in WINDOWS]
        slots = [part for slot in asked.slots for part in slot]
        identity = (ORGANIZATION, asked.key[1:], asked.model[1:], BRAND, "1", "1", "1", 0, 0)
        return script.embedded((*identity, *self.bounds, counters, plans, slots, judged, numbers, len(asked.counters)))

    def entry(self, call_id, asked):
        needs = [number for unit in UNITS for number in asked.needs[unit]]
        head = ("reserve", SHARD, EPOCH, call_id, self.static(asked), asked.wanted, asked.least, needs)
        return (*head, 60_000, 2**52, '{"facts":1}')

    def reserve(self, asked) -> Step:
        call_id = f"c{next(_numbers)}"
        self.calls.append((call_id, asked))
        return self.entry(call_id, asked), lambda verdict: self.judged(call_id, asked, verdict)

    def judged(self, call_id, asked, verdict):
        word, what = self.oracle.reserve(call_id, asked, verdict[1])
        if word == "OK":
            assert (verdict[0], verdict[2] - 1, verdict[3]) == ("OK", *what), (verdict, what)
            self.first[call_id] = verdict
        else:
            self.refused(verdict, word, what, asked)

    def refused(self, verdict, word, what, asked):
        assert verdict[0] == "NO", (verdict, what)
        if word == "slot":
            assert verdict[3] == -what
            return
        plan, number, state = verdict[2] - 1, verdict[3], verdict[4]
        assert (number, state == "in_flight") in what[plan], (verdict, what)
        if number:
            posted, held = self.oracle.state(asked.counters[number - 1], verdict[1])
            limit = asked.plans[plan][1][number - 1]
        else:
            posted, held, limit = 0, self.oracle.money_held, self.oracle.balance
        assert (int(verdict[5]), int(verdict[6]), int(verdict[7])) == (limit, posted, held)

    def again(self, index) -> Step:
        """A reserve that is sent twice: the same verdict, while it holds."""
        call_id, asked = self.calls[index]

        def check(verdict):
            if call_id in self.oracle.holds:
                assert verdict == self.first[call_id]
            else:
                self.judged(call_id, asked, verdict)

        return self.entry(call_id, asked), check

    def settle(self, index, values, charge) -> Step:
        call_id, asked = self.calls[index]
        key, model = asked.key[1:], asked.model[1:]

        def check(verdict):
            assert verdict[0] == "OK"
            assert verdict[3] == (0 if self.oracle.settle(call_id, values, charge) else 1)

        return ("settle", SHARD, 0, call_id, ORGANIZATION, key, model, "d20261121", values, charge, '{"e":1}'), check

    def void(self, index) -> Step:
        call_id, _ = self.calls[index]

        def check(verdict):
            assert verdict[0] == ("OK" if self.oracle.end(call_id) else "NONE")

        return ("void", SHARD, 0, call_id), check

    def renew(self, index) -> Step:
        call_id, _ = self.calls[index]

        def check(verdict):
            hold = self.oracle.holds.get(call_id)
            assert verdict[0] == ("OK" if hold else "LAPSED")
            if hold:
                hold.deadline = verdict[1] + 60_000

        return ("renew", SHARD, 0, call_id, 60_000, "{}"), check

    def change(self, nanos, tokens) -> Step:
        """What PostgreSQL decided: a step that sees and writes Redis alone, in the midst of the others."""
        self.changes += 1
        seq = self.changes
        entry = (
            "apply",
            SHARD,
            0,
            ORGANIZATION,
            str(seq),
            str(nanos),
            "20261121",
            "1",
            "2",
            ["tok", str(tokens)],
            "m202611",
        )

        def check(verdict):
            assert verdict[0] == self.oracle.change(seq, nanos, tokens, ("o", "k1", "m2"))

        return entry, check

    def agree(self):
        account = self.client.hgetall(script.name(SHARD, f"a:{ORGANIZATION}"))
        assert (int(account[b"bal"]), int(account.get(b"held", 0))) == (self.oracle.balance, self.oracle.money_held)
        assert self.client.zcard(script.name(SHARD, script.LEASES)) == len(self.oracle.holds)
        for (window, scope, unit), counter in self.oracle.counters.items():
            name = script.name(SHARD, f"w:{ORGANIZATION}:{window}")
            posted, held = self.client.hmget(name, f"{scope}.{unit}.p", f"{scope}.{unit}.h")
            assert (int(posted or 0), int(held or 0)) == (counter.posted, counter.held), (window, scope, unit)

    def run(self, play, *, at_once):
        """Steps name calls by number; one that names none there was yet is left out."""
        steps: list[Step] = []
        for word, *values in play:
            if word not in ("reserve", "change") and values[0] >= len(self.calls):
                continue
            steps.append(getattr(self, word)(*values))
            if not at_once:
                self.send(steps)
                steps.clear()
        self.send(steps)

    def send(self, steps):
        for (_, check), verdict in zip(steps, script.run(self.client, [entry for entry, _ in steps]), strict=True):
            check(verdict)
        self.agree()


@pytest.mark.parametrize("at_once", [False, True])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    balance=wide,
    posted=st.dictionaries(
        st.tuples(st.sampled_from(WINDOWS[:3]), st.sampled_from(["o", "k1", "k2", "m1", "m2"]), st.sampled_from(UNITS)),
        wide,
        max_size=6,
    ),
    play=st.lists(steps, min_size=2, max_size=14),
)
def test_the_script_does_what_plain_integers_say(redis_connection, at_once, balance, posted, play):
    Match(redis_connection, balance, posted).run(play, at_once=at_once)
