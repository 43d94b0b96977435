"""Seven scenes, each of which goes well only thanks to one safeguard. A scene returns the checks that failed and the
figure that says how much."""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

import pytest
from django.db import connection, transaction
from redis.exceptions import ConnectionError as RedisConnectionError

from billing import entries, event_rows, recording, script, transports
from keys import issuing
from keys.caller import SHARDS, shard_of
from tests.billing.settled import customer
from tests.billing.stage import EPOCH
from tests.billing.till import Till
from tests.safeguards.lab import Lab

CALLS = 5
OVERDUE_MS = 70_000


class Found(NamedTuple):
    checks: tuple[str, ...]
    figure: str


def _found(lab: Lab, figure: str = "billed {billed} nanos, the engine's log says {counted}") -> Found:
    checks = {difference.check for difference in lab.differences()}
    return Found(tuple(sorted(checks)), figure.format(billed=lab.billed_nanos(), counted=lab.counted_nanos()))


def replies_to_settles_are_lost(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    """Each settle is done, its reply is lost, and it is sent again."""
    ask, lost = transports.exchange, set()

    async def forgetful(connection: Any, command: bytes) -> bytes:
        reply = await ask(connection, command)
        if b"settle" in command and command not in lost:
            lost.add(command)
            raise RedisConnectionError("the reply is lost")
        return reply

    patch.setattr(transports, "exchange", forgetful)
    for _ in range(CALLS):
        assert lab.call().status_code == 200
    worker = lab.gateway.worker
    assert asyncio.run_coroutine_threadsafe(worker.counters.drain(5), worker._heartbeat.get_loop()).result(10) == 0
    assert lost  # fewer than calls where settles leave together
    organization_id = lab.customer.organization.id
    account = script.name(shard_of(organization_id), f"a:{organization_id}")
    left = int(lab.shop.store.hget(account, "bal") or 0)
    return _found(lab, f"Redis took {10**9 - left} nanos for what the books charge {{billed}}")


def redis_and_a_worker_are_lost_with_unread_charges(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    for _ in range(CALLS):
        assert lab.call().status_code == 200
    lab.close()
    lab.shop.store.flushall()
    return _found(lab)


def two_journals_book_one_call(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    """The second has looked for the call before the first committed, and its page begins elsewhere."""
    who = customer()
    till = Till(lab.shop.store, who)
    calls = [till.call() for _ in range(2)]
    rows: Any = lab.shop.store.xrange(script.name(till.shard, script.JOURNAL))
    both = [entries.parse(till.shard, stream_id.decode(), fields) for stream_id, fields in rows]
    with transaction.atomic(), connection.cursor() as cursor:
        recording.record(cursor, both, {till.shard: "0-0"})
    with patch.context() as stale:
        stale.setattr(event_rows, "booked_among", lambda cursor, ids: {})
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                recording.record(cursor, both[1:], {till.shard: "0-0"})
        except recording.SecondWriter:
            pass
    return _found(lab, f"billed {{billed}} nanos for {len(calls)} calls of {calls[0].cost_nanos}")


def a_worker_dies_after_its_reserve(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    """Before its first line in the WAL: nobody but Redis knows of the hold. Then its lease runs out."""
    till = Till(lab.shop.store, customer())
    for _ in range(CALLS):
        event = till.customer.event()
        till.reserve(event)
        lab.shop.store.zincrby(script.name(till.shard, script.LEASES), -60_000 - OVERDUE_MS, event.call_id)
    found = _found(lab)
    return found._replace(figure=f"{lab.shop.holds()} of {CALLS} holds stand {OVERDUE_MS // 1000} s past their lease")


def redis_comes_back_with_older_data(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    """As from an append-only file whose end was lost: the epoch in it names the process that is gone."""
    store: Any = lab.shop.store
    assert lab.call().status_code == 200
    lab.settle_down()
    kept = {name: store.dump(name) for name in store.scan_iter("{s*")}
    for _ in range(CALLS):
        assert lab.call(max_tokens=40).status_code == 200
    lab.settle_down()
    for name in list(store.scan_iter("{s*")):
        store.delete(name)
    for name, data in kept.items():
        store.restore(name, 0, data)
    store.mset({script.name(shard, script.EPOCH): f"{EPOCH}:{'0' * 40}" for shard in range(SHARDS)})
    before = lab.billed_nanos()
    lab.settle_down()
    until = time.monotonic() + 10
    while lab.call(max_tokens=1).status_code != 200:  # the worker learns of the new epoch with its next call
        assert time.monotonic() < until
    found = _found(lab)
    account = script.name(shard_of(lab.customer.organization.id), f"a:{lab.customer.organization.id}")
    left = int(store.hget(account, "bal") or 0)
    forgotten = left - (10**9 - lab.billed_nanos())
    checks = found.checks + (("spent once",) if forgotten else ())
    return Found(checks, f"Redis has {forgotten} nanos to spend again, of {before} spent")


def a_key_is_revoked(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    assert lab.call().status_code == 200
    issuing.revoke(key=lab.customer.issued.key, actor="tests")
    served = sum(lab.call().status_code == 200 for _ in range(CALLS))
    checks = _found(lab).checks + (("served after the revocation",) if served else ())
    return Found(checks, f"{served} of {CALLS} calls served after the revoke had returned")


def a_balance_buys_less_than_was_asked(lab: Lab, patch: pytest.MonkeyPatch) -> Found:
    poor = lab.shop.customer(credit="0.00005")
    answer = lab.call(customer=poor, messages=[{"role": "user", "content": "demo:fill"}], max_tokens=400)
    assert answer.status_code == 200
    return _found(lab)
