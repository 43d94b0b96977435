"""What a worker knows about the key that calls: values only, built from a published record."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

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

    @property
    def shard(self) -> int:
        return shard_of(self.organization.id)
