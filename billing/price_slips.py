"""What about a price looks like a slip of the hand. Pure: two prices in, sentences out.

A factor of ten is a point in the wrong place; a cache read dearer than input makes every cached token a loss to the
customer; a nought where something is sold is a field that was forgotten. None is forbidden: each asks for a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from billing import money

JUMP = 10
PER_MILLION = ("input", "output", "cache_read", "cache_write", "reasoning")
CREDITS = ("credits_per_request", "credits_per_1000_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """As charged: picos per token, None where it is charged like another bucket; nanos for each request and image;
    credits, which are whole, of customers' quotas."""

    is_free: bool
    input: int | None
    output: int | None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    request: int = 0
    image: int = 0
    credits_per_request: int = 0
    credits_per_1000_tokens: int = 0
    sells_output: bool = True
    """Whether the model writes tokens at all: of embeddings output is nothing."""


def slips(new: Price, before: Price | None) -> list[str]:
    """One sentence for each; none of them for what is said to be free."""
    if new.is_free:
        return []
    return [*_jumps(new, before), *_cache(new), *_noughts(new)]


def _jumps(new: Price, before: Price | None) -> Iterator[str]:
    if before is None:
        return
    for name in (*PER_MILLION, "request", "image", *CREDITS):
        was, now = _charged(before, name), _charged(new, name)
        if was and now and (now >= JUMP * was or was >= JUMP * now):
            shown = _shown(name)
            yield f"{_word(name)} goes from {shown(was)} to {shown(now)}: a factor of {JUMP} or more."


def _shown(name: str) -> Callable[[int], str]:
    if name in CREDITS:
        return str
    return money.price_per_million if name in PER_MILLION else money.amount


def _cache(new: Price) -> Iterator[str]:
    if new.cache_read is not None and new.input is not None and new.cache_read > new.input:
        yield "Reading from the cache is dearer than input."


def _noughts(new: Price) -> Iterator[str]:
    for name in PER_MILLION:
        if getattr(new, name) == 0 and (name != "output" or new.sells_output):
            yield f"{_word(name)} costs nothing, though the model is not said to be free."


def _charged(price: Price, name: str) -> int | None:
    value: int | None = getattr(price, name)
    if value is None and name != "input":
        return price.output if name == "reasoning" else price.input
    return value


def _word(name: str) -> str:
    return name.replace("_", " ").capitalize()
