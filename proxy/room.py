"""How much one worker takes on at once: calls, and bytes of their bodies. The rest is refused while it is cheap."""

from __future__ import annotations

from proxy.refusals import Reason, decline


class Room:
    """`calls_max` calls, whose bodies are at most `bytes_max` together. A body is counted as it is declared, one that
    comes in chunks as it comes; parsed and written anew it takes about three times its bytes."""

    __slots__ = ("_bytes_max", "_calls_max", "bytes", "calls")

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self.calls = 0
        self.bytes = 0

    def enter(self, body_bytes: int) -> None:
        """Declined(OVERLOADED) when there is none. Who was let in leaves with the bytes it holds then."""
        if self.calls >= self._calls_max:
            raise decline(Reason.OVERLOADED)
        if body_bytes and self.bytes + body_bytes > self._bytes_max:
            raise decline(Reason.OVERLOADED)
        self.calls += 1
        self.bytes += body_bytes

    def grow(self, body_bytes: int) -> None:
        if self.bytes + body_bytes > self._bytes_max:
            raise decline(Reason.OVERLOADED)
        self.bytes += body_bytes

    def leave(self, body_bytes: int) -> None:
        self.calls -= 1
        self.bytes -= body_bytes
