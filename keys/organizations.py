"""The only writers of Organization and Membership.

What workers read of an organization (its state, slug, and the facts higher rooms add) is published before a writer
returns; see issuing.py for what that promises. Memberships concern pages only, which read them from their rows.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.text import slugify

from keys import access, audit, issuing, names, publication
from keys.audit import Actor
from keys.models import ApiKey, Brand, Membership, Organization, Role, User

CHANGEABLE = ("name", "slug", "is_further")


Owned = Callable[[Organization, User], None]
_on_owned: list[Owned] = []


def register_owned(told: Owned) -> None:
    """`told` hears, in the same transaction, of everybody who becomes owner of an organization, by whatever way: what
    is given once to a person is a higher room's to know."""
    if told not in _on_owned:
        _on_owned.append(told)


class LastOwner(Exception):
    """An organization keeps at least one owner; make somebody else owner first."""


def create(
    *,
    brand: Brand,
    name: str,
    actor: Actor,
    owner: User | None = None,
    slug: str | None = None,
    is_further: bool = False,
    address: str | None = None,
) -> Organization:
    """A new customer of `brand`, with `owner` (None for one that operators run) as its first member. Without `slug`, a
    free one is made from the name."""
    _check_name(name)
    with transaction.atomic():
        organization = Organization(brand=brand, name=name.strip(), slug=slug or _free_slug(brand, name))
        organization.is_further = is_further
        organization.month_anchor = brand.month_anchor or datetime.now(ZoneInfo(brand.timezone)).day
        organization.full_clean()
        organization.save(force_insert=True)
        organization.version = publication.record(publication.ORGANIZATION, organization.id)
        audit.note(
            *("organization.created", organization.public_id),
            actor=actor,
            organization=organization,
            after={"name": organization.name, "slug": organization.slug},
            address=address,
        )
        if owner is not None:
            add_member(organization=organization, user=owner, role=Role.OWNER, actor=actor, address=address)
    return organization


def change(
    *, organization: Organization, actor: Actor, address: str | None = None, **values: Any
) -> publication.Version | None:
    """Change any of CHANGEABLE. None when nothing differs."""
    unknown = set(values) - set(CHANGEABLE)
    if unknown:
        raise TypeError(f"not changeable: {', '.join(sorted(unknown))}")
    _check_name(values.get("name", ""))
    return _changed(organization, values, "organization.changed", actor, address)


def suspend(
    *, organization: Organization, reason: str, actor: Actor, address: str | None = None
) -> publication.Version | None:
    """Every call of the organization's keys is refused from now on; running ones end and are charged. None when it was
    suspended for this reason already."""
    values = {"state": Organization.State.SUSPENDED, "suspended_reason": reason[:200]}
    return _changed(organization, values, "organization.suspended", actor, address)


def resume(*, organization: Organization, actor: Actor, address: str | None = None) -> publication.Version | None:
    values = {"state": Organization.State.ACTIVE, "suspended_reason": ""}
    return _changed(organization, values, "organization.resumed", actor, address)


def add_member(
    *, organization: Organization, user: User, role: Role, actor: Actor, address: str | None = None
) -> Membership:
    """The user's membership, with `role` when it is new; a member's role is not changed by this."""
    with transaction.atomic():
        membership, is_new = Membership.objects.get_or_create(
            organization=organization, user=user, defaults={"role": Role(role)}
        )
        if is_new:
            _note_member("member.added", membership, actor, address, after={"role": membership.role})
            _tell_of_owner(membership)
    return membership


def set_role(*, membership: Membership, role: Role, actor: Actor, address: str | None = None) -> None:
    """LastOwner when that would leave no owner."""
    with transaction.atomic():
        row = _locked_member(membership)
        if row.role == role:
            return
        before = {"role": row.role}
        row.role = Role(role)
        row.save(update_fields=["role"])
        _keep_an_owner(row.organization)
        _note_member("member.role_changed", row, actor, address, before=before, after={"role": row.role})
        if not access.may(row.role, Role.DEVELOPER):
            _end_visits(row, actor, address)
        _tell_of_owner(row)
    membership.role = row.role


def remove_member(*, membership: Membership, actor: Actor, address: str | None = None) -> None:
    """LastOwner when that would leave no owner. The keys the person made stay: they are the organization's; only what
    the person's playground holds ends at once."""
    with transaction.atomic():
        row = _locked_member(membership)
        organization = row.organization
        _note_member("member.removed", row, actor, address, before={"role": row.role})
        _end_visits(row, actor, address)
        row.delete()
        _keep_an_owner(organization)


def hand_over(*, organization: Organization, owner: User, to: User, address: str | None = None) -> None:
    """`to`, a member, becomes owner, and `owner` an admin, in one step. Membership.DoesNotExist when either is none."""
    with transaction.atomic():
        Organization.objects.select_for_update().get(pk=organization.pk)
        heir = organization.memberships.select_related("organization__brand", "user").get(user=to)
        giver = organization.memberships.select_related("organization__brand", "user").get(user=owner, role=Role.OWNER)
        set_role(membership=heir, role=Role.OWNER, actor=owner, address=address)
        set_role(membership=giver, role=Role.ADMIN, actor=owner, address=address)


def _check_name(name: str) -> None:
    if not names.is_name(name):
        raise ValidationError({"name": names.NOT_ONE})


def _changed(
    organization: Organization, values: dict[str, Any], action: str, actor: Actor, address: str | None
) -> publication.Version | None:
    with transaction.atomic():
        row = Organization.objects.select_for_update(of=("self",)).select_related("brand").get(pk=organization.pk)
        before, after = audit.assign(row, values)
        if not after:
            return None
        row.full_clean()
        row.save(update_fields=list(after))
        version = publication.record(publication.ORGANIZATION, row.id)
        audit.note(*(action, row.public_id), actor=actor, organization=row, before=before, after=after, address=address)
    for name, value in values.items():
        setattr(organization, name, value)
    organization.version = version
    return version


def _free_slug(brand: Brand, name: str) -> str:
    slug = slugify(name)[:48] or "organization"
    taken = Organization.objects.filter(brand=brand, slug=slug).exists()
    return f"{slug}-{secrets.token_hex(4)}" if taken else slug


def _locked_member(membership: Membership) -> Membership:
    """Locks the organization, so that two owners cannot step down at once."""
    Organization.objects.select_for_update().get(pk=membership.organization_id)
    return Membership.objects.select_related("organization__brand", "user").get(pk=membership.pk)


def _end_visits(row: Membership, actor: Actor, address: str | None) -> None:
    """A key of the playground is a person's who may call models: it does not outlive that by its last minutes."""
    held = row.organization.keys.filter(purpose=ApiKey.Purpose.PLAYGROUND, created_by=row.user, revoked_at=None)
    issuing.revoke_all(keys=held, actor=actor, address=address)


def _keep_an_owner(organization: Organization) -> None:
    if not organization.memberships.filter(role=Role.OWNER).exists():
        raise LastOwner(str(organization))


def _tell_of_owner(membership: Membership) -> None:
    if membership.role == Role.OWNER:
        for told in _on_owned:
            told(membership.organization, membership.user)


def _note_member(
    action: str,
    membership: Membership,
    actor: Actor,
    address: str | None,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    member = {"member": membership.user.email}
    audit.note(
        *(action, membership.organization.public_id),
        actor=actor,
        organization=membership.organization,
        before={**member, **before} if before else None,
        after={**member, **after} if after else None,
        address=address,
    )
