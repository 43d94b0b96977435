"""Points at which a process can be told to die, so that tests reach each moment of a call on purpose, not by luck.

`CRASH_AT=<point>` arms one point of a process; the first call that gets there ends it with SIGKILL. Unset, as it is in
production, a point is one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final

POINTS: Final = (
    "before_reserve",
    "after_reserve",
    "after_dispatched_line",
    "mid_stream",
    "before_answer_kept",
    "after_answer_kept",
    "after_settle_line",
    "after_settle",
    "before_answer_marked",
    "before_commit",
    "after_commit",
)

_armed = ""


def arm(point: str) -> None:
    """At the start of a process; "" disarms."""
    global _armed  # noqa: PLW0603 - one process, one point
    if point and point not in POINTS:
        raise ValueError(f"CRASH_AT knows {', '.join(POINTS)}, not {point!r}")
    _armed = point


def at(point: str) -> None:
    if point == _armed:
        os.kill(os.getpid(), signal.SIGKILL)


def is_armed(point: str) -> bool:
    return point == _armed
