"""From an engine's pieces of a stream to ours: our id, time and model name, no usage unless it is asked for. Pure.

Nearly all pieces of one stream are equal but for the choices in the middle. The first one that is rewritten the long
way teaches the bytes around them, and the next that begin and end alike are rewritten by swapping those.
"""

from __future__ import annotations

from typing import Any

import orjson

from billing.snapshot import BrandRecord
from billing.usage import Usage
from proxy.answers import DONE
from proxy.dialects.protocol import Dialect, Stamp
from proxy.meter import Measured
from proxy.refusals import Problem

_CHOICES = b'"choices":['
_USAGE = b'],"usage":{'


class StreamRewriter:
    """One per streamed call. `piece` is the JSON of an event, without "data: " and line ends."""

    def __init__(self, dialect: Dialect, stamp: Stamp, *, include_usage: bool) -> None:
        self._dialect = dialect
        self._stamp = stamp
        self._include_usage = include_usage
        self.cost: str | None = None
        """Told beside the usage at the end, where it was asked for."""
        self._object = "chat.completion.chunk"
        self._head_there = self._tail_there = b""
        self._head_ours = self._tail_ours = b""

    def rewrite(self, piece: bytes, parsed: dict[str, Any] | None = None) -> bytes:
        """The event to send, complete with its frame; empty when nothing of it is for the client."""
        head = self._head_there
        if head and piece.startswith(head):
            middle = _middle(piece, len(head), self._tail_there)
            if middle:
                return b"data: %b%b%b\n\n" % (self._head_ours, middle, self._tail_ours)
        return self._the_long_way(piece, orjson.loads(piece) if parsed is None else parsed)

    def last(self, measured: Measured) -> bytes:
        """The last bytes of a stream that ended well."""
        return self.usage(measured.usage) + DONE if self._include_usage else DONE

    def trouble(self, trouble: Problem, brand: BrandRecord | None) -> bytes:
        """The last bytes of one that did not: SDKs raise what stands in them, and no [DONE] follows."""
        return b"data: %b\n\n" % orjson.dumps(self._dialect.error_event(trouble, brand))

    def usage(self, usage: Usage) -> bytes:
        """The last data event of a stream whose client asked for usage."""
        told = self._dialect.usage(usage)
        if self.cost is not None:
            told["cost"] = self.cost
        chunk = self._dialect.usage_chunk(self._object, self._stamp, told)
        return b"data: %b\n\n" % orjson.dumps(chunk)

    def _the_long_way(self, piece: bytes, parsed: dict[str, Any]) -> bytes:
        choices = parsed.get("choices")
        if not choices:
            return b""  # usage alone, prompt progress: ours to tell in our own words
        chunk = self._dialect.chunk(parsed, self._stamp, self._include_usage)
        self._object = chunk.get("object") or self._object
        ours = orjson.dumps(chunk)
        self._learn(piece, choices, ours, chunk.get("choices"))
        return b"data: %b\n\n" % ours

    def _learn(self, piece: bytes, choices: list[Any], ours: bytes, choices_ours: Any) -> None:
        """Where the choices stand in a piece without usage: `…"choices":[` and `]…`, theirs and ours. Only when their
        bytes are found once and unchanged; what varies (usage, timings) makes the next piece go the long way."""
        self._head_there = self._tail_there = b""
        if choices_ours != choices or self._dialect.rewrites_choices:
            return
        there, here = _around_choices(_without_usage(piece)), _around_choices(ours)
        if there is not None and here is not None:
            self._head_there, self._tail_there = there
            self._head_ours, self._tail_ours = here


def _without_usage(piece: bytes) -> bytes:
    cut = piece.rfind(_USAGE)
    return piece[: cut + 1] + b"}" if cut > 0 and b"]" not in piece[cut + 1 :] else piece


def _middle(piece: bytes, start: int, tail: bytes) -> bytes:
    """The choices of a piece that begins as known, or b"" where they are not plain to see.

    A running usage at the end is left out: unescaped quotes make `],"usage":{` structure, and without a `]` after it
    the array it follows is the last one, which is that of the choices unless `],"` shows others in between."""
    end = len(piece) - len(tail)
    if piece.endswith(b"}}"):
        end = piece.rfind(_USAGE)
        if end < start or tail != b"]}" or b"]" in piece[end + 1 :]:
            return b""
    elif not piece.endswith(tail):
        return b""
    middle = piece[start:end]
    if middle[:1] != b"{" or middle[-1:] != b"}" or b'],"' in middle:
        return b""
    return middle


def _around_choices(piece: bytes) -> tuple[bytes, bytes] | None:
    """(head, tail) with `head + choices + tail == piece`, or None where that is not plain to see.

    `"choices":[` cannot stand inside a JSON string (its quotes would be escaped), and the first one is the top level's
    unless something nested comes before it, which `{` in the head would show."""
    if piece.count(_CHOICES) != 1:
        return None
    start = piece.index(_CHOICES) + len(_CHOICES)
    head = piece[:start]
    if head.count(b"{") != 1 or head.count(b"[") != 1:
        return None
    end = piece.rfind(b"}]", start)
    if end < 0:
        return None
    tail = piece[end + 1 :]
    try:
        orjson.loads(b"[%b]" % piece[start : end + 1])
        rest = orjson.loads(head + tail)
    except orjson.JSONDecodeError:
        return None
    if type(rest) is not dict or rest.get("choices") != [] or rest.get("usage") is not None:
        return None
    return head, tail
