"""One customer's calls through admission, on a real Redis."""

import asyncio

import pytest

from billing import wal
from billing.admission import Reason, Refused
from billing.events import counted, decode
from tests.billing.stage import ONE_NANO_EACH, RATE, Stage, limit


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
    async with stage(rate=RATE.__class__(id=9, from_ms=0, input_picos=1)) as s:
        with pytest.raises(Refused) as refused:
            await s.reserve()
        assert refused.value.refusal.reason == Reason.PRICE_MISSING
