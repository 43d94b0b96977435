"""The trail of who changed what. Every writer of this house calls `note` in the transaction of its change."""

from __future__ import annotations

import unicodedata
from datetime import date
from typing import Any

from django.db.models import Model

from keys.models import ApiKey, AuditEvent, Brand, Organization, User

Actor = User | ApiKey | str
"""A person, a management key, or the name of the command or job that acted."""


def note(
    action: str,
    subject: str,
    *,
    actor: Actor,
    brand: Brand | None = None,
    organization: Organization | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    address: str | None = None,
) -> AuditEvent:
    """`action` like "key.revoked"; `subject` the public id (or slug) of what changed; `before` and `after` hold the
    changed fields only, as JSON values."""
    person = actor if isinstance(actor, User) else None
    return AuditEvent.objects.create(
        brand=brand or (organization.brand if organization else None),
        organization=organization,
        actor=person,
        actor_key=actor if isinstance(actor, ApiKey) else None,
        actor_name=_named(actor)[:254],
        action=action,
        subject=subject,
        before=before or {},
        after=after or {},
        address=address,
    )


def _named(actor: Actor) -> str:
    if isinstance(actor, ApiKey) and actor.service_account is not None:
        return f"{actor.service_account}, {actor}"
    return str(actor)


def assign(row: Model, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Set `values` on `row`, unsaved; returns what really differs as (before, after) in JSON values."""
    before, after = {}, {}
    for name, value in values.items():
        old = getattr(row, name)
        if old != value:
            before[name], after[name] = plain(old), plain(value)
            setattr(row, name, value)
    return before, after


def plain(value: Any) -> Any:
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, tuple):
        return list(value)
    return value


def has_control_characters(text: str) -> bool:
    """NUL and its kin: PostgreSQL refuses the first, and nobody types the others."""
    return any(unicodedata.category(character) == "Cc" for character in text)
