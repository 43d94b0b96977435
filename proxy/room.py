"""How much one worker takes on at once: calls, and bytes of their bodies. The rest is refused while it is cheap."""

from __future__ import annotations

from proxy.bodies import BODY_BYTES_MAX
from proxy.refusals import Reason, decline

WAITING_SHARE = 8
"""One call in so many, and one byte, is the most that an organization has among those whose bodies are still on their
way: sending nothing takes neither money nor work, so no key may take a worker's room with it."""
WAITING_CALLS_MIN = 16
"""As many bodies may always be on their way, where the room is small, less one for the others."""


class Room:
    """`calls_max` calls, whose bodies are at most `bytes_max` together. A body is counted as it comes, not as it is
    declared; parsed and written anew it takes about three times its bytes."""

    __slots__ = (
        *("_bytes_max", "_calls_max", "_waiting", "_waiting_bytes", "_waiting_bytes_max", "_waiting_max"),
        *("bytes", "calls"),
    )

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._calls_max = calls_max
        self._waiting_max = max(1, calls_max // WAITING_SHARE, min(WAITING_CALLS_MIN, calls_max - 1))
        self._waiting_bytes_max = max(bytes_max // WAITING_SHARE, BODY_BYTES_MAX)
        self._waiting: dict[int, int] = {}  # organization → its calls whose body is not whole
        self._waiting_bytes: dict[int, int] = {}  # and what has come of bodies that come in pieces
        self.calls = 0
        self.bytes = 0

    def enter(self) -> None:
        """Declined(OVERLOADED) when there is none. Who was let in leaves with the bytes it holds then."""
        if self.calls >= self._calls_max:
            raise decline(Reason.OVERLOADED)
        self.calls += 1

    def await_body(self, organization_id: int) -> None:
        """Declined(OVERLOADED) where too many of its bodies are on their way; else `body_came` must follow."""
        waiting = self._waiting.get(organization_id, 0)
        if waiting >= self._waiting_max:
            raise decline(Reason.OVERLOADED)
        self._waiting[organization_id] = waiting + 1

    def grow_waiting(self, organization_id: int, body_bytes: int) -> None:
        """A piece of a body that comes in several."""
        if not body_bytes:
            return
        waiting = self._waiting_bytes.get(organization_id, 0) + body_bytes
        if waiting > self._waiting_bytes_max:
            raise decline(Reason.OVERLOADED)
        self.grow(body_bytes)
        self._waiting_bytes[organization_id] = waiting

    def body_came(self, organization_id: int, pieces_bytes: int) -> None:
        """It is whole, or will not be; `pieces_bytes` of it came by `grow_waiting`."""
        waiting = self._waiting[organization_id] - 1
        if waiting:
            self._waiting[organization_id] = waiting
        else:
            del self._waiting[organization_id]
        if pieces_bytes:
            left = self._waiting_bytes[organization_id] - pieces_bytes
            if left:
                self._waiting_bytes[organization_id] = left
            else:
                del self._waiting_bytes[organization_id]

    def grow(self, body_bytes: int) -> None:
        if self.bytes + body_bytes > self._bytes_max:
            raise decline(Reason.OVERLOADED)
        self.bytes += body_bytes

    def leave(self, body_bytes: int) -> None:
        self.calls -= 1
        self.bytes -= body_bytes
