"""Which engine a conversation belongs to, so that the beginning of its prompt is still in that engine's cache. Pure.

Rendezvous hashing: every engine draws a number from the conversation and its own id, the best draw has it. When an
engine goes, only its own conversations move; when it is back, only they return.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import orjson

from proxy.endpoints import CHAT, COMPLETIONS
from proxy.requests import Asked

OPENING_BYTES = 4096
_OPENS = frozenset({"system", "developer"})
_DRAWS = 2**64


def conversation_of(asked: Asked, organization_id: int, session_id: str = "") -> bytes:
    """Same organization and same session, else same `user`, else same opening: all messages up to the first that is not
    the system's, which every later turn of a conversation repeats. Empty where nothing would be read again
    (embeddings)."""
    if asked.endpoint is not CHAT and asked.endpoint is not COMPLETIONS:
        return b""
    kind, name = 0, b""
    if session_id:  # its beginning may have been dropped to fit the context
        kind, name = 2, session_id.encode()
    elif asked.user:
        kind, name = 1, asked.user.encode()
    return blake2b(b"%d\0%d\0" % (organization_id, kind) + (name or _opening(asked)), digest_size=8).digest()


def draw(conversation: bytes, engine_id: int, weight: int) -> float:
    """The higher wins; an engine of twice the weight wins twice as often."""
    drawn = int.from_bytes(blake2b(conversation + b"%d" % engine_id, digest_size=8).digest(), "big")
    return weight / -math.log((drawn + 1) / (_DRAWS + 1))


def _opening(asked: Asked) -> bytes:
    if asked.endpoint is COMPLETIONS:
        return _bytes_of(asked.fields["prompt"])
    parts: list[bytes] = []
    for message in asked.fields["messages"]:
        parts.append(_bytes_of(message.get("content")))
        if message["role"] not in _OPENS:
            break
    return b"\0".join(parts)


def _bytes_of(content: object) -> bytes:
    if type(content) is str:
        return content[:OPENING_BYTES].encode()
    return orjson.dumps(content)[:OPENING_BYTES]
