"""Token buckets by name: so much at once, and so much per second again. One worker's own count; bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

NAMES_MAX = 10_000
Clock = Callable[[], float]


class Buckets:
    """Every bucket is full at first. Of too many names the one that was used longest ago is forgotten."""

    def __init__(
        self, at_once: float, per_second: float, *, names_max: int = NAMES_MAX, clock: Clock = time.monotonic
    ) -> None:
        self.at_once = at_once
        self.per_second = per_second
        self._names_max = names_max
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what was left, as of when

    def __len__(self) -> int:
        return len(self._levels)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._levels

    def take(self, name: Hashable) -> int:
        """0 when one was taken, else the milliseconds until one is there."""
        left, now = self._level(name), self._clock()
        self._put(name, left if left < 1 else left - 1, now)
        return 0 if left >= 1 else max(1, int((1 - left) / self.per_second * 1000))

    def spend(self, name: Hashable, amount: float) -> bool:
        """Any amount at once, where anything is left; what was not there must come in before the next."""
        left, now = self._level(name), self._clock()
        self._put(name, left - amount if left > 0 else left, now)
        return left > 0

    def give_back(self, name: Hashable) -> None:
        if name in self._levels:
            self._put(name, self._level(name) + 1, self._clock())

    def fill(self, name: Hashable) -> None:
        self._levels.pop(name, None)

    def clear(self) -> None:
        self._levels.clear()

    def _level(self, name: Hashable) -> float:
        known = self._levels.pop(name, None)
        if known is None:
            return self.at_once
        left, since = known
        return min(self.at_once, left + (self._clock() - since) * self.per_second)

    def _put(self, name: Hashable, left: float, now: float) -> None:
        if left >= self.at_once:
            return  # a full bucket needs no memory
        self._levels[name] = (left, now)
        if len(self._levels) > self._names_max:
            self._levels.popitem(last=False)
