"""Members and invitations. Members are named by e-mail address, as on the dashboard."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.http import Http404
from rest_framework import serializers

from keys import access, invitations, organizations
from keys.models import Invitation, Membership, Role
from portal import invitation_mail
from portal.manage_api.fields import Choice, EmptyWish, Shape, Text, Wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first
from portal.manage_api.problems import Problem

TAG = "Members"
LAST_OWNER = "An account keeps at least one owner. Make somebody else an owner first."


class MemberShape(Shape):
    email = serializers.CharField()
    name = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(Role.choices)
    joined_at = utc()
    EXAMPLE = {"email": "ada@example.com", "name": "Ada", "role": "developer", "joined_at": "2026-11-21T09:00:00Z"}


class RoleWish(Wish):
    role = Choice(Role.choices)
    EXAMPLE = {"role": "developer"}


class InvitationShape(Shape):
    email = serializers.CharField()
    role = serializers.ChoiceField(Role.choices)
    invited_at = utc()
    expires_at = utc()
    EXAMPLE = {
        "email": "ada@example.com",
        "role": "developer",
        "invited_at": "2026-11-21T09:00:00Z",
        "expires_at": "2026-12-05T09:00:00Z",
    }


class InvitationWish(Wish):
    email = Text(max_length=254)
    role = Choice(Role.choices)
    EXAMPLE = {"email": "ada@example.com", "role": "developer"}


def member(row: Membership) -> dict[str, Any]:
    return {"email": row.user.email, "name": row.user.name, "role": row.role, "joined_at": row.created_at}


def invitation(row: Invitation) -> dict[str, Any]:
    return {"email": row.email, "role": row.role, "invited_at": row.created_at, "expires_at": row.expires_at}


class Members(Endpoint):
    @operation("List members", name="list_members", tag=TAG, role=Role.VIEWER, query=Paged, gives=MemberShape)
    def get(self, call: Call) -> Page[Any]:
        rows = call.organization.memberships.select_related("user")
        page = newest_first(rows, Place.of(call.query, f"members {call.organization.pk}"))
        return Page([member(row) for row in page.rows], page.next_cursor)


class Member(Endpoint):
    @operation("Read a member", name="read_member", tag=TAG, role=Role.VIEWER, gives=MemberShape)
    def get(self, call: Call, member: str) -> dict[str, Any]:
        return _member_of(_membership(call, member))

    @operation(
        "Change a member's role", name="change_member", tag=TAG, role=Role.ADMIN, takes=RoleWish, gives=MemberShape
    )
    def patch(self, call: Call, member: str) -> dict[str, Any]:
        """Only owners make owners, and take that away."""
        row = _membership(call, member)
        access.require_assignment(call.key.manages_as, row.role, call.data["role"])
        try:
            organizations.set_role(membership=row, role=Role(call.data["role"]), **call.by)
        except organizations.LastOwner:
            raise Problem(409, "last_owner", LAST_OWNER) from None
        return _member_of(row)

    @operation("Remove a member", name="remove_member", tag=TAG, role=Role.ADMIN)
    def delete(self, call: Call, member: str) -> None:
        """The keys that the person made stay: they are the account's."""
        row = _membership(call, member)
        access.require_assignment(call.key.manages_as, row.role, None)
        try:
            organizations.remove_member(membership=row, **call.by)
        except organizations.LastOwner:
            raise Problem(409, "last_owner", LAST_OWNER) from None


class Invitations(Endpoint):
    @operation(
        "List open invitations", name="list_invitations", tag=TAG, role=Role.ADMIN, query=Paged, gives=InvitationShape
    )
    def get(self, call: Call) -> Page[Any]:
        rows = invitations.open_ones(call.organization)
        page = newest_first(rows, Place.of(call.query, f"invitations {call.organization.pk}"))
        return Page([invitation(row) for row in page.rows], page.next_cursor)

    @operation(
        "Invite somebody",
        name="invite",
        tag=TAG,
        role=Role.ADMIN,
        takes=InvitationWish,
        gives=InvitationShape,
        status=201,
        counted="invitations",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """A mail goes to them with a link that works for two weeks. An open invitation for the same address ends."""
        access.require_assignment(call.key.manages_as, None, call.data["role"])
        return _invited(call, call.data["email"], Role(call.data["role"]))


class OneInvitation(Endpoint):
    @operation("Revoke an invitation", name="revoke_invitation", tag=TAG, role=Role.ADMIN)
    def delete(self, call: Call, email: str) -> None:
        invitations.revoke(invitation=_open(call, email), **call.by)


class InvitationAgain(Endpoint):
    @operation(
        "Send an invitation again",
        name="resend_invitation",
        tag=TAG,
        role=Role.ADMIN,
        takes=EmptyWish,
        gives=InvitationShape,
        counted="invitations",
    )
    def post(self, call: Call, email: str) -> dict[str, Any]:
        """With a new link; the one sent before opens nothing any more."""
        row = _open(call, email)
        return _invited(call, row.email, Role(row.role))


def _member_of(row: Membership) -> dict[str, Any]:
    return member(row)


def _membership(call: Call, email: str) -> Membership:
    rows = call.organization.memberships.select_related("user")
    row = None if "\0" in email else rows.filter(user__email=email.lower()).first()
    if row is None:
        raise Http404
    return row


def _open(call: Call, email: str) -> Invitation:
    rows = invitations.open_ones(call.organization)
    row = None if "\0" in email else rows.filter(email=email.lower()).first()
    if row is None:
        raise Http404
    access.require_assignment(call.key.manages_as, None, row.role)
    return row


def _invited(call: Call, email: str, role: Role) -> dict[str, Any]:
    try:
        row, token = invitations.invite(organization=call.organization, email=email, role=role, **call.by)
    except ValidationError as error:
        raise ValidationError({"email": error.messages}) from None
    try:
        invitation_mail.send(call.http, row, token)
    except invitation_mail.NotSent as error:
        raise Problem(503, "mail_unavailable", str(error), headers={"Retry-After": "60"}) from None
    return invitation(row)
