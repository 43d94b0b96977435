"""The text of an API key: prefix + 27 base-62 digits (160 random bits) + 6 base-62 digits of CRC-32. Pure.

Nothing separates prefix, body and checksum, so a double click selects the whole key. The checksum covers the prefix: a
mistyped key, or one of another brand, is told apart without asking a store. Keys for trying out have `test_` behind the
brand's prefix: whoever sees one knows that it costs nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_BYTES = 20
BODY_LENGTH = 27  # 62^27 > 2^160
CHECKSUM_LENGTH = 6  # 62^6 > 2^32
LEGACY_LENGTH_MAX = 256
TEST = "test_"
PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,23}")

_TAIL = re.compile(rf"[0-9A-Za-z]{{{BODY_LENGTH + CHECKSUM_LENGTH}}}")
_PRINTABLE = re.compile(r"[!-~]+")
_OPEN = re.compile(r"[*+]|\{\d*,\d*\}")


def mint(prefix: str, randomness: bytes) -> str:
    """A new secret. `randomness` is exactly RANDOM_BYTES from the system's generator."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"a key takes {RANDOM_BYTES} random bytes, not {len(randomness)}")
    if not (PREFIX.fullmatch(prefix) or PREFIX.fullmatch(prefix.removesuffix(TEST))):
        raise ValueError(f"{prefix!r} cannot be a key prefix")
    text = prefix + _base62(int.from_bytes(randomness, "big"), BODY_LENGTH)
    return text + _checksum(text)


def well_formed(secret: str, prefix: str) -> bool:
    """Whether `secret` is a key of our own making under `prefix`. Any text may be asked; costs at most a CRC."""
    if len(secret) != len(prefix) + BODY_LENGTH + CHECKSUM_LENGTH or not secret.startswith(prefix):
        return False
    if not _TAIL.fullmatch(secret, len(prefix)):
        return False
    return _checksum(secret[:-CHECKSUM_LENGTH]) == secret[-CHECKSUM_LENGTH:]


def prefix_for_tests(prefix: str) -> str:
    """What keys for trying out begin with, of a brand whose others begin with `prefix`."""
    return prefix + TEST


def is_own(secret: str, prefix: str) -> bool:
    """Whether `secret` is a key of our own making, of a brand with that prefix: a live or a test one."""
    return well_formed(secret, prefix) or well_formed(secret, prefix_for_tests(prefix))


def legacy_formed(secret: str, patterns: tuple[str, ...]) -> bool:
    """Whether `secret` looks like a key a brand imported: printable ASCII, bounded, matched whole by a pattern."""
    if not patterns or len(secret) > LEGACY_LENGTH_MAX or not _PRINTABLE.fullmatch(secret):
        return False
    return any(re.fullmatch(pattern, secret) for pattern in patterns)


def pattern_problem(pattern: str) -> str | None:
    """Why a legacy pattern is refused, or None. Patterns run on what strangers send, so those that can take more than
    quadratic time are refused: no repeated groups, no references, at most two open repetitions."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"not a regular expression: {error}"
    if re.search(r"\)[*+?{]", pattern):
        return "a group may not be repeated; repeat a character class instead"
    if re.search(r"\\[1-9]|\(\?[P=!<]", pattern):
        return "references and look-arounds are not allowed"
    plain = pattern.replace("(?:", "(")
    if len(_OPEN.findall(plain)) > 2 or plain.count("?") > 4:
        return "at most two open repetitions (*, + or {m,n}) and four optional characters (?) are allowed"
    return None


def hint(secret: str, prefix: str) -> str:
    """What people see of a key for ever after: `ak-…Ab3d`. Of our own keys it shows checksum digits only."""
    return f"{prefix if secret.startswith(prefix) else ''}…{secret[-4:]}"


def digest(secret: str, pepper: bytes) -> bytes:
    """What is stored and looked up. Keyed, so a stolen table opens nothing, and an attacker who times the index learns
    nothing about a digest he cannot compute."""
    return hmac.digest(pepper, secret.encode("utf-8", "surrogatepass"), "sha256")


def legacy_digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), CHECKSUM_LENGTH)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
