"""Fixed buckets for first-token time, duration and speed: counts add up over rollups, percentiles come out again. Pure.

Bounds are upper bounds, inclusive; one more bucket holds everything above the last. A stored histogram leaves out its
trailing zeros, and an absent bucket counts zero, so that bounds may be appended (never changed or inserted).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

MILLISECONDS = (
    *(5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 400, 500, 750),
    *(1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 45_000, 60_000),
    *(120_000, 300_000, 600_000, 900_000),
)
TOKENS_PER_SECOND = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 300, 400, 500, 750, 1_000, 2_000)


def bucket_of(value: int, bounds: Sequence[int]) -> int:
    return bisect_left(bounds, value)


def count(histogram: list[int], value: int | None, bounds: Sequence[int]) -> None:
    """Adds one observation in place; None is not observed."""
    if value is None:
        return
    bucket = bucket_of(value, bounds)
    histogram.extend([0] * (bucket + 1 - len(histogram)))
    histogram[bucket] += 1


def speed(output_tokens: int, first_token_ms: int | None, duration_ms: int) -> int | None:
    """Tokens per second after the first token; None where that cannot be said."""
    if first_token_ms is None or output_tokens < 2 or duration_ms <= first_token_ms:
        return None
    return (output_tokens - 1) * 1000 // (duration_ms - first_token_ms)


def percentile(histogram: Sequence[int], bounds: Sequence[int], per_mille: int) -> int | None:
    """The value below which `per_mille` of the observations lie, interpolated in its bucket; None when there are none.
    Observations above the last bound are shown as the last bound."""
    total = sum(histogram)
    if not total:
        return None
    wanted = max(1, -(-total * per_mille // 1000))
    seen = 0
    for bucket, number in enumerate(histogram):
        if number and seen + number >= wanted:
            if bucket >= len(bounds):
                return bounds[-1]
            lower = bounds[bucket - 1] if bucket else 0
            return lower + (bounds[bucket] - lower) * (wanted - seen) // number
        seen += number
    raise AssertionError("the counts add up to their total")


def estimated_sum(histogram: Sequence[int], bounds: Sequence[int]) -> int:
    """About what the observations add up to: each counts as the middle of its bucket, above the last bound as that."""
    total = 0
    for bucket, number in enumerate(histogram):
        upper = bounds[min(bucket, len(bounds) - 1)]
        lower = 0 if bucket == 0 else upper if bucket >= len(bounds) else bounds[bucket - 1]
        total += number * (lower + upper) // 2
    return total
