"""From a request's headers and query to the one secret it presents. Pure, and the only place that decides it.

The rule: everything presented counts. Authorization twice is refused even when both say the same; two different keys
are refused whatever the order; every way a key came must be one the brand takes. So nobody can put a second key beside
the one that was checked, and a key in a query string of a brand that takes none is answered with the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

QUERY_NAME = b"api_key"

# Values of keys.models.Scheme, which this file may not import (it would bring Django).
BEARER = "bearer"
API_KEY = "api-key"
X_API_KEY = "x-api-key"
QUERY = "query"

SPELLED = {
    BEARER: "Authorization: Bearer",
    API_KEY: "Authorization: Api-Key",
    X_API_KEY: "X-API-Key",
    QUERY: "?api_key=",
}
"""How a refusal names each scheme to people."""


class CredentialsReason(StrEnum):
    MISSING_KEY = "missing_key"
    MALFORMED_AUTHORIZATION = "malformed_authorization"
    DUPLICATE_AUTHORIZATION = "duplicate_authorization"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    SCHEME_NOT_ACCEPTED = "scheme_not_accepted"


class Presented(NamedTuple):
    """`secret` is what came, decoded as Latin-1 and not yet judged. `scheme`: how it came, the first of SPELLED's order
    when it came in several ways."""

    secret: str
    scheme: str


class CredentialsRefused(Exception):
    """`reason` is a CredentialsReason. `accepted` names the brand's schemes; `scheme` the one that was refused."""

    def __init__(self, reason: CredentialsReason, *, accepted: Collection[str], scheme: str | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.accepted = tuple(name for name in SPELLED if name in accepted)
        self.scheme = scheme


def present(headers: Sequence[tuple[bytes, bytes]], query: bytes, *, schemes: Collection[str]) -> Presented:
    """The one secret of a request, or CredentialsRefused. `headers` and `query` as ASGI gives them."""
    authorizations: list[bytes] = []
    x_api_keys: list[bytes] = []
    for name, value in headers:
        size = len(name)
        if size == 13 and name.lower() == b"authorization":
            authorizations.append(value)
        elif size == 9 and name.lower() == b"x-api-key":
            x_api_keys.append(value)
    if len(authorizations) > 1:
        raise CredentialsRefused(CredentialsReason.DUPLICATE_AUTHORIZATION, accepted=schemes)
    found = [_authorization(authorizations[0], schemes)] if authorizations else []
    if x_api_keys:
        found += [(X_API_KEY, key) for key in _texts(x_api_keys)]
    if query:
        found += [(QUERY, key) for key in _texts(_query_values(query))]
    if not found:
        raise CredentialsRefused(CredentialsReason.MISSING_KEY, accepted=schemes)
    if len(found) > 1 and len({secret for _, secret in found}) > 1:
        raise CredentialsRefused(CredentialsReason.AMBIGUOUS_CREDENTIALS, accepted=schemes)
    for scheme, _ in found:
        if scheme not in schemes:
            raise CredentialsRefused(CredentialsReason.SCHEME_NOT_ACCEPTED, accepted=schemes, scheme=scheme)
    return Presented(secret=found[0][1], scheme=found[0][0])


def _authorization(value: bytes, schemes: Collection[str]) -> tuple[str, str]:
    words = value.split()
    scheme = words[0].lower().decode("latin-1") if words else ""
    if len(words) != 2 or scheme not in (BEARER, API_KEY):
        raise CredentialsRefused(CredentialsReason.MALFORMED_AUTHORIZATION, accepted=schemes)
    return scheme, words[1].decode("latin-1")


def _texts(values: Iterable[bytes]) -> list[str]:
    """Decoded, without blanks: an empty header or parameter presents nothing."""
    return [text for value in values if (text := value.strip(b" \t").decode("latin-1"))]


def _query_values(query: bytes) -> list[bytes]:
    parts = [part.partition(b"=") for part in query.split(b"&") if _name(part) == QUERY_NAME]
    return [unquote_to_bytes(value.replace(b"+", b" ")) for _, _, value in parts]


def _name(part: bytes) -> bytes:
    return unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
