"""What workers read of keys, organizations and brands: the records' names in Redis, the SQL that makes them, and how
they are read back. The only file that spells these names. Knows no framework.

A record is a hash {v, data}: the row's version and JSON. The JSON is made by PostgreSQL in one statement, so both ways
that lead to Redis (publication.py after a change, directory.py after a miss) write the same bytes for the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import orjson

from keys.caller import Caller, OrganizationRecord, shard_of

BRANDS = "brands"

_OLDER = """
local function older(a, b) -- versions are int64 as decimal text: a double could not tell neighbours past 2^53 apart
  if #a ~= #b then return #a < #b end
  return a < b
end
"""

OFFER = (
    _OLDER
    + """
-- KEYS: hashes {v, data}, all of one slot. ARGV: for each a version and data, or '' and '' to read only.
-- Writes an offer unless what stands is newer. Returns v, data of each as they stand afterwards (false when absent).
local standing = {}
for i, key in ipairs(KEYS) do
  local version, data = ARGV[2 * i - 1], ARGV[2 * i]
  local record = redis.call('HMGET', key, 'v', 'data')
  if version ~= '' and not (record[1] and older(version, record[1])) then
    redis.call('HSET', key, 'v', version, 'data', data)
    record = {version, data}
  end
  standing[2 * i - 1], standing[2 * i] = record[1], record[2]
end
return standing
"""
)

RAISE_VERSION = (
    _OLDER
    + """
-- KEYS[1]: a hash of versions. ARGV: field, version. Raises the field to the version; never lowers it. Returns, like
-- OFFER, a list that begins with the version that stands.
local standing = redis.call('HGET', KEYS[1], ARGV[1])
if standing and older(ARGV[2], standing) then return {standing} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return {ARGV[2]}
"""
)


def key_name(organization_id: int, key_id: int) -> str:
    return f"{{s{shard_of(organization_id)}}}:key:{key_id}"


def organization_name(organization_id: int) -> str:
    return f"{{s{shard_of(organization_id)}}}:org:{organization_id}"


def policy_name(shard: int) -> str:
    """Hash brand id -> version of the brand's snapshot; one copy per shard, so that a script sees its own."""
    return f"{{s{shard}}}:policy"


def brand_name(brand_id: int) -> str:
    return f"policy:{brand_id}"


def digest_name(digest: bytes) -> str:
    """String "<organization id>:<key id>": a cache of the index on digest, verified against the key's record."""
    return f"kd:{digest.hex()}"


_organization_facts: dict[str, str] = {}


def register_organization_fact(name: str, sql: str) -> None:
    """A higher room adds a field to every organization's record: `sql` is a scalar subquery that may name the
    organization's row as `o`. Whoever changes the fact records a change of subject "org" in the same transaction."""
    _organization_facts[name] = sql


def key_columns() -> str:
    """k.id, k.version, data: three columns of a SELECT that names the key's row `k`."""
    return """k.id, k.version, json_build_object(
        'id', k.id, 'public_id', k.public_id, 'hint', k.hint, 'digest', encode(k.digest, 'hex'),
        'organization_id', k.organization_id, 'scopes', k.scopes, 'models', k.model_slugs, 'cidrs', k.cidrs,
        'limits', k.limits, 'expires_at_ms', floor(extract(epoch FROM k.expires_at) * 1000)::bigint,
        'revoked', k.revoked_at IS NOT NULL, 'is_test', k.mode = 'test')::text"""


def organization_columns() -> str:
    """o.id, o.version, data: three columns of a SELECT that names the organization's row `o`."""
    facts = "".join(f", '{name}', ({sql})" for name, sql in sorted(_organization_facts.items()))
    return f"""o.id, o.version, json_build_object(
        'id', o.id, 'public_id', o.public_id, 'slug', o.slug, 'brand_id', o.brand_id, 'state', o.state,
        'is_further', o.is_further, 'month_anchor', o.month_anchor{facts})::text"""


def pair_sql(condition: str) -> str:
    """The six columns of a key and its organization, from one snapshot."""
    return f"""SELECT {key_columns()}, {organization_columns()}
        FROM keys_apikey k JOIN keys_organization o ON o.id = k.organization_id WHERE {condition}"""  # noqa: S608


BRAND_FIELDS = (
    *("id", "slug", "name", "hosts", "base_paths", "dialect", "schemes", "key_prefix", "legacy_key_patterns"),
    *("id_prefix", "default_model", "currency", "timezone", "state", "cors_origins", "money_refusal_status"),
    *("support_email", "support_url", "response_id_prefix", "parameters", "is_catalogue_public", "lists_gated_models"),
    *("is_plain_chat", "splits_reasoning", "conversation_days", "conversation_bytes_max"),
)


def brand_values(brand: Any) -> dict[str, Any]:
    """A Brand row as the fields of billing's BrandRecord."""
    return {name: getattr(brand, name) for name in BRAND_FIELDS}


@dataclass(frozen=True, slots=True)
class Standing:
    """A key's record and its organization's as they stand together. `digest`: the stored digest of the key."""

    caller: Caller
    digest: bytes


def read_pair(reply: list[bytes | None]) -> Standing | None:
    """The answer of OFFER over a key and its organization. None when either is missing or is not what this release
    writes (the caller then reads the rows)."""
    key_version, key_data, organization_version, organization_data = reply
    if not (key_version and key_data and organization_version and organization_data):
        return None
    try:
        return _standing(
            int(key_version), orjson.loads(key_data), int(organization_version), orjson.loads(organization_data)
        )
    except (KeyError, TypeError, ValueError):
        return None


def _standing(key_version: int, key: dict[str, Any], organization_version: int, org: dict[str, Any]) -> Standing:
    if key["organization_id"] != org["id"]:
        raise ValueError("records of two different organizations")
    caller = Caller(
        key_id=key["id"],
        key_public_id=key["public_id"],
        key_hint=key["hint"],
        key_version=key_version,
        scopes=_shared_set(tuple(key["scopes"])),
        models=None if key["models"] is None else frozenset(key["models"]),
        networks=tuple(ip_network(text) for text in key["cidrs"]),
        limits=tuple(key["limits"]),
        expires_at_ms=key["expires_at_ms"],
        revoked=key["revoked"],
        organization=OrganizationRecord(
            id=org["id"],
            public_id=org["public_id"],
            slug=org["slug"],
            brand_id=org["brand_id"],
            state=org["state"],
            tier_id=org.get("tier_id"),
            version=organization_version,
            overrides=tuple(org.get("overrides") or ()),
            is_further=org.get("is_further", False),
            month_anchor=org.get("month_anchor", 1),  # records of an older release know calendar months only
        ),
        is_test=key.get("is_test", False),  # an older release has none such
    )
    return Standing(caller, bytes.fromhex(key["digest"]))


_sets: dict[tuple[str, ...], frozenset[str]] = {}


def _shared_set(values: tuple[str, ...]) -> frozenset[str]:
    """Nearly every key has the same scopes; tens of thousands of cached callers share one set."""
    if len(_sets) > 256:
        _sets.clear()
    return _sets.setdefault(values, frozenset(values))
