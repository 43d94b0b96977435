"""Call ids are UUIDv7: the first 48 bits are Unix milliseconds, so an id says when its call began. Pure."""

from __future__ import annotations

from uuid import UUID

TIMESTAMP_MS_MAX = 2**48 - 1
_VARIANT = {f"{digit:x}": f"{8 | digit & 3:x}" for digit in range(16)}
"""The digit that names the variant: its first two bits are 10, the others random."""


def mint(now_ms: int, randomness: bytes) -> str:
    """An id of a call that begins at `now_ms`; ten random bytes, of which 74 bits are used."""
    if not 0 <= now_ms <= TIMESTAMP_MS_MAX:
        raise ValueError(f"no time of a UUIDv7: {now_ms}")
    if len(randomness) != 10:
        raise ValueError("ten random bytes are needed")
    time, random = f"{now_ms:012x}", randomness.hex()
    return f"{time[:8]}-{time[8:]}-7{random[1:4]}-{_VARIANT[random[4]]}{random[5:8]}-{random[8:]}"


def lowest_of(time_ms: int) -> UUID:
    """The least UUID any call of `time_ms` or later can have: the lower bound of a partition."""
    return UUID(int=time_ms << 80)
