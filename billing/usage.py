"""Disjoint token buckets of one call. Pure.

`input` is what the engine read and did not take from a cache; `cache_read` and `cache_write` are None when the engine
does not say (absent is unknown, not zero). `output` includes `reasoning`.
"""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    input: int = 0
    cache_read: int | None = None
    cache_write: int | None = None
    output: int = 0
    reasoning: int | None = None
    images: int = 0

    @property
    def prompt_tokens(self) -> int:
        return self.input + (self.cache_read or 0) + (self.cache_write or 0)

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output
