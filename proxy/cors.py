"""Cross-origin rules of a brand: which pages may call it from a browser. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from billing.snapshot import BrandRecord

Header = tuple[bytes, bytes]

EXPOSED = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, x-max-tokens-applied, x-dropped-fields, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
    b"x-ratelimit-limit-credits, x-ratelimit-remaining-credits, x-ratelimit-reset-credits, "
    b"x-ratelimit-used-requests, x-ratelimit-used-tokens, x-ratelimit-used-credits, "
    b"x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, "
    b"x-session-dropped-turns, x-cost-nanos"
)
USUAL_HEADERS = b"authorization, content-type, x-api-key, idempotency-key"
MAX_AGE_S = b"7200"
REQUEST_HEADERS_BYTES_MAX = 1024


def allows(brand: BrandRecord, origin: bytes) -> bool:
    origins = brand.cors_origins
    return bool(origins) and ("*" in origins or origin.decode("latin-1") in origins)


def answer_headers(brand: BrandRecord | None, origin: bytes | None) -> tuple[Header, ...]:
    """For an actual answer. Keys travel in headers we name, never in cookies: credentials are not allowed."""
    if origin is None or brand is None or not allows(brand, origin):
        return ()
    if "*" in brand.cors_origins:
        return ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", EXPOSED))
    return (
        (b"access-control-allow-origin", origin),
        (b"vary", b"origin"),
        (b"access-control-expose-headers", EXPOSED),
    )


def preflight_headers(
    brands: Iterable[BrandRecord], origin: bytes, methods: tuple[str, ...], wanted: bytes | None
) -> tuple[Header, ...]:
    """For OPTIONS, which carries no key: allowed when any brand that the place may belong to allows the origin."""
    for brand in brands:
        if allows(brand, origin):
            any_origin = "*" in brand.cors_origins
            return (
                (b"access-control-allow-origin", b"*" if any_origin else origin),
                (b"vary", b"origin, access-control-request-headers"),
                (b"access-control-allow-methods", ", ".join((*methods, "OPTIONS")).encode("ascii")),
                (b"access-control-allow-headers", _headers(wanted)),
                (b"access-control-max-age", MAX_AGE_S),
            )
    return ((b"vary", b"origin"),)


def _headers(wanted: bytes | None) -> bytes:
    """What the browser asks for (SDKs send x-stainless-*), as long as it can be a list of header names."""
    if wanted and len(wanted) <= REQUEST_HEADERS_BYTES_MAX:
        names = [name.strip().lower() for name in wanted.split(b",")]
        if all(name.replace(b"-", b"").replace(b"_", b"").isalnum() for name in names):
            return b", ".join(names)
    return USUAL_HEADERS
