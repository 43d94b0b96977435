"""How a webhook is signed, by the Standard Webhooks specification 1.0: HMAC-SHA256 over "id.seconds.body". Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32


def secret_of(randomness: bytes) -> str:
    """As customers see it; libraries of the specification read it as it is."""
    return PREFIX + base64.b64encode(randomness).decode("ascii")


def signature(secret: str, event_id: str, seconds: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, b"%s.%d.%s" % (event_id.encode(), seconds, body), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")


def headers(secrets: Sequence[str], event_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """One signature for each secret that is good now: whoever knows any of them can verify."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(signature(secret, event_id, seconds, body) for secret in secrets),
    }
