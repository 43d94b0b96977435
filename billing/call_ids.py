"""Call ids are UUIDv7: the first 48 bits are Unix milliseconds, so an id says when its call began. Pure."""

from __future__ import annotations

from uuid import UUID

TIMESTAMP_MS_MAX = 2**48 - 1


def mint(now_ms: int, randomness: bytes) -> str:
    """An id of a call that begins at `now_ms`; ten random bytes, of which 74 bits are used."""
    if not 0 <= now_ms <= TIMESTAMP_MS_MAX:
        raise ValueError(f"no time of a UUIDv7: {now_ms}")
    if len(randomness) != 10:
        raise ValueError("ten random bytes are needed")
    digits = f"{now_ms:012x}{(int.from_bytes(randomness[:2], 'big') & 0x0FFF) | 0x7000:04x}"
    tail = f"{(int.from_bytes(randomness[2:], 'big') & (2**62 - 1)) | 2**63:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:]}-{tail[:4]}-{tail[4:]}"


def lowest_of(time_ms: int) -> UUID:
    """The least UUID any call of `time_ms` or later can have: the lower bound of a partition."""
    return UUID(int=time_ms << 80)
