"""What a worker knows about the key that calls: values only, built from a published record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

SHARDS = 64
"""A constant of the installation: an organization's names in Redis never move."""


def shard_of(organization_id: int) -> int:
    return organization_id % SHARDS


@dataclass(frozen=True, slots=True)
class OrganizationRecord:
    id: int
    public_id: str
    slug: str
    brand_id: int
    state: str
    tier_id: int | None
    version: int
    overrides: tuple[dict[str, Any], ...] = ()
    """What billing put in place of limits of its tier; billing.limits reads it."""
    is_further: bool = False
    """Opened by somebody who had one already: what tiers include belongs to that one."""
    month_anchor: int = 1
    """On which day of the month its months begin; billing.windows reads it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key with its organization. `models` None allows every model the tier unlocks; `limits` is the
    key's own list as stored (billing.limits reads it)."""

    key_id: int
    key_public_id: str
    key_hint: str
    key_version: int
    scopes: frozenset[str]
    models: frozenset[str] | None
    networks: tuple[IPv4Network | IPv6Network, ...]
    limits: tuple[dict[str, int | str], ...]
    expires_at_ms: int | None
    revoked: bool
    organization: OrganizationRecord
    is_test: bool = False
    """Calls the test engine only, and costs nothing."""

    @property
    def shard(self) -> int:
        return shard_of(self.organization.id)

    @property
    def is_suspended(self) -> bool:
        return self.organization.state != "active"

    def allows_address(self, address: str | None) -> bool:
        """Whether the client's address is in the key's networks; with no networks, always. An address that cannot be
        read is in none. An IPv4 address written as IPv6 (::ffff:…) counts as what it is."""
        return not self.networks or is_within(address, self.networks)

    def allows_model(self, slug: str) -> bool:
        return self.models is None or slug in self.models


def is_within(address: str | None, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address or "")
    except ValueError:
        return False
    plain = (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed
    return any(plain in network for network in networks)


class KeyReason(StrEnum):
    """Why a key does not call. INVALID_KEY also stands for unknown, malformed and another brand's."""

    INVALID_KEY = "invalid_key"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    ORGANIZATION_SUSPENDED = "organization_suspended"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    MANAGEMENT_KEY = "management_key"
    SCOPE_NOT_ALLOWED = "scope_not_allowed"
    MODEL_NOT_ALLOWED = "model_not_allowed"


def check_static(
    caller: Caller, now_ms: int, address: str | None, *, scope: str | None = None, model: str | None = None
) -> KeyReason | None:
    """Why this caller may not make this call, judged by its record alone; None when it may. Expiry holds from
    `expires_at_ms` on, by the clock the caller of this function trusts. `scope` and `model` (its slug, not an alias)
    are judged when given."""
    if caller.revoked:
        return KeyReason.KEY_REVOKED
    if caller.expires_at_ms is not None and now_ms >= caller.expires_at_ms:
        return KeyReason.KEY_EXPIRED
    if caller.is_suspended:
        return KeyReason.ORGANIZATION_SUSPENDED
    if not caller.allows_address(address):
        return KeyReason.ADDRESS_NOT_ALLOWED
    if not caller.scopes:
        return KeyReason.MANAGEMENT_KEY
    if scope is not None and scope not in caller.scopes:
        return KeyReason.SCOPE_NOT_ALLOWED
    if model is not None and not caller.allows_model(model):
        return KeyReason.MODEL_NOT_ALLOWED
    return None
