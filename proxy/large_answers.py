"""How many whole answers past SMALL_BYTES one worker reads at once. The rest wait, and so do their engines, who cannot
send what is not read: a worker's memory is bounded by its calls and these turns, whatever engines answer."""

from __future__ import annotations

import asyncio
from collections import deque

SMALL_BYTES = 256 * 1024
"""Read without a turn: nearly every answer in words is smaller. Images and many embeddings at once are not."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""No answer may be larger."""


class Turn:
    """To read one large answer: `given` is done when it may begin."""

    __slots__ = ("given", "organization_id")

    def __init__(self, organization_id: int) -> None:
        self.organization_id = organization_id
        self.given: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class LargeAnswers:
    """As many turns as answers of ANSWER_BYTES_MAX fit in `bytes_max`, one at least. In order of asking; where there
    are several, no organization has more than half of them, so that slow readers keep none from the others."""

    def __init__(self, bytes_max: int) -> None:
        self._turns = max(1, bytes_max // ANSWER_BYTES_MAX)
        self._share = max(1, self._turns // 2)
        self._taken: dict[int, int] = {}
        self._waiting: deque[Turn] = deque()

    def ask(self, organization_id: int) -> Turn:
        """`leave` must follow, whether it was given or not."""
        turn = Turn(organization_id)
        self._waiting.append(turn)
        self._give()
        return turn

    def leave(self, turn: Turn) -> None:
        if not turn.given.done():
            self._waiting.remove(turn)
            return
        taken = self._taken[turn.organization_id] - 1
        if taken:
            self._taken[turn.organization_id] = taken
        else:
            del self._taken[turn.organization_id]
        self._give()

    def _give(self) -> None:
        for turn in list(self._waiting):
            if sum(self._taken.values()) >= self._turns:
                return
            taken = self._taken.get(turn.organization_id, 0)
            if taken < self._share:
                self._taken[turn.organization_id] = taken + 1
                self._waiting.remove(turn)
                turn.given.set_result(None)
