"""Each invariant of calls is broken by hand, and named; nothing is named where nothing is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import connection

from billing import engine_counters, reconcile_calls, reconcile_engine_log, script
from billing.events import Event
from billing.journal import Journal, stream_of
from billing.models import Engine, Rate, UsageEvent
from tests.billing.draining import drain
from tests.billing.settled import customer, entry, late, settle
from tests.billing.till import Till

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def journal(redis_connection) -> Journal:
    return Journal(redis_connection, name="first", notify=lambda _line: None)


@pytest.fixture
def booked(redis_connection, journal) -> Till:
    """One call is booked, one is settled and one is held."""
    till = Till(redis_connection, customer())
    till.call()
    drain(journal)
    till.call()
    till.reserve(till.customer.event())
    assert found(redis_connection) == []
    return till


def found(store) -> list[tuple[str, object, object]]:
    return [(each.check, each.expected, each.found) for each in reconcile_calls.differences(store)]


def execute(statement: str, *given: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement, given)
        cursor.execute("SET session_replication_role = DEFAULT")


def test_a_charge_above_its_hold(redis_connection, booked):
    execute("UPDATE usage_event SET cost_nanos = 21")
    assert ("charge", "0 to 20 held", 21) in found(redis_connection)


AT_ALL_RATES = {
    "input_picos": 1_000,
    "cache_read_picos": 100,
    "cache_write_picos": 1_250,
    "output_picos": 3_000,
    "reasoning_picos": 4_000,
    "request_nanos": 7,
    "image_nanos": 11,
}
USED = {
    "uncached_input_tokens": 10,
    "cache_read_tokens": 3,
    "cache_write_tokens": 2,
    "output_tokens": 5,
    "reasoning_tokens": 2,
    "images": 2,
}
LISTED = 10 + 3 + 9 + 8 + 7 + 22  # 0.3 and 2.5 are 3, rounded up once


def rated(till: Till, **fields: Any) -> Rate:
    return Rate.objects.create(
        model_id=till.customer.model.id, effective_from=datetime.now(UTC), **(AT_ALL_RATES | fields)
    )


@pytest.fixture
def priced(booked, journal) -> Callable[..., Event]:
    """Books a call of every bucket, at one credit a request and 250 for a thousand tokens, as changed."""
    rate = rated(booked, credits_per_request=1, credits_per_1000_tokens=250)

    def call(**changes: Any) -> Event:
        amounts = {"list_cost_nanos": LISTED, "cost_nanos": LISTED, "credits": 6, "held_nanos": 100}
        prices = {"rates": AT_ALL_RATES, "rate_id": rate.id}
        event: Event = booked.call(**(USED | amounts | prices | changes))
        drain(journal)
        return event

    return call


def test_calls_priced_by_their_rates(redis_connection, priced):
    priced()
    priced(rates={}, rate_id=None, cost_nanos=0, list_cost_nanos=0, credits=0)  # nothing has a price: simulated use
    priced(payer="included", cost_nanos=0)
    priced(cost_nanos=40, held_nanos=40, flags=("usage_above_hold",))
    nothing = dict.fromkeys(USED, 0)
    priced(**nothing, usage_source="none", list_cost_nanos=0, cost_nanos=0, credits=0)
    priced(**nothing, usage_source="none", list_cost_nanos=7, cost_nanos=7, credits=1)
    assert found(redis_connection) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cost_nanos": 58}, "58 nanos, 59 by the list, 6 credits"),
        ({"list_cost_nanos": 60}, "59 nanos, 60 by the list, 6 credits"),
        ({"credits": 5}, "59 nanos, 59 by the list, 5 credits"),
        ({"credits": 0, "cost_nanos": 0, "list_cost_nanos": 0}, "0 nanos, 0 by the list, 0 credits"),
    ],
)
def test_a_call_that_was_priced_otherwise(redis_connection, priced, changes, said):
    priced(**changes)
    assert found(redis_connection) == [("price", "59 nanos, 59 by the list, 6 credits", said)]


def test_a_call_is_priced_together_with_its_corrections(redis_connection, priced, journal):
    low = {"output_tokens": 0, "reasoning_tokens": 0, "cost_nanos": 42, "list_cost_nanos": 42, "credits": 5}
    event = priced(**low, usage_source="running", end_reason="lapsed")
    whole = msgspec.structs.replace(
        event, output_tokens=5, reasoning_tokens=2, cost_nanos=LISTED, list_cost_nanos=LISTED, credits=6
    )
    late(redis_connection, whole)
    drain(journal)
    assert UsageEvent.objects.filter(kind="correction").count() == 1
    assert found(redis_connection) == []


def test_a_correction_of_no_call(redis_connection, booked):
    execute("UPDATE usage_event SET kind = 'correction', corrects = gen_random_uuid()")
    ((check, _, said),) = found(redis_connection)
    assert (check, said) == ("correction", "no such call")


def test_books_of_one_brand_that_pay_for_another(redis_connection, booked):
    other = customer()
    execute(
        "UPDATE billing_ledgeraccount SET brand_id = %s WHERE id = (SELECT min(id) FROM billing_ledgeraccount)",
        other.brand.id,
    )
    assert [check for check, _, _ in found(redis_connection)] == ["ledger", "ledger"]


def test_a_call_in_two_events(redis_connection, booked):
    constraint = "ALTER TABLE usage_event DROP CONSTRAINT usage_event_pkey"
    execute("BEGIN")
    try:
        execute(constraint)
        execute("INSERT INTO usage_event SELECT * FROM usage_event")
        assert [each.found for each in reconcile_calls._twice()] == ["2 events"]
    finally:
        execute("ROLLBACK")


def test_a_call_settled_twice(redis_connection, booked):
    event = booked.customer.event()
    for _ in range(2):
        redis_connection.xadd(stream_of(booked.shard), entry(event))
    assert found(redis_connection) == [("call", "settled once", f"2 entries in shard {booked.shard}")]


def test_a_booked_call_settled_again(redis_connection, booked):
    call_id = str(UsageEvent.objects.get().call_id)
    redis_connection.xadd(stream_of(booked.shard), entry(booked.customer.event(call_id=call_id)))
    assert found(redis_connection) == [("call", "settled once", "booked, and settled again")]


def test_a_booked_call_that_is_held(redis_connection, booked, journal):
    event = booked.customer.event()
    booked.reserve(event)
    settle(redis_connection, event)
    drain(journal)
    assert found(redis_connection) == [("call", "no hold, it is booked", "a hold")]


def test_a_hold_long_past_its_lease(redis_connection, booked):
    (call_id,) = redis_connection.zrange(script.name(booked.shard, script.LEASES), 0, -1)
    now_ms = int(time.time() * 1000)
    redis_connection.zadd(script.name(booked.shard, script.LEASES), {call_id: now_ms - 55_000})
    assert found(redis_connection) == []
    redis_connection.zadd(script.name(booked.shard, script.LEASES), {call_id: now_ms - 63_000})
    ((check, _, said),) = found(redis_connection)
    assert check == "lease"
    assert "past its lease" in str(said)


def test_the_command_looks_deep_when_asked(redis_connection, booked, capsys):
    call_command("reconcile", "--deep")
    (call_id,) = redis_connection.zrange(script.name(booked.shard, script.LEASES), 0, -1)
    redis_connection.zadd(script.name(booked.shard, script.LEASES), {call_id: 1})
    call_command("reconcile")
    with pytest.raises(SystemExit):
        call_command("reconcile", "--deep")
    assert "past its lease" in capsys.readouterr().out


# The demo engine's log


class Log:
    """A call of ten tokens in and five out, and what the engine says of it."""

    def __init__(self, till: Till, journal: Journal) -> None:
        self.till, self.journal = till, journal
        self.engine = Engine.objects.create(name="demo", kind="vllm", base_url="http://127.0.0.1:1/v1")
        self.lines: list[dict[str, Any]] = [self.line("", 0, 0)]

    def line(self, request_id: str, prompt: int, output: int, **fields: Any) -> dict[str, Any]:
        usual = {"end": "stop", "started_at": time.time() - 610, "ended_at": time.time() - 600}
        counts = {"request_id": request_id, "prompt_tokens": prompt, "output_tokens": output}
        return {**counts, **usual, **fields}

    def call(self, prompt: int, output: int, **fields: Any) -> None:
        event = self.till.call(engine_id=self.engine.id, **fields)
        drain(self.journal)
        self.lines.append(self.line(event.call_id, prompt, output))

    def found(self, pending: Iterator[str] | tuple[str, ...] = ()) -> list[tuple[object, object]]:
        now = datetime.now(UTC)
        ids = [engine.id for engine in engine_counters.engines_at("http://127.0.0.1:1")]
        said = reconcile_engine_log.differences(self.lines, ids, list(pending), now)
        return [(each.expected, each.found) for each in said]


@pytest.fixture
def log(booked, journal) -> Log:
    return Log(booked, journal)


def test_a_log_that_agrees(log):
    log.call(10, 5)
    log.call(10, 9, usage_source="running", end_reason="client_gone")
    log.lines.append(log.line("probe", 7, 7))
    log.lines.append(log.line(log.till.customer.event().call_id, 0, 0, end="refused"))
    assert log.found() == []


@pytest.mark.parametrize(("prompt", "output"), [(10, 6), (11, 5), (10, 4)])
def test_a_call_of_which_the_engine_says_otherwise(log, prompt, output):
    log.call(prompt, output)
    assert log.found() == [(f"{prompt} in {output} out", "10 in 5 out")]


def test_a_cut_call_metered_beyond_what_was_done(log):
    log.call(10, 4, usage_source="running", end_reason="client_gone")
    assert log.found() == [("10 in 4 out, less 65 at most", "10 in 5 out")]


CUT = {"usage_source": "running", "end_reason": "lapsed", "stream": True}


@pytest.mark.parametrize(("made", "is_found"), [(5 + 64 + 25, False), (5 + 64 + 26, True)])
def test_a_cut_stream_metered_short_of_what_was_sent(log, made, is_found):
    """At a hundred tokens a second: less one interval's, and what a cut takes."""
    log.call(10, made, **CUT)
    log.lines[-1]["started_at"] = log.lines[-1]["ended_at"] - made / 100
    assert log.found() == ([(f"10 in {made} out, less 89 at most", "10 in 5 out")] if is_found else [])


@pytest.mark.parametrize("end", ["client_gone", "upstream_cut", "lapsed"])
def test_a_stream_of_which_nothing_was_heard_though_much_was_sent(log, end):
    nothing = {"uncached_input_tokens": 0, "output_tokens": 0, "cost_nanos": 0, "list_cost_nanos": 0}
    log.call(10, 500, **nothing, usage_source="none", end_reason=end, stream=True)
    log.call(10, 500, **nothing, usage_source="none", end_reason=end)  # a whole answer, which nobody got
    log.call(10, 5, **nothing, usage_source="none", end_reason=end, stream=True)
    assert [said for _, said in log.found()] == ["0 in 0 out"]


def test_an_answer_that_was_given_for_nothing(log):
    nothing = {"uncached_input_tokens": 0, "output_tokens": 0, "cost_nanos": 0, "list_cost_nanos": 0}
    log.call(10, 5, **nothing, usage_source="none", end_reason="stop")
    assert [said for _, said in log.found()] == ["0 in 0 out"]


def test_a_cut_stream_whose_prompt_was_not_charged(log):
    log.call(11, 5, **CUT)
    assert [said for _, said in log.found()] == ["10 in 5 out"]


def test_a_call_that_the_engine_did_and_nobody_booked(log):
    lost = log.till.customer.event().call_id
    log.lines.append(log.line(lost, 3, 4))
    assert log.found() == [("an event", "none; it did 3 in 4 out")]
    assert log.found((lost,)) == []
    log.lines[-1]["ended_at"] = (datetime.now(UTC) - timedelta(seconds=60)).timestamp()
    assert log.found() == []


def test_a_call_that_the_engine_knows_nothing_of(log):
    log.call(10, 5)
    log.lines.pop()
    assert log.found() == [("nothing done", "10 in 5 out")]
