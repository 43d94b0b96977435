"""A circuit breaker: what fails several times in a row is left alone for a while, then tried by one call at a time.

One per engine (can it be reached?) and one per engine and model there (does it answer?), in each worker. Pure: the
clock is an argument, in seconds of a clock that never goes back.
"""

from __future__ import annotations

from enum import IntEnum

FAILURES_MAX = 3
SUSPECT_SECONDS = 5.0
"""After a single failure others are asked first for this long."""
WAIT_SECONDS_MIN, WAIT_SECONDS_MAX = 1.0, 30.0
TRIAL_SECONDS_MAX = 15.0
"""A trial that was never heard of again (its client left) no longer stands in the way of the next."""


class Health(IntEnum):
    """In the order of preference."""

    CLOSED = 0
    SUSPECT = 1
    TRIAL = 2
    OPEN = 3


class Breaker:
    __slots__ = ("_failed_at", "_failures", "_open_until", "_trial_until", "_wait")

    def __init__(self) -> None:
        self._failures = 0
        self._failed_at = float("-inf")
        self._open_until = 0.0
        self._trial_until = float("-inf")
        self._wait = WAIT_SECONDS_MIN

    def health(self, now: float) -> Health:
        if self._failures < FAILURES_MAX:
            return Health.SUSPECT if now - self._failed_at < SUSPECT_SECONDS else Health.CLOSED
        if now < self._open_until or now < self._trial_until:
            return Health.OPEN
        return Health.TRIAL

    def begin(self, now: float) -> None:
        """A call is on its way; while it is the trial, no other follows it."""
        if self._failures >= FAILURES_MAX and now >= self._open_until:
            self._trial_until = now + TRIAL_SECONDS_MAX

    def succeeded(self) -> None:
        self._failures = 0
        self._failed_at = self._trial_until = float("-inf")
        self._wait = WAIT_SECONDS_MIN

    def failed(self, now: float) -> None:
        """Calls that began before it opened and fail after that prolong nothing."""
        self._failed_at = now
        if self._failures >= FAILURES_MAX and now < self._open_until:
            return
        self._failures += 1
        self._trial_until = float("-inf")
        if self._failures >= FAILURES_MAX:
            self._open_until = now + self._wait
            self._wait = min(self._wait * 2, WAIT_SECONDS_MAX)
