"""Secrets and people of the demo. Secrets are derived from the installation's own: the same after a restart, different
everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, NamedTuple

from django.conf import settings

from keys.models import User
from portal.accounts import make_verified


class Person(NamedTuple):
    user: User
    password: str


def secret_bytes(purpose: str) -> bytes:
    """32 bytes that only this installation knows, the same at every start."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"demo:{purpose}".encode(), hashlib.sha256)


def person(email: str, **extra: Any) -> Person:
    """Somebody with a verified address and the derived password, at every start, because demo.json promises it."""
    password = secret_bytes(f"password:{email}").hex()[:20]
    user, _ = User.objects.get_or_create(email=email, defaults=extra)
    if not user.check_password(password):
        user.set_password(password)
        user.save()
    make_verified(user)
    return Person(user, password)
