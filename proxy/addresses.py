"""Whose address a call comes from: the peer's, or what trusted proxies say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
HOPS_MAX = 32


@lru_cache(maxsize=4096)
def read_address(text: str) -> Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def network_of(text: str) -> str:
    """What stands for one client where clients are counted: an IPv4 address, or an IPv6 network of 64 bits, which is
    what one customer of a provider gets."""
    address = read_address(text)
    return str(int(address) >> 64) if isinstance(address, IPv6Address) else str(address)


def contains(networks: Networks, address: Address | None) -> bool:
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def client_address(peer: str | None, forwarded_for: bytes | None, trusted: Networks) -> str:
    """The right-most address that is not a trusted proxy's. Without trusted proxies the header means nothing, so a
    client cannot name its own address. "" when nothing is known (a unix socket)."""
    if not trusted or forwarded_for is None or (peer and not contains(trusted, read_address(peer))):
        return peer or ""
    hops = forwarded_for.decode("latin-1").split(",")[-HOPS_MAX:]
    for hop in reversed(hops):
        address = read_address(hop.strip())
        if address is None:
            return peer or ""
        if not contains(trusted, address):
            return str(address)
    return hops[0].strip()
