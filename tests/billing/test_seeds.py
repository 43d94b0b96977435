"""What Redis does not know comes from PostgreSQL, exact while calls settle and the journal writes and deletes."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import psycopg_pool
import pytest

from billing import script, seeds, windows
from billing.admission import Refused, StoreUnavailable
from billing.counters import apply_change_sync, forget_journaled
from billing.models import CounterChange, LedgerAccount
from billing.seeds import Seeds
from billing.seeds import Snapshot as Seen
from tests import cast
from tests.billing.stage import Stage, anchored, caller, limit, open_epoch, publish, with_limits, with_policy

BATCH = (
    "INSERT INTO billing_usageday (brand_id, organization_id, day, key_id, model_id, engine_id, uncached_input_tokens,"
    " output_tokens, credits, cost_nanos, end_reason, requests, cache_read_tokens, cache_write_tokens,"
    " reasoning_tokens, images, list_cost_nanos, first_token_histogram, duration_histogram, speed_histogram)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'stop', 1, 0, 0, 0, 0, 0, '{}', '{}', '{}')"
)
POSITION = (
    "INSERT INTO billing_journalshard (shard, holder, last_stream_id) VALUES (%s, '', %s)"
    " ON CONFLICT (shard) DO UPDATE SET last_stream_id = excluded.last_stream_id"
)


class SmallJournal:
    """As much of a journal as seeds can see: rollups, wallet and position in one transaction, then the deletion."""

    _engines = itertools.count(1)

    def __init__(self, redis, database_url, shard):
        self.redis, self.shard, self.last = redis, shard, "0-0"
        self.database = psycopg.connect(database_url, autocommit=True)
        redis.xgroup_create(script.name(shard, script.JOURNAL), "books", "0", mkstream=True)

    def commit(self, count=None):
        """Book what the stream holds; returns the ids to forget."""
        found = self.redis.xrange(script.name(self.shard, script.JOURNAL), min=f"({self.last}", count=count)
        with self.database.transaction():
            for entry_id, fields in found:
                of = {name.decode(): value.decode() for name, value in fields.items()}
                if of["late"] == "0":
                    self.book(of)
                self.last = entry_id.decode()
            self.database.execute(POSITION, (self.shard, self.last))
        return [entry_id.decode() for entry_id, _ in found]

    def book(self, of):
        day = f"{of['d'][:4]}-{of['d'][4:6]}-{of['d'][6:]}"
        place = (2, of["o"], day, of["k"], of["m"], next(self._engines))
        self.database.execute(BATCH, (*place, of["in"], of["out"], of["cred"], of["nano"]))
        self.database.execute(
            "UPDATE billing_ledgeraccount SET balance_nanos = balance_nanos - %s WHERE organization_id = %s",
            (of["bal"], of["o"]),
        )

    def forget(self, ids):
        forget_journaled(self.redis, self.shard, "books", ids)

    def drain(self):
        self.forget(self.commit())


LIMITS = (
    limit("tokens", "day", 10**12),
    limit("tokens", "month", 10**12),
    limit("nanos", "month", 10**15),
    limit("requests", "lifetime", 10**9, "key"),
    limit("output", "day", 10**12, "model"),
)


@pytest.fixture
def house(transactional_db):
    brand = cast.brand()
    organization = cast.organization(brand)
    wallet = LedgerAccount.objects.create(brand=brand, organization=organization, kind="wallet", balance_nanos=10**12)
    return organization, wallet


@pytest.fixture
def stage(redis_connection, wal_dir, settings, database_url, house):
    @asynccontextmanager
    async def made(*limits, epoch=None):
        s = Stage(redis_connection, wal_dir, settings.REDIS_URL, *(limits or LIMITS))
        s.caller = s.sources.caller = caller(house[0].id)
        async with psycopg_pool.AsyncConnectionPool(database_url, min_size=0, max_size=4, open=False) as pool, s:
            if epoch:
                open_epoch(redis_connection, epoch)
            s.admission._seeds = Seeds(s.counters, pool)
            s.journal = journal = SmallJournal(redis_connection, database_url, s.caller.shard)
            yield s
            journal.database.close()

    return made


async def call(s, input=90, output=50, **fields):
    hold = await s.reserve(**fields)
    await s.settle(hold, input, output)


async def test_the_wallet_is_read_once_and_then_kept(stage, house):
    async with stage() as s:
        await call(s)
        await call(s)
        await s.admission.drain(5)
        assert s.account() == {"bal": 10**12 - 2 * 38_000, "seq": 0, "held": 0}
        assert s.counted()["tok.p"] == 280


async def test_a_new_epoch_takes_over_what_is_booked_and_what_is_not_yet(stage, redis_connection):
    async with stage() as s:
        for _ in range(4):
            await call(s)
        await s.admission.drain(5)
        s.journal.drain()
        for _ in range(3):
            await call(s)
        await s.admission.drain(5)
        known = s.account(), s.counted("d"), s.counted("m"), s.counted("life", f"k{s.caller.key_id}")
        for name in redis_connection.scan_iter("{s*}:[awz]:*"):
            redis_connection.delete(name)
        open_epoch(redis_connection, s.counters.now_ms())  # all windows began before it
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        assert (s.account(), s.counted("d"), s.counted("m"), s.counted("life", f"k{s.caller.key_id}")) == known
        assert s.counted("d")["tok.p"] == 7 * 140


@pytest.mark.parametrize("ahead", [0, 1], ids=["begins today", "begins tomorrow"])
async def test_an_anchored_months_counter_is_seeded_with_its_own_days(stage, house, redis_connection, ahead):
    async with stage() as s:
        today = datetime.now(UTC).date()
        anchor = (today + timedelta(days=ahead)).day
        s.caller = s.sources.caller = anchored(s.caller, anchor)
        first, _ = windows.days_of(windows.month_of_day(f"{today:%Y%m%d}", anchor))
        for day, tokens in ((first - timedelta(days=1), 10_000), (first, 500)):
            place = (2, house[0].id, day, s.caller.key_id, s.model.id, 1)
            s.journal.database.execute(BATCH, (*place, tokens, 0, 0, 0))
        for day, tokens in ((first - timedelta(days=1), 20_000), (today, 40)):  # settled, not booked yet
            fields = {"o": s.caller.organization.id, "k": s.caller.key_id, "m": s.model.id, "d": f"{day:%Y%m%d}"}
            fields |= {"late": 0, "req": 1, "in": tokens, "out": 0, "tok": tokens, "cred": 0, "nano": 0, "bal": 0}
            redis_connection.xadd(script.name(s.caller.shard, script.JOURNAL), fields)
        open_epoch(redis_connection, s.counters.now_ms())
        await call(s)
        await s.admission.drain(5)
        assert s.counted(windows.month_of_day(f"{today:%Y%m%d}", anchor))["tok.p"] == 500 + 40 + 140
        change = CounterChange(
            organization=house[0], seq=1, day=f"{first - timedelta(days=1):%Y%m%d}", amounts={"tok": 7_000}
        )
        house[0].month_anchor = anchor
        assert apply_change_sync(redis_connection, change) == "applied"
        change.seq, change.day, change.amounts = 2, f"{first:%Y%m%d}", {"tok": 9}
        assert apply_change_sync(redis_connection, change) == "applied"
        assert s.counted(windows.month_of_day(f"{today:%Y%m%d}", anchor))["tok.p"] == 500 + 40 + 140 + 9


async def test_a_reading_from_before_the_journal_deleted_is_not_used(stage, redis_connection, monkeypatch):
    """Without `drained` the entries that left the stream between reading and seeding would be nobody's."""
    async with stage() as s:
        await call(s)
        await s.admission.drain(5)
        redis_connection.delete(script.name(s.caller.shard, f"a:{s.caller.organization.id}"))
        read = seeds.read_snapshot
        readings: list[Seen] = []

        async def read_and_be_late(*values):
            seen = await read(*values)
            if not readings:
                s.journal.drain()
            readings.append(seen)
            return seen

        monkeypatch.setattr(seeds, "read_snapshot", read_and_be_late)
        await s.reserve()
        assert len(readings) == 2
        assert s.account()["bal"] == 10**12 - 38_000


async def test_seeds_amid_traffic_equal_the_truth(stage, redis_connection, monkeypatch):
    """Calls settle, the journal books and deletes, and Redis forgets its counters again and again."""
    async with stage() as s:
        calls, read = 0, seeds.read_snapshot
        readings: list[Seen] = []

        async def slow_reading(*values):
            readings.append(await read(*values))
            await asyncio.sleep(0.002)
            return readings[-1]

        monkeypatch.setattr(seeds, "read_snapshot", slow_reading)

        async def customer():
            nonlocal calls
            for _ in range(50):
                await call(s, input=10, output=7, prompt=50, wanted=30)
                calls += 1

        async def journal():
            while True:
                ids = s.journal.commit(count=5)
                await asyncio.sleep(0.002)
                s.journal.forget(ids)
                await asyncio.sleep(0.001)

        async def forgetful():
            while True:
                await asyncio.sleep(0.01)
                name = script.name(s.caller.shard, f"a:{s.caller.organization.id}")
                windows = redis_connection.keys(f"{{s{s.caller.shard}}}:w:*")
                posted = [(w, f) for w in windows for f in redis_connection.hkeys(w) if f.endswith(b".p")]
                pipe = redis_connection.pipeline()
                pipe.hdel(name, "bal", "seq")
                for window, field in posted:
                    pipe.hdel(window, field)
                pipe.execute()

        others = [asyncio.create_task(journal()), asyncio.create_task(forgetful())]
        await asyncio.gather(*(customer() for _ in range(6)))
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        cost = (10 * 200_000 + 7 * 400_000) // 1000
        assert calls == 300
        assert len(readings) > 5
        assert s.account() == {"bal": 10**12 - calls * cost, "seq": 0, "held": 0}
        assert s.counted("d")["tok.p"] == s.counted("m")["tok.p"] == calls * 17
        assert s.counted("life", f"k{s.caller.key_id}")["req.p"] == calls
        assert not any(value for field, value in s.counted("d").items() if field.endswith(".h"))


async def test_a_scope_that_was_used_before_it_had_a_limit_is_seeded_with_what_it_used(stage, redis_connection):
    async with stage(limit("tokens", "day", 10**12)) as s:
        await call(s)
        await s.admission.drain(5)
        s.journal.drain()
        limited = with_limits(s.snapshot.tiers[0], limit("tokens", "day", 200, "key"))
        s.snapshot = with_policy(s.snapshot, 9, tiers=(limited,))
        publish(redis_connection, s.caller, s.snapshot)
        with pytest.raises(Refused) as refused:
            await s.reserve(prompt=61, wanted=0)
        assert (refused.value.refusal.name, refused.value.refusal.used) == ("key.tokens.day", 140)
        await s.reserve(prompt=60, wanted=0)


async def test_changes_that_redis_missed_are_applied_before_it_is_seeded(stage, house, redis_connection, database_url):
    organization, _ = house
    async with stage(limit("tokens", "day", 10**12)) as s:
        await s.admission.void(await s.reserve())
        await s.admission.drain(5)
        with psycopg.connect(database_url) as database:
            database.execute(
                "UPDATE billing_ledgeraccount SET balance_nanos = balance_nanos + 5, changes = 1"
                " WHERE organization_id = %s",
                (organization.id,),
            )
            database.execute(
                "INSERT INTO billing_counterchange (organization_id, seq, balance_nanos, day, amounts, created_at)"
                " VALUES (%s, 1, 5, '', %s, now())",
                (organization.id, json.dumps({})),
            )
        day = next(iter(redis_connection.scan_iter(f"{{s{s.caller.shard}}}:w:*:d*")))
        redis_connection.hdel(day, "o.tok.p")  # something to seed beside an account that lags
        await s.reserve()
        assert (s.account()["bal"], s.account()["seq"]) == (10**12 + 5, 1)
        change = CounterChange(organization_id=organization.id, seq=1, balance_nanos=5)
        assert apply_change_sync(redis_connection, change) == "already"


async def test_without_postgresql_an_unknown_organization_is_told_to_come_back(stage, monkeypatch):
    async with stage() as s:

        async def away(*values):
            raise psycopg.OperationalError("connection refused")

        monkeypatch.setattr(seeds, "read_snapshot", away)
        with pytest.raises(StoreUnavailable):
            await s.reserve()
        assert s.nothing_is_held()


async def test_many_calls_of_one_organization_seed_it_once(stage, monkeypatch):
    async with stage() as s:
        read, readings = seeds.read_snapshot, []

        async def counted(*values):
            readings.append(values)
            return await read(*values)

        monkeypatch.setattr(seeds, "read_snapshot", counted)
        holds = await asyncio.gather(*(s.reserve() for _ in range(50)))
        assert len(holds) == 50
        assert len(readings) == 1


async def test_a_backlog_too_long_to_fold_refuses_instead_of_blocking_redis(stage, redis_connection, monkeypatch):
    async with stage() as s:
        fields = {"o": "1", "late": "1"}
        pipe = redis_connection.pipeline()
        for _ in range(20_001):
            pipe.xadd(script.name(s.caller.shard, script.JOURNAL), fields)
        pipe.execute()
        with pytest.raises(StoreUnavailable, match="wait for the journal"):
            await s.reserve()
