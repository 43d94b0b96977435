"""Small things to be done every so often beside a main loop, in one thread, in order.

A chore that fails is named once per kind of failure and tried again; it never stops the others. Each must be harmless
when several processes do it at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from django.db import connection

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Chore:
    """`work` answers with a line worth reading, or with "" when there was nothing to tell."""

    name: str
    every_seconds: float
    work: Callable[[], str]


class Chores(threading.Thread):
    def __init__(self, chores: Sequence[Chore], *, stopping: threading.Event, notify: Callable[[str], None]) -> None:
        super().__init__(name="chores", daemon=True)
        self._chores = chores
        self._stopping = stopping
        self._notify = notify
        self._due = dict.fromkeys((chore.name for chore in chores), 0.0)
        self._failing: dict[str, str] = {}

    def run(self) -> None:
        while not self._stopping.is_set():
            for chore in self._chores:
                if monotonic() >= self._due[chore.name] and not self._stopping.is_set():
                    self._due[chore.name] = monotonic() + self._do(chore)
            self._stopping.wait(max(0.01, min(self._due.values()) - monotonic()))
        connection.close()

    def _do(self, chore: Chore) -> float:
        """Seconds until it is due again."""
        try:
            line = chore.work()
        except Exception as error:
            kind = type(error).__name__
            if self._failing.get(chore.name) != kind:
                self._notify(f"{chore.name}: {kind}: {' '.join(str(error).split())[:300]}")
                log.debug("%s failed", chore.name, exc_info=True)
            self._failing[chore.name] = kind
            connection.close()
            return min(chore.every_seconds, RETRY_SECONDS)
        if self._failing.pop(chore.name, None):
            self._notify(f"{chore.name}: works again")
        if line:
            self._notify(f"{chore.name}: {line}")
        return chore.every_seconds
