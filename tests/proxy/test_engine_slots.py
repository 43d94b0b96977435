import asyncio

import pytest

from proxy.engine_slots import EngineSlots, Slot
from proxy.refusals import Declined, Reason


async def test_an_engine_takes_no_more_than_its_slots() -> None:
    slots = EngineSlots()
    for organization in range(4):
        await slots.acquire(1, 4, organization, 0)
    with pytest.raises(Declined) as caught:
        await slots.acquire(1, 4, 9, 0.01)
    assert caught.value.problem.reason is Reason.ENGINE_BUSY
    assert slots.in_flight() == {1: 4}


async def test_one_organization_cannot_take_the_whole_engine() -> None:
    slots = EngineSlots()
    for _ in range(3):
        await slots.acquire(1, 4, 1, 0)
    with pytest.raises(Declined):
        await slots.acquire(1, 4, 1, 0.01)
    await slots.acquire(1, 4, 2, 0)


async def test_a_freed_slot_goes_to_who_runs_least() -> None:
    slots = EngineSlots()
    flood = [await slots.acquire(1, 8, 1, 0) for _ in range(7)]
    await slots.acquire(1, 8, 3, 0)
    order: list[int] = []

    async def call(organization: int) -> None:
        await slots.acquire(1, 8, organization, 5)
        order.append(organization)

    calls = [asyncio.create_task(call(organization)) for organization in (1, 1, 2)]
    await asyncio.sleep(0)
    for slot in flood[:3]:
        slots.release(slot)
    await asyncio.gather(*calls)
    assert order == [2, 1, 1]


async def test_a_waiter_gets_the_slot_that_is_freed_in_time() -> None:
    slots = EngineSlots()
    slot = await slots.acquire(1, 1, 1, 0)
    waiter = asyncio.create_task(slots.acquire(1, 1, 2, 5))
    await asyncio.sleep(0)
    slots.release(slot)
    assert (await waiter).organization_id == 2
    assert slots.in_flight() == {1: 1}


async def test_a_waiter_that_gives_up_leaves_nothing_behind() -> None:
    slots = EngineSlots(clock=lambda: 0.0)
    slots.release(await slots.acquire(1, 1, 1, 0))  # calls take no time: a slot is expected at once
    slot = await slots.acquire(1, 1, 1, 0)
    cancelled = asyncio.create_task(slots.acquire(1, 1, 2, 5))
    late = asyncio.create_task(slots.acquire(1, 1, 3, 0.01))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(Declined):
        await late
    slots.release(slot)
    await slots.acquire(1, 1, 4, 0)
    assert slots.in_flight() == {1: 1}


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_gives_the_slot_on() -> None:
    slots = EngineSlots()
    slot = await slots.acquire(1, 1, 1, 0)
    first = asyncio.create_task(slots.acquire(1, 1, 2, 5))
    second = asyncio.create_task(slots.acquire(1, 1, 3, 5))
    await asyncio.sleep(0)
    slots.release(slot)
    first.cancel()
    assert (await second).organization_id == 3
    with pytest.raises(asyncio.CancelledError):
        await first
    assert slots.in_flight() == {1: 1}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def full(clock: Clock, *, capacity: int, kept_s: float) -> EngineSlots:
    """An engine whose calls keep their slots for `kept_s`, all taken by organizations of one call each."""
    slots = EngineSlots(clock)
    slot = await slots.acquire(1, capacity, 1, 0)
    clock.now += kept_s
    slots.release(slot)
    for organization in range(capacity):
        await slots.acquire(1, capacity, 1_000 + organization, 0)
    return slots


async def let_wait(slots: EngineSlots, capacity: int, organizations: list[int]) -> int:
    """How many of these callers are let wait; the others are refused before anybody's turn comes."""
    calls = [asyncio.create_task(slots.acquire(1, capacity, organization, 2.0)) for organization in organizations]
    await asyncio.sleep(0)
    waiting = [call for call in calls if not call.done()]
    for call in calls:
        call.cancel()
    refused = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(error, Declined) for error in refused) == len(calls) - len(waiting)
    return len(waiting)


@pytest.mark.parametrize(("kept_s", "let"), [(0.0, 40), (0.1, 40), (0.5, 18), (1.0, 9), (4.0, 2), (9.5, 0)])
async def test_who_cannot_expect_a_slot_in_time_is_refused_at_once(kept_s: float, let: int) -> None:
    """Ten slots, of which one organization can have nine; half of two seconds is what may be expected."""
    slots = await full(Clock(), capacity=10, kept_s=kept_s)
    assert await let_wait(slots, 10, [1] * 60) == let


@pytest.mark.parametrize(("kept_s", "let"), [(1.0, 9), (0.1, 40)])
async def test_a_queue_of_one_organization_does_not_close_it_to_another(kept_s: float, let: int) -> None:
    slots = await full(Clock(), capacity=10, kept_s=kept_s)
    assert await let_wait(slots, 10, [1] * 60 + [2]) == let + 1


async def test_who_waits_for_what_it_may_not_have_keeps_nobody_from_a_free_slot() -> None:
    """Seven of eight slots are one organization's, and it waits for more: the eighth is for the others, at once,
    however long calls keep theirs and whether the caller would wait or not."""
    clock = Clock()
    slots = EngineSlots(clock)
    flood = [await slots.acquire(1, 8, 1, 0) for _ in range(7)]
    clock.now = 5.0
    slots.release(flood.pop())
    await slots.acquire(1, 8, 1, 0)
    waiting = asyncio.create_task(slots.acquire(1, 8, 1, 2.0))
    await asyncio.sleep(0)
    slots.release(await slots.acquire(1, 8, 2, 2.0))
    slots.release(await slots.acquire(1, 8, 3, 0))
    assert not waiting.done()
    waiting.cancel()


async def test_more_slots_go_to_those_that_wait_first() -> None:
    slots = EngineSlots()
    await slots.acquire(1, 1, 1, 0)
    waiting = asyncio.create_task(slots.acquire(1, 1, 2, 2.0))
    await asyncio.sleep(0)
    with pytest.raises(Declined):  # its two are the running one's and the waiting one's
        await slots.acquire(1, 2, 3, 0)
    assert (await waiting).organization_id == 2


async def test_how_long_calls_keep_their_slots_is_learned_anew() -> None:
    clock = Clock()
    slots = await full(clock, capacity=10, kept_s=60.0)
    assert await let_wait(slots, 10, [1]) == 0
    for _ in range(100):  # another worker's calls, say, have ended: these are quick
        slots.release(Slot(1, 1_000, clock.now))
        await slots.acquire(1, 10, 1_000, 0)
    assert await let_wait(slots, 10, [1] * 60) > 0


async def test_workers_share_an_engine() -> None:
    slots = EngineSlots()
    slots.set_workers(4)
    await slots.acquire(1, 8, 1, 0)
    assert slots.free_share(1, 8) == 0.5
    await slots.acquire(1, 8, 2, 0)
    with pytest.raises(Declined):
        await slots.acquire(1, 8, 3, 0)
