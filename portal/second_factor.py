"""The second factor of sign-in (TOTP, RFC 6238; recovery codes): django-allauth's, its secrets sealed in their rows."""

from __future__ import annotations

from allauth.account.internal.stagekit import LOGIN_SESSION_KEY
from allauth.core import context
from allauth.mfa.adapter import DefaultMFAAdapter
from django.http import HttpRequest

from keys import sealing


class Adapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        return sealing.seal_text(text)

    def decrypt(self, encrypted_text: str) -> str:
        return sealing.open_text(encrypted_text)

    def get_totp_issuer(self) -> str:
        return str(context.request.brand.name)


def signing_in(request: HttpRequest) -> str | None:
    """Whose sign-in waits for the second factor in this session (a user id), for throttling guesses per person."""
    waiting = request.session.get(LOGIN_SESSION_KEY)
    return str(waiting.get("user_pk")) if isinstance(waiting, dict) else None
