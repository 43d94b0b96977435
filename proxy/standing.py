"""How the caller stands with their limits, for answers that no hold was made for: one look at the counters."""

from __future__ import annotations

from dataclasses import replace

from redis.exceptions import RedisError

from billing.admission import StoreUnavailable
from billing.catalogue import BrandUnknown
from billing.hold import LimitState, Standing
from billing.tiers import TierUnknown
from keys.directory import DirectoryUnavailable, KeyRefused
from proxy.answers import Header
from proxy.call import Call
from proxy.refusals import Problem, Quota, Reason
from proxy.verdicts import state_of
from proxy.worker import Worker

States = tuple[LimitState, ...]
_UNKNOWN = (StoreUnavailable, DirectoryUnavailable, RedisError, BrandUnknown, TierUnknown, KeyRefused)

_UNASKED = frozenset({Reason.STORE_UNAVAILABLE, Reason.TOO_MANY_REFUSED})
"""Refusals that the store cannot be, or is not to be, asked more about."""


_NOTHING = Standing((), (), ())


async def look(call: Call, worker: Worker) -> Standing:
    """How the call's key and organization stand; nothing where nobody is known, or the store says nothing."""
    caller, snapshot = call.known("caller"), call.known("snapshot")
    if caller is None or snapshot is None or caller.is_test:
        return _NOTHING
    try:
        return await worker.admission.standing(caller, snapshot)
    except _UNKNOWN:
        return _NOTHING


async def headers(call: Call, worker: Worker) -> list[Header]:
    """The limit headers of an answer that reserved nothing."""
    return call.dialect.limit_headers((await look(call, worker)).upcoming, worker.counters.now_ms())


async def of_refusal(call: Call, worker: Worker, trouble: Problem) -> tuple[Problem, list[Header]]:
    """The refusal with the limit to name in it, and its limit headers: always where a limit refused; on every other
    answer where the dialect has them everywhere."""
    quota = trouble.quota
    everywhere = call.dialect.limits_everywhere and trouble.status != 401
    if (quota is None and not everywhere) or trouble.reason in _UNASKED:
        return trouble, []
    stands = await look(call, worker)
    now_ms = worker.counters.now_ms()
    if quota is None:
        return trouble, call.dialect.limit_headers(stands.upcoming, now_ms)
    longest = _longest(quota, stands.refusing, trouble, now_ms)
    named = call.dialect.worded(replace(trouble, quota=longest), call.brand)
    return named, call.dialect.limit_headers(stands.refusing, now_ms, refused_by=state_of(longest))


def _longest(quota: Quota, states: States, trouble: Problem, now_ms: int) -> Quota:
    """Of several limits that are used up the one that is so longest: a day's reset helps nobody whose month is over.
    A limit without a reset of its own resets when a retry makes sense."""
    found = quota
    if trouble.reason is Reason.INSUFFICIENT_QUOTA and quota.resets_at_ms is not None:
        for state in states:
            if state.limit is None or state.unit != quota.unit or state.posted < state.limit:
                continue
            if found.resets_at_ms is not None and (state.resets_at_ms or now_ms) > found.resets_at_ms:
                amounts = (state.limit, state.posted, state.held, state.resets_at_ms)
                found = Quota(state.name, state.unit, state.window, state.scope, *amounts)
    if found.resets_at_ms is None and trouble.retryable:
        return replace(found, resets_at_ms=now_ms + trouble.retry_after_ms)
    return found
