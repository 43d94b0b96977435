"""Secrets and people of the demo. Secrets are derived from the installation's own: the same after a restart, different
everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth.hashers import make_password

from keys.models import User
from portal.accounts import make_verified

SALT_LENGTH = 32


class Person(NamedTuple):
    user: User
    password: str


def secret_bytes(purpose: str) -> bytes:
    """32 bytes that only this installation knows, the same at every start."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"demo:{purpose}".encode(), hashlib.sha256)


def people(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Person]:
    """Somebody per address (→ further fields of User), verified and with the derived password, at every start, because
    demo.json promises it.

    A password takes half a second of a core to set or to check. So its salt is derived too, and one that has this salt
    is known to be ours without checking; those that are to be set are set beside one another.
    """
    users = {
        email: User.objects.get_or_create(email=email, defaults=dict(fields))[0] for email, fields in wanted.items()
    }
    strange = [email for email, user in users.items() if f"${_salt(email)}$" not in user.password]
    with ThreadPoolExecutor() as threads:
        hashed = threads.map(lambda email: make_password(_password(email), salt=_salt(email)), strange)
    for email, encoded in zip(strange, hashed, strict=True):
        users[email].password = encoded
        users[email].save(update_fields=["password"])
    for user in users.values():
        make_verified(user)
    return {email: Person(user, _password(email)) for email, user in users.items()}


def _password(email: str) -> str:
    return secret_bytes(f"password:{email}").hex()[:20]


def _salt(email: str) -> str:
    """As long as Django's own, so that signing in leaves it. It says nothing of the password: both are keyed."""
    return secret_bytes(f"salt:{email}:{_password(email)}").hex()[:SALT_LENGTH]
