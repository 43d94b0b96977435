"""Days that never were, for claims about nights: use that is settled and booked as real calls are, and judges that are
processes of their own.

The days lie in the year 2000, where no page, alert or statement looks, and are used by customers made for them, so that
nobody's figures change.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from threading import Barrier

import django
from django.db.models import F, Sum

from billing import call_ids, events, script, upgrades
from billing.admission import settle_entry
from billing.events import Event
from billing.models import Model, UsageDay
from keys import issuing, organizations
from keys.connections import redis_client
from keys.models import ApiKey, Brand, Organization, Role, User
from portal.accounts import make_verified
from portal.tour.customers import ACTOR

FIRST_DAY = date(2000, 1, 1)
SETTLES_PER_STEP = 100
TRIES = 20
"""A shard that is being rebuilt takes nothing for a moment."""


def customer(brand: Brand, name: str) -> tuple[Organization, ApiKey]:
    """On the brand's default tier, with an owner whose address is confirmed."""
    owner, _ = User.objects.get_or_create(email=f"tour@{brand.slug}.example", defaults={"name": "Tour"})
    make_verified(owner)
    organization = organizations.create(brand=brand, name=f"{name} {time.time_ns()}", actor=ACTOR)
    organizations.add_member(organization=organization, user=owner, role=Role.OWNER, actor=ACTOR)
    return organization, issuing.issue(organization=organization, name="tour", actor=ACTOR).key


def use(key: ApiKey, model: Model, day: date, tokens: Sequence[int]) -> None:
    """One included call per entry of `tokens`, settled into the journal as by a worker whose hold is gone. Raises
    ConnectionError where Redis takes none."""
    client = redis_client()
    for start in range(0, len(tokens), SETTLES_PER_STEP):
        part = [_event(key, model, day, count) for count in tokens[start : start + SETTLES_PER_STEP]]
        for _ in range(TRIES):
            verdicts = script.run(client, [settle_entry(event, events.encode(event)) for event in part])
            if all(verdict[0] == "OK" for verdict in verdicts):
                break
            time.sleep(0.25)  # told again: the journal drops what it has
        else:
            raise ConnectionError("Redis is being rebuilt")


def used(organization: Organization, day: date) -> tuple[int, int]:
    """Requests and tokens of the day, as booked."""
    tokens = F("uncached_input_tokens") + F("output_tokens")
    rows = UsageDay.objects.filter(organization_id=organization.id, day=day)
    found = rows.aggregate(calls=Sum("requests"), tokens=Sum(tokens))
    return found["calls"] or 0, found["tokens"] or 0


def _event(key: ApiKey, model: Model, day: date, tokens: int) -> Event:
    """Its id is of now, so it lies in today's partition. No engine is named: none has done anything."""
    noon_ms = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()) * 1000
    return Event(
        call_id=call_ids.mint(int(time.time() * 1000), os.urandom(10)),
        brand_id=key.organization.brand_id,
        organization_id=key.organization_id,
        key_id=key.id,
        model_id=model.id,
        endpoint="chat",
        payer="included",
        uncached_input_tokens=tokens - tokens // 4,
        output_tokens=tokens // 4,
        usage_source="final",
        end_reason="stop",
        day=f"{day:%Y%m%d}",
        started_at_ms=noon_ms,
        settled_at_ms=noon_ms + 1_000,
        duration_ms=1_000,
        agent=ACTOR,
    )


def judged_at_once(organization: Organization, night: date, processes: int) -> list[bool]:
    """Per process whether it moved the organization; all of them begin at the same moment."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        barrier = manager.Barrier(processes)
        with ProcessPoolExecutor(processes, mp_context=context, initializer=django.setup) as pool:
            found = [pool.submit(_judge, organization.id, night, barrier) for _ in range(processes)]
            return [future.result(timeout=60) for future in found]


def _judge(organization_id: int, night: date, barrier: Barrier) -> bool:
    organization = Organization.objects.select_related("brand").get(pk=organization_id)
    barrier.wait(timeout=30)
    return upgrades.judge_one(organization, night) is not None
