"""The only writers of Invitation. The token is in the mail's link only; the row keeps its digest.

An invitation is for one e-mail address: whoever accepts must be signed in with it, so a forwarded link opens nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from keys import audit, organizations
from keys.audit import Actor
from keys.models import Brand, Invitation, Membership, Organization, Role, User

VALID = timedelta(days=14)


class NotOpen(Exception):
    """There is no such invitation for this person, or it was accepted, revoked or is too old. One answer for all: a
    stranger learns nothing by trying."""


def invite(
    *, organization: Organization, email: str, role: Role, actor: Actor, address: str | None = None
) -> tuple[Invitation, str]:
    """A new invitation and its token, which is to be mailed now and kept nowhere. An open one for the same address ends
    with it."""
    email = email.strip().lower()
    validate_email(email)
    if organization.memberships.filter(user__email=email).exists():
        raise ValidationError({"email": f"{email} is a member already."})
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        open_ones = organization.invitations.filter(email=email, accepted_at=None, revoked_at=None)
        open_ones.update(revoked_at=timezone.now())
        invitation = Invitation.objects.create(
            organization=organization,
            email=email,
            role=Role(role),
            token_digest=_digest(token),
            invited_by=actor if isinstance(actor, User) else None,
            expires_at=timezone.now() + VALID,
        )
        _note("invitation.sent", invitation, actor, address)
    return invitation, token


def find(token: str) -> Invitation:
    """The open invitation behind a link, for the page that offers to accept it; NotOpen."""
    invitation = _open().filter(token_digest=_digest(token)).select_related("organization__brand").first()
    if invitation is None:
        raise NotOpen
    return invitation


def waiting_for(email: str, brand: Brand) -> QuerySet[Invitation]:
    """What is offered to the owner of this address at `brand`. Whoever asks knows that it is theirs."""
    return _open().filter(email=email.lower(), organization__brand=brand).select_related("organization", "invited_by")


def open_ones(organization: Organization) -> QuerySet[Invitation]:
    """Those that can still be accepted, newest first."""
    return _open().filter(organization=organization).select_related("invited_by").order_by("-created_at", "-pk")


def accept(*, invitation: Invitation, user: User, address: str | None = None) -> Membership:
    """`user`, whose address is confirmed, becomes a member in the role offered; NotOpen. Accepting twice is refused the
    second time."""
    with transaction.atomic():
        rows = _open().select_for_update(of=("self",)).select_related("organization__brand")
        found = rows.filter(pk=invitation.pk, email=user.email.lower()).first()
        if found is None:
            raise NotOpen
        invitation = found
        invitation.accepted_at = timezone.now()
        invitation.save(update_fields=["accepted_at"])
        _note("invitation.accepted", invitation, user, address)
        return organizations.add_member(
            organization=invitation.organization,
            user=user,
            role=Role(invitation.role),
            actor=user,
            address=address,
        )


def revoke(*, invitation: Invitation, actor: Actor, address: str | None = None) -> None:
    """Its link opens nothing any more. Revoking one that is not open changes nothing."""
    with transaction.atomic():
        row = _open().select_for_update().filter(pk=invitation.pk).first()
        if row is not None:
            row.revoked_at = timezone.now()
            row.save(update_fields=["revoked_at"])
            _note("invitation.revoked", row, actor, address)


def _open() -> QuerySet[Invitation]:
    return Invitation.objects.filter(accepted_at=None, revoked_at=None, expires_at__gt=timezone.now())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _note(action: str, invitation: Invitation, actor: Actor, address: str | None) -> None:
    audit.note(
        *(action, invitation.organization.public_id),
        actor=actor,
        organization=invitation.organization,
        after={"email": invitation.email, "role": invitation.role},
        address=address,
    )
