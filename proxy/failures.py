"""How an exchange with an engine can break, and how long its parts may take."""

from __future__ import annotations

import msgspec

from billing.snapshot import ModelRecord


class UpstreamFailure(Exception):
    """The exchange with an engine broke. `undelivered`: the engine cannot have seen the whole request."""

    undelivered = False


class ConnectFailed(UpstreamFailure):
    undelivered = True


class FirstByteTimeout(UpstreamFailure):
    pass


class IdleTimeout(UpstreamFailure):
    pass


class TotalTimeout(UpstreamFailure):
    pass


class Cut(UpstreamFailure):
    """The connection ended before the answer did."""

    def __init__(self, message: str, *, undelivered: bool = False) -> None:
        super().__init__(message)
        self.undelivered = undelivered


class LetGo(Cut):
    """We closed it."""


class Malformed(UpstreamFailure):
    """Not HTTP/1.1 as we read it, or past a limit of ours."""


class Deadlines(msgspec.Struct, frozen=True, gc=False):
    """`first_byte_ms` runs from the request to the first byte of the answer's body (engines send their headers before
    they have queued, read and thought); `idle_ms` between later bytes, while we are willing to read."""

    connect_ms: int = 5_000
    first_byte_ms: int = 120_000
    idle_ms: int = 60_000
    total_ms: int = 900_000

    @classmethod
    def of(cls, model: ModelRecord, *, whole: bool = False) -> Deadlines:
        """A whole answer's first byte comes when the last token is made: only its total deadline can be judged."""
        first_byte_ms = model.total_ms if whole else model.first_byte_ms
        return cls(model.connect_ms, first_byte_ms, model.idle_ms, model.total_ms)
