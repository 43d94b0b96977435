"""Whole calls that their clients leave, where closing stops the engine: what it made is never heard of and cannot be
charged. An organization is given so much of an engine's time; past it its calls are read to their ends and charged, as
if their clients had stayed. One worker's own count; bounded memory.
"""

from __future__ import annotations

import time
from typing import Final

from proxy.buckets import Buckets, Clock

FREE_SECONDS: Final = 60.0
FREE_SHARE: Final = 0.05
"""Given again, per second: of one engine's slot, for ever, one part in twenty at most."""
LEAST_SECONDS: Final = 1.0
"""What a call counts at least: a long prompt is much work in little time."""


class Leavers:
    __slots__ = ("_seconds",)

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._seconds = Buckets(FREE_SECONDS, FREE_SHARE, clock=clock)

    def may_go(self, organization_id: int, seconds: float) -> bool:
        """Whether a call that its engine has had for so long is given up. The last one may be longer than what is left:
        it is paid for with time, before the next goes free."""
        return self._seconds.spend(organization_id, max(LEAST_SECONDS, seconds))
