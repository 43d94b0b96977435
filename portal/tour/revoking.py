"""A key revoked while it is calling as fast as it can."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import sync_to_async

from keys import issuing
from keys.models import ApiKey
from portal.tour import Proof
from portal.tour.customers import ACTOR
from portal.tour.demo import Demo

CALLERS = 8
BEFORE_SECONDS = 1.0
AFTER_SECONDS = 1.0


async def a_revoked_key_is_refused_at_once(demo: Demo) -> Proof:
    issued = await sync_to_async(_issued)(demo)
    served: list[float] = []
    refused: list[float] = []
    stop = asyncio.Event()

    async def call_on_and_on() -> None:
        while not stop.is_set():
            answer = await demo.ask("Still there?", key=issued.secret, max_tokens=16)
            (served if answer.status == 200 else refused).append(answer.started_at)

    callers = [asyncio.create_task(call_on_and_on()) for _ in range(CALLERS)]
    await asyncio.sleep(BEFORE_SECONDS)
    await sync_to_async(issuing.revoke)(key=issued.key, actor=ACTOR)
    returned_at = time.monotonic()
    await asyncio.sleep(AFTER_SECONDS)
    stop.set()
    await asyncio.gather(*callers)
    late = [started for started in served if started > returned_at]
    last = max(served, default=returned_at) - returned_at
    lines = [
        f"{CALLERS} callers: {len(served)} calls served, {len(refused)} refused",
        f"the last served call started {last * 1000:+.1f} ms from the moment the revoke returned",
        f"calls started after it and served all the same: {len(late)}",
    ]
    return Proof(lines, holds=bool(served) and bool(refused) and not late)


def _issued(demo: Demo) -> issuing.Issued:
    organization = issuing.existing(demo.brand["api_key"])
    assert isinstance(organization, ApiKey)
    return issuing.issue(organization=organization.organization, name="tour: to be revoked", actor=ACTOR)
