"""`manage.py tour`: the claims of this project, shown one after another on the running demo, each with its proof.

A claim is a sentence and a coroutine that makes it true before your eyes, or not: it returns the lines that prove it
and whether they do; or it says why it cannot be shown on the brand that was chosen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from portal.tour.demo import Demo


@dataclass(frozen=True, slots=True)
class Proof:
    lines: list[str]
    holds: bool


class NotHere(Exception):
    """The claim says nothing about this brand; why, and where it can be shown."""


@dataclass(frozen=True, slots=True)
class Claim:
    name: str
    sentence: str
    prove: Callable[[Demo], Awaitable[Proof]]
