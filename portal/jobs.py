"""When each job of the schedule last ran and how it ended. A hint for people: one hash in Redis, lost without harm."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from celery.signals import task_postrun, task_prerun

from keys.connections import redis_client

LAST = "jobs:last"
LATE_FACTOR, LATE_SECONDS = 3, 120
_began: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Job:
    """`at` None: not since Redis was emptied, or not yet. `is_late`: it should have run again by now."""

    name: str
    every: timedelta
    at: datetime | None
    took_ms: int
    state: str
    is_late: bool


def runs(schedule: Sequence[tuple[str, float]], now: datetime) -> list[Job]:
    """In the order of the schedule. redis.RedisError when it cannot be asked."""
    answer: dict[Any, Any] = redis_client().hgetall(LAST)
    kept = {name.decode() if isinstance(name, bytes) else name: facts for name, facts in answer.items()}
    return [_job(name, every, kept.get(name), now) for name, every in schedule]


def _job(name: str, every: float, kept: bytes | str | None, now: datetime) -> Job:
    period = timedelta(seconds=every)
    if kept is None:
        return Job(name, period, None, 0, "", is_late=False)
    facts = json.loads(kept)
    at = datetime.fromtimestamp(facts["at_ms"] / 1000, UTC)
    late = now - at > period * LATE_FACTOR + timedelta(seconds=LATE_SECONDS)
    return Job(name, period, at, facts["took_ms"], facts["state"], is_late=late)


@task_prerun.connect
def begin(task_id: str = "", **_: Any) -> None:
    _began[task_id] = time.monotonic()


@task_postrun.connect
def end(task_id: str = "", task: Any = None, state: str | None = None, **_: Any) -> None:
    took = time.monotonic() - _began.pop(task_id, time.monotonic())
    facts = {"at_ms": int(time.time() * 1000), "took_ms": int(took * 1000), "state": state or ""}
    try:
        redis_client().hset(LAST, task.name, json.dumps(facts))
    except redis.RedisError:
        return  # nobody is told; the job itself is done
