"""One customer's calls through admission, on a real Redis."""

import asyncio
import dataclasses
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from billing import script, wal
from billing.admission import Reason, Refused, StoreUnavailable
from billing.events import counted, decode
from billing.usage import Usage
from keys.caller import KeyReason, check_static
from keys.directory import KeyRefused
from tests.billing.stage import (
    ONE_NANO_EACH,
    RATE,
    Stage,
    limit,
    model,
    open_epoch,
    publish,
    with_limits,
    with_policy,
    with_version,
)


@pytest.fixture
def stage(redis_connection, wal_dir, settings):
    def made(*limits, **fields):
        return Stage(redis_connection, wal_dir, settings.REDIS_URL, *limits, **fields)

    return made


async def test_a_call_is_held_charged_and_journaled(stage):
    async with stage(limit("tokens", "day", 10_000)) as s:
        hold = await s.reserve(prompt=100, wanted=1000)
        assert (hold.granted, hold.applied, hold.payer, hold.held_nanos) == (1000, False, "prepaid", 420_000)
        assert s.account() == {"bal": 10**12, "seq": 0, "held": 420_000}
        assert s.counted()["tok.h"] == 1100
        charge = await s.settle(hold, input=90, output=50)
        assert charge.cost_nanos == (90 * 200_000 + 50 * 400_000) // 1000
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 38_000, "seq": 0, "held": 0}
        assert s.nothing_is_held()
        (entry,) = s.entries()
        event = decode(entry["e"].encode())
        assert entry["late"] == "0"
        assert {unit: int(entry[unit]) for unit in counted(event).by_unit()} == counted(event).by_unit()
        assert int(entry["bal"]) == event.cost_nanos == charge.cost_nanos
        kinds = [line.kind for line in wal.read(s.wal.path).lines]
        assert kinds == [wal.HEADER, wal.DISPATCHED, wal.SETTLED]


async def test_five_hundred_parallel_calls_on_a_balance_for_ten(stage):
    async with stage(balance=10_000, rate=ONE_NANO_EACH) as s:

        async def call():
            try:
                return await s.reserve(prompt=0, wanted=1000)
            except Refused as refused:
                return refused.refusal

        answers = await asyncio.gather(*(call() for _ in range(500)))
        holds = [answer for answer in answers if not hasattr(answer, "reason")]
        refusals = [answer for answer in answers if hasattr(answer, "reason")]
        assert len(holds) == 10
        assert {refusal.reason for refusal in refusals} == {Reason.QUOTA_IN_FLIGHT}
        for hold in holds:
            await s.settle(hold, input=0, output=1000)
        await s.admission.drain(5)
        assert s.account() == {"bal": 0, "seq": 0, "held": 0}
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=0, wanted=1000)
        assert refused.value.refusal.reason == Reason.INSUFFICIENT_QUOTA


async def test_a_wish_that_does_not_fit_is_lowered_never_below_sixteen(stage):
    async with stage(balance=100, rate=ONE_NANO_EACH) as s:
        hold = await s.reserve(prompt=0, wanted=1000)
        assert (hold.granted, hold.applied) == (100, True)
        await s.admission.void(hold)
        await s.admission.drain(5)
    async with stage(balance=15, rate=ONE_NANO_EACH) as s:
        with pytest.raises(Refused):
            await s.reserve(prompt=0, wanted=1000)
        assert (await s.reserve(prompt=0, wanted=15)).granted == 15


async def test_a_price_that_is_missing_refuses(stage):
    async with stage(rate=msgspec.structs.replace(RATE, output_picos=None)) as s:
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert refused.value.refusal.reason == Reason.PRICE_MISSING


async def test_what_a_worker_knows_too_old_of_is_reloaded_once_and_then_served(stage, redis_connection):
    async with stage(limit("tokens", "day", 10_000)) as s:
        await s.admission.void(await s.reserve())
        newer = with_version(s.caller, 8)
        s.sources.caller = newer
        publish(redis_connection, newer, s.snapshot)
        hold = await s.reserve()
        assert (hold.caller.key_version, s.sources.reloads) == (8, ["caller"])
        s.sources.snapshot = with_policy(s.snapshot, 44, tiers=(with_limits(s.snapshot.tiers[0]),))
        publish(redis_connection, newer, s.sources.snapshot)
        hold = await s.reserve(caller=newer)
        assert (hold.snapshot.version, s.sources.reloads) == (44, ["caller", "snapshot"])


async def test_a_reloaded_caller_is_judged_statically_again(stage, redis_connection):
    async with stage() as s:
        publish(redis_connection, with_version(s.caller, 8), s.snapshot)
        s.sources.caller = with_version(s.caller, 8)

        def revoked(who, what):
            raise PermissionError("the key was revoked")

        s.sources.recheck = revoked
        with pytest.raises(PermissionError):
            await s.reserve()
        assert s.nothing_is_held()


async def test_a_record_that_does_not_come_to_rest_is_not_waited_for(stage, redis_connection):
    async with stage() as s:
        publish(redis_connection, with_version(s.caller, 8), s.snapshot)
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        assert len(s.sources.reloads) < 10


async def test_calls_that_reserve_nothing_are_checked_too(stage, redis_connection):
    async with stage() as s:
        assert await s.admission.check(s.caller, s.snapshot) == (s.caller, s.snapshot)
        newer = s.sources.caller = with_version(s.caller, 8)
        publish(redis_connection, newer, s.snapshot)
        assert (await s.admission.check(s.caller, s.snapshot))[0] is newer


async def test_only_running_calls_in_the_way_is_told_from_used_up(stage):
    async with stage(limit("tokens", "day", 2_000)) as s:
        first = await s.reserve(prompt=500, wanted=1000)
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=600, wanted=100)
        refusal = refused.value.refusal
        assert (refusal.reason, refusal.in_flight, refusal.name) == ("quota_in_flight", True, "organization.tokens.day")
        assert (refusal.limit, refusal.used, refusal.held, refusal.need) == (2_000, 0, 1_500, 616)
        await s.settle(first, input=500, output=1000)
        await s.admission.drain(5)
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=600, wanted=100)
        refusal = refused.value.refusal
        assert (refusal.reason, refusal.exhausted, refusal.used) == ("insufficient_quota", True, 1_500)
        assert (refusal.resets_at_ms or 1) % 86_400_000 == 0
        assert not refusal.is_impossible


async def test_a_call_larger_than_its_limit_can_never_be_served(stage):
    async with stage(limit("input", "minute", 50)) as s:
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=51)
        refusal = refused.value.refusal
        assert (refusal.reason, refusal.is_impossible, refusal.resets_at_ms) == ("rate_limited", True, None)


async def test_a_minute_says_when_there_is_room_again(stage):
    async with stage(limit("requests", "minute", 2)) as s:
        for _ in range(2):
            await s.settle(await s.reserve())
        await s.admission.drain(5)
        with pytest.raises(Refused) as refused:
            await s.reserve()
        refusal = refused.value.refusal
        wait_ms = (refusal.resets_at_ms or 0) - s.counters.now_ms()
        assert refusal.reason == "rate_limited"
        assert 30_000 < wait_ms <= 60_000 + 31_000  # the second of the two has faded by half a minute after


async def test_of_full_slots_and_a_used_up_month_the_month_is_named(stage):
    """What a retry helps with is named only where a retry helps."""
    limits = (limit("concurrent", "minute", 1), limit("requests", "month", 2))
    async with stage(*limits) as s:
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        running = await s.reserve()
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert refused.value.refusal.reason == "concurrency", "the month is held by the one that runs, as the slot is"
        s.caller = with_overrides(s.caller, override("requests", "month", 1))
        publish(s.sync, s.caller, s.snapshot)
        with pytest.raises(Refused) as refused:
            await s.reserve()
        refusal = refused.value.refusal
        assert (refusal.name, refusal.reason) == ("organization.requests.month", "insufficient_quota")
        await s.settle(running)
        await s.admission.drain(5)
        assert s.nothing_is_held()


async def test_where_no_call_is_let_run_nothing_else_is_named(stage):
    async with stage(limit("concurrent", "minute", 0), limit("requests", "day", 0)) as s:
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert (refused.value.refusal.name, refused.value.refusal.exhausted) == ("organization.concurrent", True)


async def test_slots_of_key_and_organization_are_counted_apart(stage):
    async with stage(limit("concurrent", "minute", 3), limit("concurrent", "minute", 2, "key")) as s:
        other = dataclasses.replace(s.caller, key_id=12)
        publish(s.sync, other, s.snapshot)
        holds = [await s.reserve(), await s.reserve()]
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert refused.value.refusal.name == "key.concurrent"
        holds.append(await s.reserve(caller=other))
        with pytest.raises(Refused) as refused:
            await s.reserve(caller=other)
        assert refused.value.refusal.name == "organization.concurrent"
        for hold in holds:
            await s.settle(hold)
        await s.admission.drain(5)
        assert s.nothing_is_held()
        await s.reserve()


async def test_included_calls_cost_nothing_and_keep_the_list_price(stage):
    async with stage(limit("tokens", "day", 2_000), payer="included", balance=0) as s:
        hold = await s.reserve()
        assert (hold.payer, hold.held_nanos) == ("included", 0)
        charge = await s.settle(hold)
        assert (charge.cost_nanos, charge.list_cost_nanos) == (0, 38_000)
        await s.admission.drain(5)
        assert s.account() == {"bal": 0, "seq": 0}
        assert (s.counted()["nano.p"], s.counted()["tok.p"]) == (0, 140)


async def test_past_the_allotment_the_balance_pays(stage):
    allotment = limit("tokens", "day", 1_500, is_allotment=True)
    async with stage(allotment, payer="included_then_prepaid", balance=420_000) as s:
        first = await s.reserve(prompt=100, wanted=1000)
        assert first.payer == "included"
        second = await s.reserve(prompt=100, wanted=1000)  # 400 are left of the allotment: the balance serves whole
        assert (second.payer, second.granted) == ("prepaid", 1000)
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=100, wanted=1000)
        assert refused.value.refusal.reason == "quota_in_flight"
        await s.settle(first, input=100, output=1000)
        await s.settle(second, input=10, output=10)
        await s.admission.drain(5)
        third = await s.reserve(prompt=10, wanted=1000)  # 380 are left of the allotment, and 412,000 nanos
        assert (third.payer, third.granted) == ("prepaid", 1000)
        fourth = await s.reserve(prompt=10, wanted=20)
        assert (fourth.payer, fourth.held_nanos) == ("prepaid", 10_000)


async def test_a_charge_is_never_above_its_hold(stage):
    async with stage() as s:
        hold = await s.reserve(prompt=100, wanted=50)
        charge = await s.settle(hold, input=5_000, output=5_000)
        assert charge.cost_nanos == hold.held_nanos == (100 * 200_000 + 50 * 400_000) // 1000
        assert charge.flags == ("usage_above_hold",)
        assert charge.list_cost_nanos == 3_000_000
        await s.admission.drain(5)
        assert s.counted()["tok.p"] == 10_000  # windows count what was used


async def test_impossible_usage_is_clamped_and_flagged(stage):
    async with stage() as s:
        hold = await s.reserve(prompt=100, wanted=50)
        charge = await s.settle(hold, usage=Usage(input=-5, output=2**60, cache_read=-1, reasoning=-9))
        assert charge.cost_nanos == hold.held_nanos
        assert set(charge.flags) == {"usage_clamped", "usage_above_hold"}
        await s.admission.drain(5)
        assert s.nothing_is_held()
        assert decode(s.entries()[0]["e"].encode()).uncached_input_tokens == 0


async def test_the_providers_failures_cost_nothing_but_have_their_event(stage):
    async with stage() as s:
        hold = await s.reserve()
        await s.admission.dispatched(hold, 1)
        await s.admission.void(hold)
        assert hold.charge == (0, 0, (), 0)
        other = await s.reserve()
        await s.settle(other, usage=Usage(input=3), end_reason="upstream_error", billable=False, http_status=502)
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12, "seq": 0, "held": 0}
        assert [decode(entry["e"].encode()).end_reason for entry in s.entries()] == ["upstream_error"] * 2


async def test_settling_twice_charges_once(stage):
    async with stage() as s:
        hold = await s.reserve()
        first = await s.settle(hold)
        assert await s.settle(hold, input=99) == first
        await s.admission.void(hold)
        await s.admission.drain(5)
        assert len(s.entries()) == 1


async def test_a_call_is_counted_on_the_day_on_which_it_was_reserved(stage, redis_connection, monkeypatch):
    """Yesterday's hold settles today: on yesterday's windows."""
    async with stage(limit("tokens", "day", 10_000)) as s:
        hold = await s.reserve()
        shard, organization = s.caller.shard, s.caller.organization.id
        today = f"d{hold.day}"
        (found,) = redis_connection.hmget(script.name(shard, script.HOLDS), hold.call_id)
        redis_connection.hset(
            script.name(shard, script.HOLDS), hold.call_id, found.replace(today.encode(), b"d20261119")
        )
        redis_connection.rename(
            script.name(shard, f"w:{organization}:{today}"), script.name(shard, f"w:{organization}:d20261119")
        )
        await s.reserve()  # begins a new day
        await s.settle(hold)
        await s.admission.drain(5)
        yesterday = {
            k: int(v) for k, v in redis_connection.hgetall(script.name(shard, f"w:{organization}:d20261119")).items()
        }
        assert (yesterday[b"o.tok.p"], yesterday[b"o.tok.h"]) == (140, 0)
        assert redis_connection.hget(script.name(shard, f"w:{organization}:{today}"), "o.tok.p") == b"0"
        assert redis_connection.hget(script.name(shard, f"w:{organization}:{today}"), "o.tok.h") == b"1100"


async def test_redis_clock_decides_the_day(stage, monkeypatch):
    """A worker whose clock is a day behind learns Redis' day at its first try, and is served."""
    monkeypatch.setattr(time, "time", lambda real=time.time: real() - 86_400)
    async with stage(limit("tokens", "day", 10_000)) as s:
        hold = await s.reserve()
        seconds, _ = s.sync.time()
        assert hold.day == datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d")
        assert abs(s.counters.now_ms() / 1000 - seconds) < 2


async def test_a_brands_day_begins_in_its_own_zone(stage):
    async with stage(limit("tokens", "day", 10_000), zone="Pacific/Kiritimati") as s:
        hold = await s.reserve()
        assert hold.day == datetime.now(ZoneInfo("Pacific/Kiritimati")).strftime("%Y%m%d")
        (day,) = [state for state in hold.limits if state.name == "organization.tokens.day"]
        assert datetime.fromtimestamp((day.resets_at_ms or 0) / 1000, ZoneInfo("Pacific/Kiritimati")).hour == 0


async def test_a_price_that_begins_now_is_taken_at_the_next_try(stage, redis_connection):
    now = int(time.time() * 1000)
    old = msgspec.structs.replace(RATE, until_ms=now + 150)
    new = msgspec.structs.replace(RATE, id=2, from_ms=now + 150, output_picos=800_000)
    async with stage() as s:
        s.snapshot = with_policy(s.snapshot, 3, models=(model(old, rates=(old, new)),))
        s.model = s.snapshot.models[0]
        assert (await s.reserve()).rate.id == 1
        await asyncio.sleep(0.3)
        s.counters.clock_offset_ms -= 10_000  # it believes the old price still holds
        assert (await s.reserve()).rate.id == 2


def with_overrides(caller, *overrides):
    return dataclasses.replace(caller, organization=dataclasses.replace(caller.organization, overrides=overrides))


def override(unit, window, amount, until_ms=None):
    return {
        "unit": unit,
        "window": window,
        "scope": "organization",
        "model_id": None,
        "amount": amount,
        "until_ms": until_ms,
    }


async def test_an_exception_holds_until_its_end_by_redis_clock(stage):
    async with stage(limit("requests", "day", 1), limit("tokens", "day", 100_000)) as s:
        ends_ms = int(time.time() * 1000) + 400
        s.caller = with_overrides(s.caller, override("requests", "day", 3, ends_ms))
        for _ in range(3):
            await s.settle(await s.reserve())
        with pytest.raises(Refused) as raised:
            await s.reserve()
        assert (raised.value.refusal.limit, raised.value.refusal.used) == (3, 3)
        await asyncio.sleep(0.5)
        s.counters.clock_offset_ms -= 10_000  # it believes the exception still holds
        with pytest.raises(Refused) as raised:
            await s.reserve()
        assert (raised.value.refusal.limit, raised.value.refusal.used) == (1, 3)


async def test_an_exception_may_add_a_limit_that_the_tier_has_not(stage):
    async with stage(limit("requests", "day", 100)) as s:
        s.caller = with_overrides(s.caller, override("concurrent", "minute", 1))
        await s.reserve()
        with pytest.raises(Refused) as raised:
            await s.reserve()
        assert raised.value.refusal.reason is Reason.CONCURRENCY


async def test_a_limit_on_trial_counts_and_tells_but_refuses_nobody(stage):
    async with stage(limit("requests", "day", 2, is_shadow=True), limit("tokens", "day", 100_000)) as s:
        for _ in range(2):
            hold = await s.reserve()
            assert hold.shadowed == ()
            await s.settle(hold)
            await s.admission.drain(5)
        hold = await s.reserve()
        assert hold.shadowed == ("organization.requests.day",)
        assert "organization.requests.day" not in {state.name for state in hold.limits}, "nobody is told of it"


async def test_a_tighter_limit_on_trial_tells_while_the_one_that_holds_refuses(stage):
    async with stage(limit("requests", "day", 2), limit("requests", "day", 1, is_shadow=True)) as s:
        told = []
        for _ in range(2):
            hold = await s.reserve()
            told.append(hold.shadowed)
            await s.settle(hold)
        assert told == [(), ("organization.requests.day",)]
        with pytest.raises(Refused) as raised:
            await s.reserve()
        assert raised.value.refusal.limit == 2


async def test_a_key_ends_by_redis_clock_however_far_behind_the_workers_is(stage):
    async with stage() as s:
        ends_ms = int(time.time() * 1000) + 150
        s.caller = dataclasses.replace(s.caller, expires_at_ms=ends_ms)
        s.sources.caller = s.caller

        def recheck(caller, snapshot):
            if check_static(caller, s.counters.now_ms(), None) is not None:
                raise KeyRefused(KeyReason.KEY_EXPIRED)
            return s.model

        s.sources.recheck = recheck
        await s.settle(await s.reserve())
        await asyncio.sleep(0.2)
        s.counters.clock_offset_ms -= 10_000  # it believes the key has seconds left
        with pytest.raises(KeyRefused):
            await s.reserve()
        await s.admission.drain(5)
        assert s.nothing_is_held()


async def test_limits_show_what_is_left_after_this_call(stage):
    async with stage(limit("requests", "minute", 10), limit("tokens", "day", 10_000)) as s:
        await s.settle(await s.reserve())
        await s.admission.drain(5)
        hold = await s.reserve()
        states = {state.name: state for state in hold.limits}
        requests, tokens = states["organization.requests.minute"], states["organization.tokens.day"]
        assert (requests.limit, requests.posted + requests.held) == (10, 2)
        assert (tokens.limit, tokens.posted, tokens.held) == (10_000, 140, 1_100)
        balance = states["balance"]
        assert (balance.limit, balance.held, balance.window) == (10**12 - 38_000, 420_000, "")
        assert (balance.resets_at_ms, (tokens.resets_at_ms or 1) % 86_400_000) == (None, 0)
        assert 60_000 <= (requests.resets_at_ms or 0) - hold.reserved_at_ms <= 120_000, "used: in the next bucket, too"
        assert all(state.limit is not None for state in states.values()), "what is only counted is no limit"


async def test_usage_shows_the_windows_and_holds_nothing(stage):
    async with stage(
        limit("tokens", "day", 10_000), limit("tokens", "day", 500, "model"), limit("requests", "day", 7, "key")
    ) as s:
        empty = {state.name: state.posted for state in await s.admission.usage(s.caller, s.snapshot)}
        assert empty["organization.tokens.day"] == 0
        await s.settle(await s.reserve(prompt=100, wanted=100))
        await s.admission.drain(5)
        states = {state.name: state for state in await s.admission.usage(s.caller, s.snapshot)}
        assert (states["organization.tokens.day"].posted, states["organization.tokens.day"].limit) == (140, 10_000)
        assert (states["key.requests.day"].posted, states["key.requests.day"].limit) == (1, 7)
        assert states["balance"].limit == 10**12 - 38_000
        assert "model.tokens.day" not in states
        assert s.nothing_is_held()


async def test_drain_says_what_is_left(stage, monkeypatch):
    async with stage() as s:
        s.admission.start()
        hold = await s.reserve()
        s.sync.delete(script.name(s.caller.shard, script.EPOCH))
        await s.settle(hold)
        assert await s.admission.drain(0.05) == 1
        open_epoch(s.sync)
        assert await s.admission.drain(5) == 0
        assert s.account()["bal"] == 10**12 - 38_000


async def test_a_worker_learns_a_new_epoch(stage):
    async with stage() as s:
        await s.admission.void(await s.reserve())
        open_epoch(s.sync, 5_000)
        assert (await s.reserve()).granted == 1000
        assert s.counters.epochs[s.caller.shard] == 5_000


async def test_the_worst_case_beyond_what_a_hold_may_be_is_refused(stage):
    dear = msgspec.structs.replace(RATE, output_picos=2**52)
    async with stage(rate=dear) as s:
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert refused.value.refusal.reason == Reason.HOLD_TOO_LARGE


async def test_embeddings_want_no_output(stage):
    async with stage(limit("output", "day", 0)) as s:
        hold = await s.reserve(prompt=100, wanted=0)
        assert (hold.granted, hold.applied, hold.held_nanos) == (0, False, 20_000)


async def test_credits_by_the_thousand_tokens_are_held_at_worst_and_settled_exactly(stage):
    """3 a call and 2 per 1,000 tokens, of 10 in all; the second quota, a month's, is tighter."""
    rate = msgspec.structs.replace(RATE, credits_per_request=3, credits_per_1000_tokens=2)
    limits = (limit("credits", "day", 100), limit("credits", "month", 10))
    async with stage(*limits, rate=rate, payer="included") as s:
        hold = await s.reserve(prompt=500, wanted=3_000)
        assert (hold.granted, s.counted()["cred.h"]) == (3_000, 10)
        await s.settle(hold, input=400, output=101)  # 1.002 credits of tokens are 2
        await s.admission.drain(5)
        assert (s.counted()["cred.p"], s.counted()["cred.h"]) == (5, 0)
        assert decode(s.entries()[0]["e"].encode()).credits == 5
        lowered = await s.reserve(prompt=500, wanted=3_000)
        assert (lowered.granted, lowered.applied) == (500, True)  # 3 + ceil(2 · 1,000 / 1,000) = the 5 that are left
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=1, wanted=16)
        assert (refused.value.refusal.name, refused.value.refusal.reason) == (
            "organization.credits.month",
            Reason.QUOTA_IN_FLIGHT,
        )
        await s.admission.void(lowered)
        await s.admission.drain(5)
        assert s.nothing_is_held()


async def test_a_call_that_failed_takes_no_credits(stage):
    rate = msgspec.structs.replace(RATE, credits_per_request=3, credits_per_1000_tokens=2)
    async with stage(limit("credits", "day", 100), rate=rate, payer="included") as s:
        hold = await s.reserve()
        await s.settle(hold, input=100, output=100, billable=False)
        await s.admission.drain(5)
        assert (s.counted()["cred.p"], s.counted()["cred.h"]) == (0, 0)
