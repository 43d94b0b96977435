"""What an engine says it used, in all the spellings engines have. Pure.

A `Report` holds the numbers as said, as far as they are numbers: None is "not said" (or said in a way that is no
count, which `flags` names). Bounding them by what is possible is proxy.bounds' business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

USAGE_INVALID = "usage_invalid"
"""A count that is text, a bool, a fraction or an object."""
USAGE_NEGATIVE = "usage_negative"
_COUNT_MAX = 2**53
"""Past every context: a number this large is no count."""


_NO_FLAGS: frozenset[str] = frozenset()
_USUAL = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)


class Report(msgspec.Struct, frozen=True):
    """`prompt` includes cached tokens; `output` includes reasoning."""

    prompt: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    flags: frozenset[str] = frozenset()


def read_usage(raw: Any) -> Report:
    """A usage object of chat, completions, embeddings, responses or messages."""
    if type(raw) is not dict:
        return Report(flags=frozenset((USAGE_INVALID,)))
    flags: set[str] = set()
    is_usual = raw.keys() <= _USUAL  # then the other spellings need not be looked for
    details = _part(raw, flags, "prompt_tokens_details", "input_tokens_details")
    read = _count(details, flags, "cached_tokens") if details else None
    if read is None and not is_usual:
        read = _count(raw, flags, "cache_read_input_tokens", "cached_tokens", "prompt_cache_hit_tokens")
    write = None
    if details:
        write = _count(details, flags, "cache_write_tokens", "created_cache_tokens", "cache_creation_tokens")
    if write is None and not is_usual:
        write = _count(raw, flags, "cache_creation_input_tokens", "created_cache_tokens", "cache_write_tokens")
    prompt = _count(raw, flags, "prompt_tokens")
    if prompt is None:
        prompt = _count(raw, flags, "input_tokens")
        if prompt is not None and ("cache_read_input_tokens" in raw or "cache_creation_input_tokens" in raw):
            prompt += (read or 0) + (write or 0)  # the messages API counts cached tokens apart
    output = _count(raw, flags, "completion_tokens", "output_tokens")
    details = _part(raw, flags, "completion_tokens_details", "output_tokens_details")
    reasoning = _count(details, flags, _REASONING) if details else None
    if reasoning is None and not is_usual:
        reasoning = _count(raw, flags, _REASONING)  # SGLang
    return Report(prompt, output, read, write, reasoning, frozenset(flags) if flags else _NO_FLAGS)


def read_timings(raw: Mapping[str, Any]) -> Report:
    """llama.cpp's `timings`: prompt tokens read (`prompt_n`) and taken from the cache (`cache_n`), tokens made so far
    (`predicted_n`)."""
    flags: set[str] = set()
    read = _count(raw, flags, "cache_n")
    fresh = _count(raw, flags, "prompt_n")
    prompt = None if fresh is None else fresh + (read or 0)
    return Report(prompt, _count(raw, flags, "predicted_n"), read, None, None, frozenset(flags))


_REASONING = "reasoning_tokens"


def _count(source: Mapping[str, Any], flags: set[str], *names: str) -> int | None:
    """The first of `names` that holds a count. A null is as good as absent; anything else is flagged."""
    for name in names:
        value = source.get(name)
        if value is None:
            continue
        if type(value) is not int or value >= _COUNT_MAX:
            flags.add(USAGE_INVALID)
        elif value < 0:
            flags.add(USAGE_NEGATIVE)
        else:
            return value
    return None


def _part(source: Mapping[str, Any], flags: set[str], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = source.get(name)
        if type(value) is dict:
            return value
        if value is not None:
            flags.add(USAGE_INVALID)
    return {}
