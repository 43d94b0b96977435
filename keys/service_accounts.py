"""The only writer of ServiceAccount: members that are programs. Their keys end with them, and with no person.

Nobody signs in as one. What it may do it does by its keys: those that call, and management keys of at most its role.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from keys import audit, issuing, names
from keys.audit import Actor
from keys.models import Organization, Role, ServiceAccount, User


def create(
    *, organization: Organization, name: str, role: Role, actor: Actor, address: str | None = None
) -> ServiceAccount:
    """ValidationError: of the name, when it is empty, unprintable, or another's that still works."""
    name = name.strip()
    if not names.is_name(name):
        raise ValidationError({"name": names.NOT_ONE})
    if not 0 < len(name) <= 100:
        raise ValidationError({"name": "A service account needs a name of at most 100 printable characters."})
    with transaction.atomic():
        Organization.objects.select_for_update().get(pk=organization.pk)
        if organization.service_accounts.filter(name=name, disabled_at=None).exists():
            raise ValidationError({"name": "There is a service account of that name."})
        row = ServiceAccount.objects.create(
            organization=organization,
            name=name,
            role=Role(role),
            created_by=actor if isinstance(actor, User) else None,
        )
        row.refresh_from_db()
        audit.note(
            *("service_account.created", row.public_id),
            actor=actor,
            organization=organization,
            after={"name": name, "role": row.role},
            address=address,
        )
    return row


def set_role(*, account: ServiceAccount, role: Role, actor: Actor, address: str | None = None) -> None:
    """The most that its keys may do. ValidationError while one of them does more (it is revoked first), and of one that
    is disabled."""
    with transaction.atomic():
        row = ServiceAccount.objects.select_for_update(of=("self",)).select_related("organization").get(pk=account.pk)
        if row.disabled_at is not None:
            raise ValidationError({"role": "The service account is disabled, for good."})
        if row.role == role:
            return
        before = {"name": row.name, "role": row.role}
        row.role = Role(role)
        for key in row.keys.filter(revoked_at=None).order_by("pk"):
            if issuing.does_more(key, row.role):
                raise ValidationError({"role": f"Its key {key.name} ({key.hint}) does more; revoke it first."})
        row.save(update_fields=["role"])
        audit.note(
            *("service_account.role_changed", row.public_id),
            actor=actor,
            organization=row.organization,
            before=before,
            after={"name": row.name, "role": row.role},
            address=address,
        )
    account.role = row.role


def disable(*, account: ServiceAccount, actor: Actor, address: str | None = None) -> bool:
    """For good, and its keys with it: every request with one that starts after this returned is refused. False when the
    gateway could not be told yet (issuing.py has what that means). Disabling twice changes nothing, and tells again."""
    with transaction.atomic():
        row = (
            ServiceAccount.objects.select_for_update(of=("self",))
            .select_related("organization__brand")
            .get(pk=account.pk)
        )
        if row.disabled_at is None:
            row.disabled_at = timezone.now()
            row.save(update_fields=["disabled_at"])
            audit.note(
                *("service_account.disabled", row.public_id),
                actor=actor,
                organization=row.organization,
                before={"name": row.name, "role": row.role},
                address=address,
            )
        versions = issuing.revoke_all(keys=row.keys.all(), actor=actor, address=address)
    account.disabled_at = row.disabled_at
    return all(version.applied for version in versions)
