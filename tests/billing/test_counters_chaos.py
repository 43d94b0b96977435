"""Conservation when exchanges break at random: lost requests and replies, cancelled callers, lapsed leases, changes."""

import asyncio
import contextlib
import random
from collections import Counter, defaultdict

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from billing import admission, counters, leases, script, transports
from billing.admission import Refused, StoreUnavailable
from billing.counters import apply_change_sync
from billing.models import CounterChange
from billing.usage import Usage
from tests.billing.stage import Stage, limit

CALLS = 300
LIMITS = (
    limit("tokens", "day", 10**9),
    limit("requests", "minute", 10**6, "key"),
    limit("nanos", "month", 10**12),
    limit("concurrent", "minute", 40),
)


class Chance:
    """Breaks one exchange in five, before or after the script ran."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.exchange = transports.exchange
        self.broken: Counter[str] = Counter()

    async def __call__(self, connection, command):
        luck = self.random.random()
        if luck < 0.1:
            self.broken["before"] += 1
            raise RedisConnectionError("lost on its way")
        reply = await self.exchange(connection, command)
        if luck < 0.2:
            self.broken["after"] += 1
            raise RedisConnectionError("reply lost")
        return reply


async def one_call(s, chance, settled):
    await asyncio.sleep(chance.random() * 1.5)
    try:
        hold = await s.reserve(prompt=chance.randint(1, 200), wanted=chance.randint(0, 500))
    except (Refused, StoreUnavailable):
        return
    await asyncio.sleep(chance.random() * 0.01)
    what = chance.random()
    if what < 0.15:
        await s.admission.void(hold)
    elif what < 0.25:
        s.admission._running.pop(hold.call_id)  # its worker dies: the lease will lapse
    else:
        await s.admission.dispatched(hold, 1)
        if what < 0.4:
            s.admission.progress(hold, Usage(input=1, output=hold.granted // 2))
            s.admission._renew(hold)
        output = chance.randint(0, hold.granted)
        settled[hold.call_id] = (await s.settle(hold, chance.randint(0, 200), output)).cost_nanos


async def sweeping(s):
    while True:
        await asyncio.sleep(0.02)
        leases.sweep(s.sync, shards=[s.caller.shard])


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_doubled_or_left_behind(redis_connection, wal_dir, settings, monkeypatch, seed):
    monkeypatch.setattr(admission, "LEASE_MS", 300)
    monkeypatch.setattr(admission, "NOT_AFTER_MS", 300)
    monkeypatch.setattr(leases, "GRACE_MS", 50)
    monkeypatch.setattr(counters, "RETRY_SECONDS", (0.01,))
    chance = Chance(seed)
    async with Stage(redis_connection, wal_dir, settings.REDIS_URL, *LIMITS, balance=10**9) as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        monkeypatch.setattr(transports, "exchange", chance)
        settled: dict[str, int] = {}
        sweeper = asyncio.create_task(sweeping(s))
        tasks = [asyncio.create_task(one_call(s, chance.random, settled)) for _ in range(CALLS)]
        for seq in range(1, 21):
            await asyncio.sleep(0.07)
            change = CounterChange(organization_id=s.caller.organization.id, seq=seq, balance_nanos=1_000)
            assert apply_change_sync(redis_connection, change) == "applied"
            chance.random.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await s.admission.drain(20) == 0
        await asyncio.sleep(0.5)  # leases of the dead run out
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        agrees(s, settled, chance.broken)


def agrees(s, settled, broken):
    assert broken["before"] > 3
    assert broken["after"] > 3
    entries = s.entries()
    posted = [entry for entry in entries if entry["late"] == "0"]
    by_call = defaultdict(list)
    for entry in entries:
        by_call[entry["e"].split('"')[3]].append(entry)
    assert s.nothing_is_held()
    assert not script.read_holds(s.sync, s.caller.shard)
    assert s.account()["bal"] == 10**9 + 20 * 1_000 - sum(int(entry["bal"]) for entry in posted)
    assert s.counted("d")["tok.p"] == sum(int(entry["tok"]) for entry in posted)
    assert s.counted("m")["nano.p"] == sum(int(entry["nano"]) for entry in posted)
    assert s.counted("i", f"k{s.caller.key_id}")["req.p"] == len(posted)
    assert all(Counter(entry["late"] for entry in found)["0"] == 1 for found in by_call.values())
    for call_id, cost in settled.items():
        assert cost in {int(entry["bal"]) for entry in by_call[call_id]}
    assert len(settled) > CALLS // 4
