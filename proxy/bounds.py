"""How far an engine is believed: from its report to token buckets that are possible. Pure.

Nothing passes what was held, granted or fits the context; what the engine leaves out is unknown, or estimated where
something must be charged. Every departure from the engine's word has a flag.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from billing.usage import Usage
from proxy.usage_report import Report

BYTES_PER_TOKEN = 4
"""For estimates only: text of a whole answer, or a prompt, whose engine reports nothing."""
STREAM_BYTES_PER_TOKEN = 8
"""A content event is a token at least; one with far more text than this was several."""


class Source(StrEnum):
    FINAL = "final"
    RUNNING = "running"
    ESTIMATED = "estimated"
    NONE = "none"


class Flag(StrEnum):
    CACHE_UNKNOWN = "cache_unknown"
    CACHED_OVER_PROMPT = "cached_over_prompt"
    REASONING_OVER_OUTPUT = "reasoning_over_output"
    OUTPUT_OVER_GRANT = "output_over_grant"
    PROMPT_OVER_HOLD = "prompt_over_hold"
    PAST_CONTEXT = "past_context"
    PROMPT_ESTIMATED = "prompt_estimated"
    OUTPUT_ESTIMATED = "output_estimated"
    USAGE_MISSING = "usage_missing"
    NO_FINISH_REASON = "no_finish_reason"
    NO_DONE = "no_done"
    BAD_EVENT = "bad_event"
    USAGE_INVALID = "usage_invalid"
    USAGE_NEGATIVE = "usage_negative"
    IMAGES_OVER_HOLD = "images_over_hold"


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """What was held: nothing above it is charged. `output_tokens_max` is the grant of one choice."""

    prompt_tokens_max: int
    output_tokens_max: int
    context_length: int
    choices: int = 1
    prompt_bytes: int = 0
    """Size of the prompt's text, to estimate from when nothing better is known."""
    prompt_tokens: int | None = None
    """What the engine's tokenizer counted before the call, when it was asked."""
    generates: bool = True
    """False for embeddings: no output, no finish reason, and a prompt of many inputs may pass the context."""
    images_max: int = 0


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """What was seen to pass, to estimate from. `events` is 0 for a whole answer."""

    events: int
    content_events: int
    content_bytes: int

    def tokens(self) -> int:
        """Never more than were made, as far as text can tell: nobody pays for an estimate's error."""
        if not self.events:
            return -(-self.content_bytes // BYTES_PER_TOKEN)
        return max(self.content_events, -(-self.content_bytes // STREAM_BYTES_PER_TOKEN))


def believe(
    report: Report, source: Source, bounds: Bounds, delivered: Delivered, *, absent_cache_is_zero: bool
) -> tuple[Usage, Source, set[str]]:
    """Token buckets, where they come from in the end, and the flags."""
    flags: set[str] = set()
    prompt, output = report.prompt, report.output
    if prompt is None:
        prompt = bounds.prompt_tokens
        if prompt is None:
            flags.add(Flag.PROMPT_ESTIMATED)
            prompt = -(-bounds.prompt_bytes // BYTES_PER_TOKEN)
        source = Source.ESTIMATED
    if output is None and not bounds.generates:
        output = 0
    if output is None or (source is Source.ESTIMATED and bounds.choices > 1):
        flags.add(Flag.OUTPUT_ESTIMATED)
        output = max(output or 0, delivered.tokens())
        source = Source.ESTIMATED
    prompt, output = _bounded(prompt, output, bounds, flags)
    zero_cache = absent_cache_is_zero and source is Source.FINAL
    return _buckets(report, prompt, output, flags, zero_cache), source, flags


def _bounded(prompt: int, output: int, bounds: Bounds, flags: set[str]) -> tuple[int, int]:
    if prompt > bounds.context_length and bounds.generates:
        flags.add(Flag.PAST_CONTEXT)
        prompt = bounds.context_length
    if prompt > bounds.prompt_tokens_max:
        flags.add(Flag.PROMPT_OVER_HOLD)
        prompt = bounds.prompt_tokens_max
    granted = bounds.output_tokens_max * bounds.choices if bounds.generates else 0
    if output > granted:
        flags.add(Flag.OUTPUT_OVER_GRANT)
        output = granted
    room = max(0, bounds.context_length - prompt) * bounds.choices
    if output > room:
        flags.add(Flag.PAST_CONTEXT)
        output = room
    return prompt, output


def _buckets(report: Report, prompt: int, output: int, flags: set[str], zero_cache: bool) -> Usage:
    read, write, reasoning = report.cache_read, report.cache_write, report.reasoning
    if read is None and zero_cache:
        read = 0
    if read is None:
        flags.add(Flag.CACHE_UNKNOWN)
    if (read or 0) + (write or 0) > prompt:
        flags.add(Flag.CACHED_OVER_PROMPT)
        read = None if read is None else min(read, prompt)
        write = None if write is None else min(write, prompt - (read or 0))
    if reasoning is not None and reasoning > output:
        flags.add(Flag.REASONING_OVER_OUTPUT)
        reasoning = output
    fresh = prompt - (read or 0) - (write or 0)
    return Usage(input=fresh, cache_read=read, cache_write=write, output=output, reasoning=reasoning)
