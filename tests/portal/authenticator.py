"""What a telephone shows for a secret: six digits per half minute (RFC 6238)."""

import time

from allauth.mfa.totp.internal.auth import hotp_value


def code_of(secret: str, *, periods_ago: int = 0) -> str:
    return f"{hotp_value(secret, int(time.time()) // 30 - periods_ago):06d}"
