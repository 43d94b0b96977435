"""What somebody who was invited sees: the offer behind a link, and those that wait for their address."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from keys import invitations
from keys.models import Invitation
from portal import accounts
from portal.middleware import MemberRequest, PortalRequest
from portal.pages import verified_first


@require_safe
def invitation(request: PortalRequest, token: str) -> HttpResponse:
    """A link that is open, for anybody; who it is for says the page. Others get 404, whatever is wrong with theirs."""
    try:
        found = invitations.find(token)
    except invitations.NotOpen:
        return render(request, "portal/invitation_over.html", status=404)
    if found.organization.brand_id != request.brand.pk:
        raise Http404
    request.session[accounts.CAME_WITH] = token
    mine = request.user.is_authenticated and request.user.email == found.email
    return render(request, "portal/invitation.html", {"invitation": found, "mine": mine})


@require_POST
@login_required
@verified_first
def invitation_accept(request: MemberRequest) -> HttpResponse:
    try:
        membership = invitations.accept(invitation=_mine(request), user=request.user, address=request.client_address)
    except invitations.NotOpen:
        messages.error(request, "That invitation was accepted, taken back, or is too old. Ask for a new one.")
        return redirect("home")
    request.session.pop(accounts.CAME_WITH, None)
    messages.success(request, f"Welcome to {membership.organization.name}.")
    return redirect("overview", membership.organization.public_id)


@require_POST
@login_required
@verified_first
def invitation_decline(request: MemberRequest) -> HttpResponse:
    row = _mine(request)
    invitations.revoke(invitation=row, actor=request.user, address=request.client_address)
    messages.success(request, f"You declined to join {row.organization.name}.")
    return redirect("home")


def _mine(request: MemberRequest) -> Invitation:
    """The open invitation to the organization that the form names, for the reader's own address."""
    waiting = invitations.waiting_for(request.user.email, request.brand)
    row = waiting.filter(organization__public_id=request.POST.get("organization", "")).first()
    if row is None:
        raise Http404
    return row
