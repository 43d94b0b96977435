"""The only writers of ApiKey. Each change is committed with its audit event and its publication, and stands in Redis
before the function returns: the next request is judged by it.

When Redis is away the change is committed all the same and `published` says False: metered calls are refused while
Redis is away, and the sweeper applies the change as soon as it is back.
"""

from __future__ import annotations

import secrets as randomness
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from keys import access, audit, names, publication, tokens
from keys.audit import Actor
from keys.models import ApiKey, Brand, Organization, Role, Scope, ServiceAccount, User

_when_revoked: list[Callable[[ApiKey], None]] = []
CHANGEABLE = ("name", "scopes", "model_slugs", "cidrs", "limits", "expires_at")
CHANGEABLE_OF_MANAGEMENT = frozenset({"name", "cidrs", "expires_at"})
SCOPES = tuple(scope.value for scope in Scope)
CIDRS_MAX = 100
PASSING = "A key of the playground ends within minutes and is kept no longer; create a key instead."
LEGACY = 0
"""The pepper version of an imported digest: plain SHA-256."""


class KeyNotLive(Exception):
    """The key is revoked or expired; issue a new one."""


@dataclass(frozen=True, slots=True)
class Issued:
    """`secret` is shown to the person once and kept nowhere."""

    key: ApiKey
    secret: str = field(repr=False)
    version: publication.Version

    @property
    def published(self) -> bool:
        return self.version.applied


def issue(
    *,
    organization: Organization,
    name: str,
    actor: Actor,
    scopes: Iterable[str] | None = None,
    model_slugs: Iterable[str] | None = None,
    cidrs: Iterable[str] = (),
    limits: Iterable[Mapping[str, int | str]] = (),
    expires_at: datetime | None = None,
    secret: str | None = None,
    purpose: ApiKey.Purpose = ApiKey.Purpose.PROGRAM,
    mode: ApiKey.Mode = ApiKey.Mode.LIVE,
    service_account: ServiceAccount | None = None,
    address: str | None = None,
) -> Issued:
    """A new key. `scopes` None grants all that the brand's keys may do, `model_slugs` None every model the tier
    unlocks. `secret` is for a key that must be the same at every start (the demo's); it must be well formed under the
    brand's prefix. ValidationError names the field that is wrong."""
    brand = organization.brand
    prefix = prefix_of(brand, mode)
    if secret is None:
        secret = tokens.mint(prefix, randomness.token_bytes(tokens.RANDOM_BYTES))
    elif not tokens.well_formed(secret, prefix):
        raise ValidationError({"secret": f"Not a well-formed key with the prefix {prefix}."})
    values = checked(
        {
            "name": name,
            "scopes": scopes_of(brand) if scopes is None else scopes,
            "model_slugs": model_slugs,
            "cidrs": cidrs,
            "limits": limits,
            "expires_at": expires_at,
        },
        brand,
        ApiKey.Mode(mode),
    )
    values |= {"purpose": purpose, "mode": mode, "service_account": service_account}
    key, version = _create(organization, secret, values, actor=actor, address=address)
    return Issued(key, secret, version)


def issue_for_management(
    *,
    organization: Organization,
    name: str,
    role: Role,
    actor: Actor,
    cidrs: Iterable[str] = (),
    expires_at: datetime | None = None,
    service_account: ServiceAccount | None = None,
    address: str | None = None,
) -> Issued:
    """A key that manages its organization as a member with `role` would, and calls no model. Of a service account: with
    no more than its role."""
    secret = tokens.mint(organization.brand.key_prefix, randomness.token_bytes(tokens.RANDOM_BYTES))
    values = checked({"name": name, "cidrs": cidrs, "expires_at": expires_at})
    values |= {"scopes": [], "manages_as": Role(role), "service_account": service_account}
    key, version = _create(organization, secret, values, actor=actor, address=address)
    return Issued(key, secret, version)


def import_legacy(
    *,
    organization: Organization,
    name: str,
    sha256: bytes,
    hint: str,
    actor: Actor,
    expires_at: datetime | None = None,
    address: str | None = None,
) -> ApiKey:
    """A key that customers already have, known to us by the SHA-256 of its text only. It calls when its text matches
    one of the brand's `legacy_key_patterns`."""
    if len(sha256) != 32:
        raise ValidationError({"sha256": "A SHA-256 digest has 32 bytes."})
    values = checked({"name": name, "scopes": scopes_of(organization.brand), "expires_at": expires_at})
    with transaction.atomic():
        key = ApiKey(
            organization=organization,
            digest=sha256,
            pepper_version=LEGACY,
            hint=hint[:40],
            created_by=actor if isinstance(actor, User) else None,
            **values,
        )
        _saved(key)
        key.version = publication.record(publication.KEY, key.id)
        audit.note("key.imported", key.public_id, actor=actor, organization=organization, address=address)
    return key


def change(*, key: ApiKey, actor: Actor, address: str | None = None, **values: Any) -> publication.Version | None:
    """Change any of name, scopes, model_slugs, cidrs, limits, expires_at; of a management key name, cidrs, expires_at.
    None when nothing differs. ValidationError of a key of the playground."""
    _check_stays(key)
    if key.manages_as and not values.keys() <= CHANGEABLE_OF_MANAGEMENT:
        raise ValidationError("A management key calls no model, so it has no scopes, models and limits.")
    values = checked(values, key.organization.brand, ApiKey.Mode(key.mode))
    with transaction.atomic():
        key = _locked(key)
        before, after = audit.assign(key, values)
        if not after:
            return None
        key.save(update_fields=list(after))
        version = publication.record(publication.KEY, key.id)
        audit.note(
            *("key.changed", key.public_id),
            actor=actor,
            organization=key.organization,
            before=before,
            after=after,
            address=address,
        )
    return version


def does_more(key: ApiKey, role: str) -> bool:
    """Whether the key does what a member of that role may not have done by a key."""
    return not access.may(role, key.manages_as or Role.DEVELOPER)


def when_revoked(listener: Callable[[ApiKey], None]) -> None:
    """Have `listener` called with each key that is revoked, once, in the transaction that revokes it: what it writes
    stands exactly when the revocation does."""
    if listener not in _when_revoked:
        _when_revoked.append(listener)


def revoke(*, key: ApiKey, actor: Actor, address: str | None = None) -> publication.Version:
    """For good. Every request that starts after this returned is refused, when the version says applied. Revoking
    twice changes nothing, and applies what the first time could not."""
    with transaction.atomic():
        locked = _locked(key)
        if locked.revoked_at is None:
            locked.revoked_at = timezone.now()
            locked.save(update_fields=["revoked_at"])
            version = publication.record(publication.KEY, locked.id)
            audit.note("key.revoked", locked.public_id, actor=actor, organization=locked.organization, address=address)
            for listener in _when_revoked:
                listener(locked)
        else:
            version = publication.again(publication.KEY, locked.id, locked.version)
    key.revoked_at, key.version = locked.revoked_at, version
    return version


def rotate(*, key: ApiKey, overlap: timedelta, actor: Actor, address: str | None = None) -> Issued:
    """A new secret with the old key's name, scopes, models, networks, limits and expiry. The old key goes on calling
    for `overlap` (never past its own expiry); an overlap of zero revokes it. Limits are counted per key, so in the
    overlap each of the two has its own. ValidationError of a key of the playground."""
    _check_stays(key)
    if overlap < timedelta(0):
        raise ValidationError({"overlap": "An overlap cannot be negative."})
    prefix = prefix_of(key.organization.brand, key.mode)
    secret = tokens.mint(prefix, randomness.token_bytes(tokens.RANDOM_BYTES))
    with transaction.atomic():
        if key.service_account_id is not None:  # before its key, as whoever disables it does
            ServiceAccount.objects.select_for_update().get(pk=key.service_account_id)
        old = _locked(key)
        now = timezone.now()
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise KeyNotLive(f"{old.hint} is revoked or expired")
        kept = ("name", "purpose", "mode", "service_account", "manages_as", "model_slugs", "cidrs", "limits")
        shared = {name: getattr(old, name) for name in kept}
        allowed = () if old.manages_as else scopes_of(old.organization.brand)
        shared["scopes"] = [scope for scope in old.scopes if scope in allowed] or list(allowed)
        new, version = _create(
            old.organization,
            secret,
            {**shared, "expires_at": old.expires_at, "rotated_from": old},
            actor=actor,
            address=address,
            action="key.rotated",
        )
        if overlap:
            ends = now + overlap
            change(key=old, actor=actor, address=address, expires_at=min(ends, old.expires_at or ends))
        else:
            revoke(key=old, actor=actor, address=address)
    key.refresh_from_db()
    return Issued(new, secret, version)


def revoke_all(*, keys: Iterable[ApiKey], actor: Actor, address: str | None = None) -> list[publication.Version]:
    """All of them or none, in the order of their rows, so that two who revoke the same ones wait for each other."""
    with transaction.atomic():
        return [revoke(key=key, actor=actor, address=address) for key in sorted(keys, key=lambda key: key.pk)]


def existing(secret: str) -> ApiKey | None:
    """The key this secret opens, live or not, under any pepper."""
    return (
        ApiKey.objects.filter(digest__in=_digests(secret))
        .select_related("organization__brand", "service_account")
        .first()
    )


def scopes_of(brand: Brand) -> tuple[str, ...]:
    """What keys of the brand may be granted at most."""
    return tuple(scope for scope in SCOPES if not brand.key_scopes or scope in brand.key_scopes)


def prefix_of(brand: Brand, mode: str) -> str:
    """What the brand's keys of that mode begin with."""
    return tokens.prefix_for_tests(brand.key_prefix) if mode == ApiKey.Mode.TEST else brand.key_prefix


def checked(
    values: Mapping[str, Any], brand: Brand | None = None, mode: ApiKey.Mode = ApiKey.Mode.LIVE
) -> dict[str, Any]:
    """The changeable fields in the form the row keeps them, or ValidationError by field. `brand`: whose keys may do no
    more than it says."""
    unknown = set(values) - set(CHANGEABLE)
    if unknown:
        raise TypeError(f"not changeable: {', '.join(sorted(unknown))}")
    checked = dict(values)
    if "name" in values:
        checked["name"] = values["name"].strip()
        if not names.is_name(checked["name"]):
            raise ValidationError({"name": names.NOT_ONE})
        if not 0 < len(checked["name"]) <= 100:
            raise ValidationError({"name": "A key needs a name of at most 100 printable characters."})
    if "scopes" in values:
        asked, allowed = set(values["scopes"]), scopes_of(brand) if brand else SCOPES
        checked["scopes"] = [scope for scope in allowed if scope in asked]
        if not asked or len(checked["scopes"]) != len(asked):
            raise ValidationError({"scopes": f"Choose from: {', '.join(allowed)}."})
    if values.get("model_slugs") is not None:
        checked["model_slugs"] = sorted(set(values["model_slugs"]))
        if any(audit.has_control_characters(slug) for slug in checked["model_slugs"]):
            raise ValidationError({"model_slugs": "No model has such a name."})
    if "cidrs" in values:
        checked["cidrs"] = _networks(list(values["cidrs"]))
    if "limits" in values:
        checked["limits"] = [dict(limit) for limit in values["limits"]]
        if checked["limits"] and mode == ApiKey.Mode.TEST:
            raise ValidationError({"limits": "A test key costs nothing and has the one limit that all of them have."})
    expires_at = values.get("expires_at")
    if expires_at is not None and timezone.is_naive(expires_at):
        raise ValidationError({"expires_at": "An expiry needs a time zone."})
    return checked


def _create(
    organization: Organization,
    secret: str,
    values: dict[str, Any],
    *,
    actor: Actor,
    address: str | None,
    action: str = "key.issued",
) -> tuple[ApiKey, publication.Version]:
    pepper_version = max(settings.KEY_PEPPERS)
    key = ApiKey(
        organization=organization,
        digest=tokens.digest(secret, settings.KEY_PEPPERS[pepper_version]),
        pepper_version=pepper_version,
        hint=tokens.hint(secret, prefix_of(organization.brand, values.get("mode", ApiKey.Mode.LIVE))),
        created_by=actor if isinstance(actor, User) else None,
        **values,
    )
    with transaction.atomic():
        _check_owner(key)
        _saved(key)
        version = publication.record(publication.KEY, key.id)
        key.version = version
        shown = ("manages_as", *sorted(CHANGEABLE_OF_MANAGEMENT)) if key.manages_as else CHANGEABLE
        shown = (*shown, "mode") if key.mode == ApiKey.Mode.TEST else shown
        after = {name: audit.plain(getattr(key, name)) for name in shown}
        if key.service_account is not None:
            after["service_account"] = key.service_account.name
        audit.note(action, key.public_id, actor=actor, organization=organization, after=after, address=address)
    return key, version


def _check_stays(key: ApiKey) -> None:
    """Lists of keys and of changes leave the playground's out, as there are many and they end by themselves: one that
    could be prolonged would go on unseen."""
    if key.purpose != ApiKey.Purpose.PROGRAM:
        raise ValidationError(PASSING)


def _check_owner(key: ApiKey) -> None:
    """Locks the service account, so that none is disabled while a key of it is made."""
    if key.service_account is None:
        return
    account = ServiceAccount.objects.select_for_update().get(pk=key.service_account.pk)
    if account.disabled_at is not None or account.organization_id != key.organization.pk:
        raise ValidationError({"service_account": "There is no such service account, or it is disabled."})
    if does_more(key, account.role):
        what = "calls models" if not key.manages_as else "manages more than it may"
        raise ValidationError({"service_account": f"{account.name} is {account.role}, so no key of it {what}."})


def _saved(key: ApiKey) -> None:
    no_scopes = ["scopes"] if key.manages_as else []  # an empty list counts as left out
    key.full_clean(exclude=["organization", "created_by", "rotated_from", "service_account", *no_scopes])
    key.save(force_insert=True)


def _locked(key: ApiKey) -> ApiKey:
    return ApiKey.objects.select_for_update(of=("self",)).select_related("organization__brand").get(pk=key.pk)


def _digests(secret: str) -> list[bytes]:
    return [tokens.digest(secret, pepper) for pepper in settings.KEY_PEPPERS.values()] + [tokens.legacy_digest(secret)]


def _networks(cidrs: Sequence[str]) -> list[str]:
    if len(cidrs) > CIDRS_MAX:
        raise ValidationError({"cidrs": f"At most {CIDRS_MAX} networks."})
    try:
        return [str(ip_network(text.strip(), strict=False)) for text in cidrs]
    except ValueError as error:
        raise ValidationError({"cidrs": str(error)}) from None
