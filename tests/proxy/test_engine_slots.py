import asyncio

import pytest

from proxy.engine_slots import EngineSlots
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
    slots = EngineSlots()
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


async def test_a_queue_too_long_to_serve_is_refused_at_once() -> None:
    slots = EngineSlots()
    await slots.acquire(1, 1, 1, 0)
    waiting = [asyncio.create_task(slots.acquire(1, 1, 2, 5)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Declined):
        await asyncio.wait_for(slots.acquire(1, 1, 3, 5), 1)
    for task in waiting:
        task.cancel()


async def test_workers_share_an_engine() -> None:
    slots = EngineSlots()
    slots.set_workers(4)
    await slots.acquire(1, 8, 1, 0)
    assert slots.free_share(1, 8) == 0.5
    await slots.acquire(1, 8, 2, 0)
    with pytest.raises(Declined):
        await slots.acquire(1, 8, 3, 0)
