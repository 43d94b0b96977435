"""The only way a page, or a program with a management key, reaches a tenant's rows.

A stranger and somebody who asks for what never was get the same Http404 from the same single query; so does a person
who asks under another brand. A member whose role is too small gets PermissionDenied: that the row exists is no news.
"""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404

from keys.models import ApiKey, Brand, Membership, Organization, Role, ServiceAccount

_PUBLIC_ID = re.compile(r"[a-z0-9_]{1,40}")
EVERY = Q()

AT_LEAST: dict[str, frozenset[str]] = {
    Role.OWNER: frozenset({Role.OWNER}),
    Role.ADMIN: frozenset({Role.OWNER, Role.ADMIN}),
    Role.DEVELOPER: frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER}),
    Role.BILLING: frozenset({Role.OWNER, Role.ADMIN, Role.BILLING}),
    Role.VIEWER: frozenset(Role),
}
"""Roles that may do what the role of the index may. Developer and billing stand beside each other: neither may do the
other's work."""


def organizations_of(user: Any, brand: Brand) -> QuerySet[Organization]:
    """The organizations of `brand` that this person (or AnonymousUser) belongs to, by name."""
    if not user.is_active or not user.is_authenticated:
        return Organization.objects.none()
    return Organization.objects.filter(brand=brand, memberships__user=user).select_related("brand").order_by("name")


def organization_for(
    user: Any, brand: Brand, public_id: str, *, role_at_least: Role | str | None = None
) -> Organization:
    membership = _membership(user, brand, organization__public_id=public_id)
    require(membership.role, role_at_least)
    return membership.organization


def key_for(user: Any, brand: Brand, public_id: str, *, role_at_least: Role | str | None = None) -> ApiKey:
    """The key that calls models, with its organization and brand at hand."""
    calls = Q(organization__keys__manages_as="")
    membership = _membership(user, brand, calls, organization__keys__public_id=public_id)
    require(membership.role, role_at_least)
    return key_of(membership.organization, public_id)


def key_of(organization: Organization, public_id: str) -> ApiKey:
    """The organization's key that calls models, for whoever was let in to the organization."""
    return _key(organization, public_id, Q(manages_as=""))


def management_key_of(organization: Organization, public_id: str) -> ApiKey:
    return _key(organization, public_id, ~Q(manages_as=""))


def service_account_of(organization: Organization, public_id: str) -> ServiceAccount:
    found = organization.service_accounts.filter(public_id=public_id) if _PUBLIC_ID.fullmatch(public_id) else None
    row = found.first() if found is not None else None
    if row is None:
        raise Http404("No such page.")
    row.organization = organization
    return row


def _key(organization: Organization, public_id: str, which: Q) -> ApiKey:
    row = organization.keys.filter(which, public_id=public_id).first() if _PUBLIC_ID.fullmatch(public_id) else None
    if row is None:
        raise Http404("No such page.")
    row.organization = organization
    return row


def role_in(user: Any, organization: Organization) -> Role | None:
    membership = Membership.objects.filter(user_id=user.pk, organization=organization, user__is_active=True).first()
    return Role(membership.role) if membership else None


def may(role: Role | str | None, role_at_least: Role | str) -> bool:
    return role is not None and role in AT_LEAST[role_at_least]


def may_assign(role: Role | str | None, before: Role | str | None, after: Role | str | None) -> bool:
    """Whether `role` may make somebody who is `before` into `after` (None: no member). Admins do it among all but
    owners; only owners make owners and take that away."""
    return may(role, Role.OWNER if Role.OWNER in (before, after) else Role.ADMIN)


def require_assignment(role: Role | str | None, before: Role | str | None, after: Role | str | None) -> None:
    if not may_assign(role, before, after):
        raise PermissionDenied("Admins manage everybody but owners; only an owner decides who is one.")


def require(role: Role | str | None, role_at_least: Role | str | None) -> None:
    if role_at_least is not None and not may(role, role_at_least):
        raise PermissionDenied(f"This needs the role {Role(role_at_least).label.lower()} or a higher one.")


def _membership(user: Any, brand: Brand, further: Q = EVERY, **condition: str) -> Membership:
    found = None
    if all(_PUBLIC_ID.fullmatch(text) for text in condition.values()):
        found = (
            Membership.objects.filter(
                further, user_id=user.pk, user__is_active=True, organization__brand_id=brand.pk, **condition
            )
            .select_related("organization__brand")
            .first()
        )
    if found is None:
        raise Http404("No such page.")
    return found
