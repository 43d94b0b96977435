"""Server-sent events out of bytes that may be cut anywhere. Pure.

Understands LF, CRLF and CR line ends, comments, events of several data lines, a byte order mark, and an end without the
closing blank line. Everything is bounded.
"""

from __future__ import annotations

from typing import NamedTuple

EVENT_BYTES_MAX = 4 * 1024 * 1024
_TOO_LARGE = "an event of more than {} bytes"
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """An event grew past its bound without ending."""


class Frame(NamedTuple):
    """One event as sent: `data` is its data lines joined by LF, None when it holds nothing but comments."""

    data: bytes | None
    name: bytes = b""


class EventReader:
    """Feed it bytes as they come; it hands out complete frames. How the bytes were cut makes no difference."""

    __slots__ = ("_begun", "_bytes_max", "_carriage", "_rest", "_rest_bytes")

    def __init__(self, bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest: list[bytes] = []  # pieces of the event that has not ended
        self._rest_bytes = 0
        self._carriage = False  # the last byte was a CR: an LF may follow that belongs to it
        self._begun = False

    def single(self, chunk: bytes) -> bytes | None:
        """The data of a chunk that is exactly one event of one data line, by far the most usual case; None when it is
        anything else: then feed() must have it."""
        if (
            chunk.startswith(b"data: ")
            and chunk.find(b"\n") == len(chunk) - 2
            and chunk.endswith(b"\n\n")
            and not self._rest
            and b"\r" not in chunk
            and not self._carriage
        ):
            self._begun = True
            return chunk[6:-2]
        return None

    def feed(self, chunk: bytes) -> list[Frame]:
        chunk = self._line_feeds(chunk)
        rest = self._rest
        if rest:
            if b"\n\n" not in chunk and not (chunk.startswith(b"\n") and rest[-1].endswith(b"\n")):
                self._keep(chunk)
                return []
            rest.append(chunk)
            chunk = b"".join(rest)
            rest.clear()
            self._rest_bytes = 0
        blocks = chunk.split(b"\n\n")
        self._keep(blocks.pop())
        return self._frames(blocks)

    def finish(self) -> list[Frame]:
        """At the end of the body: the last event, if it lacks its blank line."""
        self._carriage = False
        block = b"".join(self._rest)
        self._rest.clear()
        self._rest_bytes = 0
        return self._frames([block])

    def _line_feeds(self, chunk: bytes) -> bytes:
        if self._carriage:
            chunk = b"\r" + chunk
            self._carriage = False
        if b"\r" in chunk:
            if chunk.endswith(b"\r"):
                self._carriage = True
                chunk = chunk[:-1]
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._rest.append(piece)
            self._rest_bytes += len(piece)
            if self._rest_bytes > self._bytes_max:
                raise EventTooLarge(_TOO_LARGE.format(self._bytes_max))

    def _frames(self, blocks: list[bytes]) -> list[Frame]:
        frames: list[Frame] = []
        for block in blocks:
            if len(block) > self._bytes_max:
                raise EventTooLarge(_TOO_LARGE.format(self._bytes_max))
            if block.startswith(b"data: ") and b"\n" not in block:
                self._begun = True
                frames.append(Frame(block[6:]))
            elif block:
                if not self._begun:
                    self._begun = True
                    block = block.removeprefix(_BOM)  # noqa: PLW2901
                frame = _frame(block)
                if frame is not None:
                    frames.append(frame)
        return frames


def _frame(block: bytes) -> Frame | None:
    data: list[bytes] = []
    name = b""
    comment = False
    for line in block.split(b"\n"):
        field, colon, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif not field and colon:
            comment = True
    if data:
        return Frame(b"\n".join(data), name)
    return Frame(None) if comment else None
