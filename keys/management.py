"""Who manages by program: from a presented secret to the management key that it is, or why it is none.

The row is read for every request, so a revoked key is refused on the next one. Whoever holds a key learns why it does
not manage; of a secret that nobody has here, or that belongs to another brand, there is one answer.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address, ip_network

from django.db.models import Q

from keys import issuing, tokens
from keys.caller import is_within
from keys.models import ApiKey, Brand, KeyUse

USE_EVERY = timedelta(minutes=1)
"""How often at most the use of one key is written down."""
AGENT_CHARS_MAX = 200


class ManagementReason(StrEnum):
    INVALID_KEY = "invalid_key"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    NOT_A_MANAGEMENT_KEY = "not_a_management_key"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"


class ManagementRefused(Exception):
    def __init__(self, reason: ManagementReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def find(secret: str, brand: Brand, *, now: datetime, address: str) -> ApiKey:
    """The live management key, with its organization and brand at hand; ManagementRefused."""
    key = issuing.existing(secret) if tokens.is_own(secret, brand.key_prefix) else None
    if key is None or key.organization.brand_id != brand.pk:
        raise ManagementRefused(ManagementReason.INVALID_KEY)
    if key.revoked_at is not None:
        raise ManagementRefused(ManagementReason.KEY_REVOKED)
    if key.expires_at is not None and key.expires_at <= now:
        raise ManagementRefused(ManagementReason.KEY_EXPIRED)
    if not key.manages_as:
        raise ManagementRefused(ManagementReason.NOT_A_MANAGEMENT_KEY)
    if key.cidrs and not is_within(address, map(ip_network, key.cidrs)):
        raise ManagementRefused(ManagementReason.ADDRESS_NOT_ALLOWED)
    return key


def used(key: ApiKey, *, now: datetime, address: str, agent: str) -> None:
    """Write down that it was used, once in USE_EVERY. A conditional update, so that many at once write one row."""
    said = {"last_used_at": now, "address": _readable(address), "agent": agent.replace("\0", "")[:AGENT_CHARS_MAX]}
    lately = Q(last_used_at__gt=now - USE_EVERY)
    row = KeyUse.objects.filter(key=key)
    if row.filter(lately).exists() or row.exclude(lately).update(**said):
        return
    KeyUse.objects.bulk_create([KeyUse(key=key, **said)], ignore_conflicts=True)


def _readable(address: str) -> str | None:
    try:
        return str(ip_address(address))
    except ValueError:
        return None
