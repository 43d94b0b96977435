"""How often a key may ask: everything by one bound, and what costs mail, money or a lasting row by its own."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django_ratelimit.core import get_usage

from portal.manage_api.problems import Problem

RATES = {
    "": "600/m",
    "invitations": "60/h",
    "payments": "30/h",
    "codes": "10/h",
    "keys": "300/h",
    "webhooks": "120/h",
}
"""By kind of act, for one key; "" counts every request."""
REFUSED = "120/m"
"""Wrong keys from one address (IPv6: its /64 network)."""


def count(request: HttpRequest, kind: str, key_id: int) -> None:
    """One more; Problem 429 past the bound."""
    _count(request, f"manage-api.{kind}", RATES[kind], lambda _group, _request: f"key:{key_id}")


def count_refused(request: HttpRequest) -> None:
    _count(request, "manage-api.refused", REFUSED, "ip")


def _count(request: HttpRequest, group: str, rate: str, key: Any) -> None:
    usage = get_usage(request, group=group, key=key, rate=rate, increment=True)
    if usage is not None and usage["should_limit"]:
        wait = max(1, int(usage["time_left"]))
        raise Problem(
            429,
            "rate_limited",
            f"Too many requests of this kind. Try again in {wait} seconds.",
            headers={"Retry-After": str(wait)},
        )
