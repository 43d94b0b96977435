"""The demo engine's language: tokens, chat template and answers. Deterministic and pure.

A token is a blank with up to six letters after it, or a single blank or line break: never more tokens than bytes, and a
text's tokens are the same however it came to be.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

TOKEN = re.compile(r" ?[^\s]{1,6}|\s")
WORDS = (  # noqa: SIM905 - a list of literals would fill a page
    "the a one each every light water time hand river stone paper word green small early quiet near some north open "
    "and or but then while as since until so yet of in on at by for with from over past under is was has can may "
    "will turns holds keeps moves grows waits reads finds makes brings slowly often once again still today well"
).split()
OPENING = "This is the demo engine: no GPU wrote these words."
PIXEL = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""An image of one dot."""
THINKING = "<think>"
THOUGHT = "</think>"


def tokenize(text: str) -> list[str]:
    return TOKEN.findall(text)


def token_id(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode(errors="replace"), digest_size=3).digest(), "big")


def chat_prompt(messages: Iterable[dict[str, Any]], tools: Any = None) -> list[str]:
    """The template: three tokens around each message, tools as JSON in front, three tokens to open the answer."""
    tokens: list[str] = []
    if tools:
        tokens += ["<tools>", *tokenize(orjson.dumps(tools).decode()), "</tools>"]
    for message in messages:
        tokens += ["<|", str(message.get("role")), "|>", *tokenize(text_of(message))]
    return [*tokens, "<|", "assistant", "|>"]


def text_of(message: dict[str, Any]) -> str:
    """All that a message says: text, text parts, and tool calls as JSON."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    text = "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
    calls = message.get("tool_calls")
    return text + orjson.dumps(calls).decode() if calls else text


def words(seed: str) -> Iterator[str]:
    """Endless words that belong to `seed`, each one token; a full stop now and then."""
    state = int.from_bytes(hashlib.blake2b(seed.encode(errors="replace"), digest_size=8).digest(), "big")
    left = 0
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        word = WORDS[(state >> 33) % len(WORDS)]
        if left == 0:
            left = 4 + (state >> 40) % 9
            word = word.capitalize()
        left -= 1
        yield f" {word}." if left == 0 and len(word) < 6 else f" {word}"


def natural_length(seed: str) -> int:
    """How many tokens an answer has when nobody asks for a length: 24 to 120."""
    return 24 + int.from_bytes(hashlib.blake2b(seed.encode(errors="replace"), digest_size=2).digest(), "big") % 97


SUM = re.compile(r"\bWhat is (\d{1,9}) \+ (\d{1,9})\?")


def sum_asked_for(text: str) -> str:
    """The one thing it knows, so that an answer can be right or wrong; "" where it was not asked for a sum."""
    found = SUM.search(text)
    return str(int(found[1]) + int(found[2])) if found else ""


def answer(seed: str, length: int, *, thinks: bool, says: str = "") -> list[str]:
    """Exactly `length` tokens, or what it `says`, after its thoughts."""
    source = words(seed)
    tokens: list[str] = []
    if thinks:
        thought = [next(source) for _ in range(12)]
        tokens += [*tokenize(THINKING), *thought, *tokenize(THOUGHT), "\n"]
    if says:
        return tokens + tokenize(says)
    tokens += tokenize(OPENING)
    while len(tokens) < length:
        tokens.append(next(source))
    return tokens[:length]


def stopped(tokens: list[str], stop: list[str]) -> tuple[list[str], bool]:
    """The tokens made until one of `stop` appeared, their text cut off before it (those that spelled it were made)."""
    text = "".join(tokens)
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    if not found:
        return tokens, False
    at = min(found)
    end = min(at + len(word) for word in stop if word and text.find(word) == at)
    kept: list[str] = []
    size = 0
    for token in tokens:
        if size >= end:
            break
        kept.append(token if size + len(token) <= at else token[: max(0, at - size)])
        size += len(token)
    return kept, True
