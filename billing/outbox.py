"""Changes that PostgreSQL decided, on their way into Redis' counters: applied in order, each once.

A CounterChange is numbered per organization without gaps; Redis applies only the next number, so any number of
processes may try at the same time, and a crash between applying and marking costs a second "already".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import redis
from django.db.models import QuerySet
from django.db.models.functions import Now

from billing import script
from billing.models import CounterChange
from keys.connections import redis_client

log = logging.getLogger(__name__)

CHANGES_MAX = 1_000


def apply_changes(organization_id: int) -> int:
    """Bring Redis up to date with an organization's changes; how many it took. Redis away: 0, and the sweep follows."""
    pending = _pending().filter(organization_id=organization_id).order_by("seq")
    return _apply_in_order(list(pending[:CHANGES_MAX]))


def apply_pending(limit: int = CHANGES_MAX) -> int:
    """What a crash or an absent Redis left behind, oldest first; called every second by the journal process."""
    return _apply_in_order(list(_pending().order_by("organization_id", "seq")[:limit]))


def _pending() -> QuerySet[CounterChange]:
    """With its organization, whose months the amounts count in."""
    return CounterChange.objects.filter(applied_at=None).select_related("organization")


def _apply_in_order(changes: Iterable[CounterChange]) -> int:
    """Of each organization up to its first change that Redis does not take."""
    done: list[int] = []
    stopped: set[int] = set()
    try:
        for change in changes:
            if change.organization_id in stopped:
                continue
            verdict = _apply(change)
            if verdict in script.DONE:
                done.append(change.pk)
            else:
                stopped.add(change.organization_id)
                log.warning("change %s of organization %s waits: %s", change.seq, change.organization_id, verdict)
    except redis.RedisError as error:
        log.warning("changes wait for Redis: %s", error)
    if done:
        CounterChange.objects.filter(pk__in=done, applied_at=None).update(applied_at=Now())
    return len(done)


def _apply(change: CounterChange) -> str:
    try:
        return script.apply_change_sync(redis_client(), change)
    except script.CountersFailed as error:
        return str(error)
