"""Secrets we must be able to read again (an engine's own key): sealed with Fernet under SEALING_KEYS.

The first key seals, every key opens, so a key can be rotated by putting a new one in front.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class SealBroken(Exception):
    """The text was not sealed by any key of SEALING_KEYS, or was changed since."""


def seal_text(text: str) -> str:
    return _box(tuple(settings.SEALING_KEYS)).encrypt(text.encode()).decode("ascii")


def open_text(sealed: str) -> str:
    """The text again; SealBroken when no key opens it."""
    try:
        return _box(tuple(settings.SEALING_KEYS)).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise SealBroken("sealed text opens with none of SEALING_KEYS; was the key that sealed it removed?") from None


@lru_cache(maxsize=4)
def _box(keys: tuple[bytes | str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])
