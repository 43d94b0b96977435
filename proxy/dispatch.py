"""Host and path → brand, base path and what is asked for below it. Pure; the rule of design §5.

The brand of the Host header; else the brand whose slug is the first path segment (it is stripped); else it is left open
and the key decides, or `default_brand` for a caller without one. Within a brand only its base paths are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from billing.snapshot import BrandRecord
from keys.reserved import RESERVED_SLUGS
from proxy.refusals import Declined, Reason, decline

USUAL_BASE_PATHS = ("/v1", "/api/v1")
HOSTS_REMEMBERED = 1024


class Place(NamedTuple):
    """`brand` None: the key decides. `root`: what was stripped ("/dialogix" or ""). `rest` begins with a slash."""

    brand: BrandRecord | None
    root: str
    base: str
    rest: str


class Brands:
    """The brands of the installation, indexed for dispatch. Replaced whole when the published list changes."""

    def __init__(self, brands: Iterable[BrandRecord], *, default_brand: str, allowed_hosts: Sequence[str]) -> None:
        self.by_id = {brand.id: brand for brand in brands}
        self._by_slug = {brand.slug: brand for brand in self.by_id.values() if brand.slug not in RESERVED_SLUGS}
        self._by_host = {host.lower(): brand for brand in self.by_id.values() for host in brand.hosts}
        self.default = self._by_slug.get(default_brand)
        self._allowed = tuple(host.lower() for host in allowed_hosts)
        self._bases = _longest_first(base for brand in self.by_id.values() for base in _bases(brand))
        self._bases_of = {brand.id: _longest_first(_bases(brand)) for brand in self.by_id.values()}
        self._hosts: dict[bytes, BrandRecord | None] = {}

    def place(self, host: bytes | None, path: str) -> Place | None:
        """Where a request goes. None: not under any base path, so it is the portal's. Declines a Host that is not
        ours; `host` None stands for a missing or repeated header."""
        brand = self._brand_of_host(host)
        root = ""
        if brand is None:
            slug, _, _ = path[1:].partition("/")
            brand = self._by_slug.get(slug)
            if brand is not None:
                root = "/" + slug
                path = path[len(root) :] or "/"
        bases = self._bases if brand is None else self._bases_of[brand.id]
        for base in bases:
            if path.startswith(base) and path[len(base) : len(base) + 1] in ("", "/"):
                return Place(brand, root, base, path[len(base) :] or "/")
        return None

    def ours(self, host: bytes | None, path: str) -> bool:
        """Whether the proxy answers this path. It does so too where the host is wrong, or the first segment may be a
        brand of which this worker has not heard yet."""
        try:
            if self.place(host, path) is not None:
                return True
            if self._brand_of_host(host) is not None:
                return False
        except Declined:
            return self._is_under_a_base(path) or self._is_below_a_slug(path)
        return self._is_below_a_slug(path)

    def serves(self, brand: BrandRecord, place: Place) -> bool:
        """Whether an open place belongs to the brand that the key named."""
        return place.base in _bases(brand)

    def _is_below_a_slug(self, path: str) -> bool:
        slug, slash, rest = path[1:].partition("/")
        return bool(slash) and slug not in RESERVED_SLUGS and self._is_under_a_base("/" + rest)

    def _is_under_a_base(self, path: str) -> bool:
        return any(path.startswith(base) and path[len(base) : len(base) + 1] in ("", "/") for base in self._bases)

    def _brand_of_host(self, host: bytes | None) -> BrandRecord | None:
        if host is None:
            raise decline(Reason.INVALID_HOST)
        try:
            return self._hosts[host]
        except KeyError:
            pass
        name = _name_of(host)
        brand = self._by_host.get(name)
        if brand is None and not self._is_allowed(name):
            raise decline(Reason.INVALID_HOST)
        if len(self._hosts) < HOSTS_REMEMBERED:
            self._hosts[host] = brand
        return brand

    def _is_allowed(self, name: str) -> bool:
        for allowed in self._allowed:
            if allowed in ("*", name):
                return True
            if allowed.startswith(".") and (name.endswith(allowed) or name == allowed[1:]):
                return True
        return False


def _bases(brand: BrandRecord) -> tuple[str, ...]:
    return brand.base_paths or USUAL_BASE_PATHS


def _longest_first(bases: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*bases} or {*USUAL_BASE_PATHS}, key=len, reverse=True))


def _name_of(host: bytes) -> str:
    """The name in a Host header, lower-cased, without port. Declines what no host can be."""
    text = host.decode("latin-1").lower()
    name, port = text, ""
    if text.startswith("["):
        name, bracket, port = text.partition("]")
        name += bracket
        if port and not port.startswith(":"):
            raise decline(Reason.INVALID_HOST)
        port = port[1:]
    elif ":" in text:
        name, _, port = text.partition(":")
    plain = name.strip("[]").replace(".", "").replace("-", "").replace("_", "").replace(":", "")
    if not plain.isascii() or not plain.isalnum() or (port and not port.isdigit()):
        raise decline(Reason.INVALID_HOST)
    return name.rstrip(".")
