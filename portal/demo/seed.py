"""What the demo starts with. Run at every start; it makes what is missing and leaves the rest as people changed it.

Secrets are derived from the installation's own, so that they are the same after a restart and different everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from django.conf import settings

from keys.models import User


def secret_bytes(purpose: str) -> bytes:
    """32 bytes that only this installation knows, the same at every start."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"demo:{purpose}".encode(), hashlib.sha256)


def password(purpose: str) -> str:
    return secret_bytes(f"password:{purpose}").hex()[:20]


def seed(*, base_url: str, engine_url: str) -> dict[str, Any]:
    """`base_url` is the portal's address, `engine_url` the demo engine's as an SDK takes it. Returns demo.json."""
    admin_email = "admin@demo.example"
    _person(admin_email, is_staff=True, is_superuser=True)
    return {
        "portal": base_url,
        "admin": {"url": f"{base_url}/admin/", "email": admin_email, "password": password(admin_email)},
        "mailbox": f"{base_url}/mailbox/",
        "metrics": f"{base_url}/metrics",
        "brands": {},
    }


def _person(email: str, **extra: Any) -> User:
    """Its password is the derived one at every start, because demo.json promises it."""
    user, _ = User.objects.get_or_create(email=email, defaults=extra)
    if not user.check_password(password(email)):
        user.set_password(password(email))
        user.save()
    return user
