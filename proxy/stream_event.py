"""One event of a stream, and what its JSON says: texts, choices, errors. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import orjson


class Kind(IntEnum):
    CONTENT = 0
    FINISH = 1
    """Carries a finish reason (and perhaps content)."""
    USAGE = 2
    """No choices, only usage: not for clients who did not ask."""
    ERROR = 3
    DONE = 4
    SIGN_OF_LIFE = 5
    """Nothing for the client (a comment, an event without choices): at most a keep-alive."""


class Event(NamedTuple):
    """`data` is the JSON text. `parsed` is given when the meter had to read it. `extra` says that it may carry usage or
    timings which the client has not asked for."""

    kind: Kind
    data: bytes
    parsed: dict[str, Any] | None = None
    extra: bool = False
    name: bytes = b""


SIGN_OF_LIFE = Event(Kind.SIGN_OF_LIFE, b"")


def event_of(values: tuple[Kind, bytes, dict[str, Any] | None, bool, bytes]) -> Event:
    """An Event past the generated constructor, which costs more than all that is looked at in a usual one."""
    return tuple.__new__(Event, values)


_IMAGE_PARTS = frozenset({"image_url", "image", "output_image"})
_TEXTS = frozenset({"content", "reasoning_content", "reasoning", "refusal"})


def json_object(data: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return parsed if type(parsed) is dict else None


def error_of(parsed: dict[str, Any]) -> Any:
    error = parsed.get("error")
    if error:
        return error
    return parsed if parsed.get("object") == "error" else None  # SGLang's flat one


def index_of(choice: Any) -> int:
    index = choice.get("index") if type(choice) is dict else None
    return index if type(index) is int else 0


def size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def content_bytes(choice: dict[str, Any]) -> int:
    """Bytes of everything a choice generated, in a delta, a message or a completion's text."""
    body = choice.get("delta") or choice.get("message")
    if type(body) is not dict:
        text = choice.get("text")
        return size_of(text) if type(text) is str else 0
    size = 0
    for name, value in body.items():
        if type(value) is str:
            if name in _TEXTS:
                size += size_of(value)
        elif value and name == "tool_calls":
            size += len(orjson.dumps(value))
        elif type(value) is list and name in ("content", "images"):
            size += sum(map(_part_bytes, value))
    return size


def _part_bytes(part: Any) -> int:
    """Of an image one byte, not its data: it is something, but no text to estimate tokens from."""
    text = part.get("text") if type(part) is dict else None
    return size_of(text) if type(text) is str else 1


def images_of(choice: dict[str, Any]) -> tuple[int, int]:
    """Images a choice brings, as engines spell it: in `images` of its message or delta, and as parts of its content."""
    body = choice.get("delta") or choice.get("message")
    if type(body) is not dict:
        return 0, 0
    images, content = body.get("images"), body.get("content")
    parts = content if type(content) is list else ()
    return (
        len(images) if type(images) is list else 0,
        sum(type(part) is dict and part.get("type") in _IMAGE_PARTS for part in parts),
    )
