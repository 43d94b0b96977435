"""Holds always end: a lease that nobody renews settles at the last usage that was heard of, once."""

import asyncio

import msgspec
import pytest

from billing import admission, leases, script
from billing.admission import Refused
from billing.events import decode
from billing.usage import Usage
from tests.billing.stage import RATE, Stage, call_id, limit


@pytest.fixture
def stage(redis_connection, wal_dir, settings, monkeypatch):
    monkeypatch.setattr(admission, "LEASE_MS", 250)
    monkeypatch.setattr(leases, "GRACE_MS", 50)

    def made(*limits, **fields):
        return Stage(redis_connection, wal_dir, settings.REDIS_URL, *limits, **fields)

    return made


async def renewed(s, hold):
    s.admission._renew(hold)
    await s.counters.submit(("void", s.caller.shard, 0, "nobody"))  # of the same turn, so of the same script call
    await asyncio.sleep(0)


async def test_a_lapsed_call_is_charged_what_was_last_heard(stage, redis_connection):
    async with stage(limit("tokens", "day", 10_000)) as s:
        hold = await s.reserve(stream=True, address="192.0.2.7")
        await s.admission.dispatched(hold, 3)
        s.admission.progress(hold, Usage(input=90, output=20))
        await renewed(s, hold)
        assert leases.sweep(redis_connection) == 0  # it has a lease
        await asyncio.sleep(0.4)
        assert leases.sweep(redis_connection) == 1
        assert leases.sweep(redis_connection) == 0
        (entry,) = s.entries()
        event = decode(entry["e"].encode())
        assert (event.end_reason, event.usage_source, event.engine_id) == ("lapsed", "running", 3)
        assert (event.output_tokens, event.cost_nanos) == (20, (90 * 200_000 + 20 * 400_000) // 1000)
        assert (event.address, event.stream, event.held_nanos) == ("192.0.2.7", True, 420_000)
        estimate = hold.estimate
        bounds = (estimate.prompt_tokens_max, hold.granted, estimate.choices)
        assert (event.prompt_tokens_max, event.granted_tokens, event.choices) == bounds
        assert (entry["late"], entry["tok"]) == ("0", "110")
        assert s.account() == {"bal": 10**12 - event.cost_nanos, "seq": 0, "held": 0}
        assert s.counted()["tok.p"] == 110
        assert s.nothing_is_held()


async def test_a_lapsed_call_takes_the_credits_of_what_was_last_heard(stage, redis_connection):
    rate = msgspec.structs.replace(RATE, credits_per_request=3, credits_per_1000_tokens=2)
    async with stage(limit("credits", "day", 100), rate=rate) as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 3)
        s.admission.progress(hold, Usage(input=900, output=101))
        await renewed(s, hold)
        await asyncio.sleep(0.4)
        assert leases.sweep(redis_connection) == 1
        assert decode(s.entries()[0]["e"].encode()).credits == 6
        assert s.counted()["cred.p"] == 6


async def test_a_worker_that_wakes_up_late_tells_the_journal_and_changes_nothing_else(stage, redis_connection):
    async with stage() as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        await asyncio.sleep(0.4)
        leases.sweep(redis_connection)
        balance = s.account()["bal"]
        await renewed(s, hold)
        assert hold.lapsed
        await s.settle(hold)
        await s.admission.drain(5)
        assert [entry["late"] for entry in s.entries()] == ["0", "1"]
        assert s.account()["bal"] == balance
        assert decode(s.entries()[1]["e"].encode()).cost_nanos == 38_000


async def test_a_call_of_which_nothing_was_heard_costs_nothing(stage, redis_connection):
    async with stage() as s:
        await s.reserve()
        await asyncio.sleep(0.4)
        assert leases.sweep(redis_connection) == 1
        event = decode(s.entries()[0]["e"].encode())
        assert (event.cost_nanos, event.credits, event.usage_source, event.end_reason) == (0, 0, "none", "lapsed")
        assert s.account() == {"bal": 10**12, "seq": 0, "held": 0}


async def test_a_lapsed_charge_is_no_more_than_was_held(stage, redis_connection):
    async with stage() as s:
        hold = await s.reserve()
        s.admission.progress(hold, Usage(input=5_000, output=5_000))
        await renewed(s, hold)
        await asyncio.sleep(0.4)
        leases.sweep(redis_connection)
        event = decode(s.entries()[0]["e"].encode())
        assert (event.cost_nanos, event.flags) == (hold.held_nanos, ("usage_above_hold",))


async def test_a_lease_that_was_renewed_meanwhile_is_kept(stage, redis_connection, monkeypatch):
    async with stage() as s:
        hold = await s.reserve()
        await asyncio.sleep(0.4)
        listed = script.run(redis_connection, [("due", s.caller.shard, 0, 50, 10)])
        await renewed(s, hold)
        (found,) = listed[0][2]
        entry = leases._lapse_entry(s.caller.shard, found, listed[0][1])
        assert script.run(redis_connection, [entry])[0][0] == "KEPT"
        await s.settle(hold)
        assert script.run(redis_connection, [entry])[0][0] == "KEPT"
        await s.admission.drain(5)
        assert [entry["late"] for entry in s.entries()] == ["0"]


async def test_leases_are_renewed_while_a_call_runs(stage, redis_connection, monkeypatch):
    monkeypatch.setattr(admission, "RENEW_MS", 20)
    monkeypatch.setattr(admission, "TICK_SECONDS", 0.02)
    async with stage(limit("concurrent", "minute", 1)) as s:
        s.admission.start()
        hold = await s.reserve()
        for _ in range(8):
            await asyncio.sleep(0.08)
            assert leases.sweep(redis_connection) == 0
        with pytest.raises(Refused):
            await s.reserve()
        assert not hold.lapsed
        await s.settle(hold)


async def test_a_call_far_past_its_deadline_is_renewed_no_more(stage, redis_connection, monkeypatch):
    monkeypatch.setattr(admission, "RENEW_MS", 10)
    monkeypatch.setattr(admission, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(admission, "OVERTIME_MS", -900_000 + 50)  # 50 ms after it was reserved
    async with stage() as s:
        s.admission.start()
        await s.reserve()
        await asyncio.sleep(0.6)
        assert leases.sweep(redis_connection) == 1


async def test_a_slot_whose_lease_ran_out_is_free_before_anybody_sweeps(stage):
    async with stage(limit("concurrent", "minute", 1, "key")) as s:
        await s.reserve()
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert (refused.value.refusal.reason, refused.value.refusal.held) == ("concurrency", 1)
        await asyncio.sleep(0.4)
        await s.reserve()


async def test_a_hold_that_cannot_be_read_ends_at_no_cost(stage, redis_connection, caplog):
    async with stage() as s:
        await s.reserve()
        strange = call_id()
        entry = ("reserve", s.caller.shard, 1000, strange, s.admission._templates._known[11, 7].static)
        rest = (10, 10, [1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1000], 60, 2**52, "no facts")
        assert script.run(redis_connection, [(*entry, *rest)])[0][0] == "OK"
        await asyncio.sleep(0.4)
        assert leases.sweep(redis_connection) == 2
        assert strange in caplog.text
        assert s.nothing_is_held()
        events = [decode(found["e"].encode()) for found in s.entries()]
        assert [(event.cost_nanos, event.brand_id) for event in events] == [(0, 2), (0, 2)]
