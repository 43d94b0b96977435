"""Members of an account: who they are, what they may do, invitations on their way, and how an owner hands over."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Count, F, Q, QuerySet
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from keys import access, invitations, organizations, service_accounts
from keys.models import Invitation, Membership, Organization, Role, ServiceAccount
from portal import invitation_mail
from portal.forms import InvitationForm, ServiceAccountForm
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.views.keys import UNREACHABLE

ROLES = {
    Role.OWNER: "everything, and who else is an owner",
    Role.ADMIN: "everything but owners",
    Role.DEVELOPER: "creates and revokes keys, sees usage",
    Role.BILLING: "looks after the balance, sees usage",
    Role.VIEWER: "sees, and changes nothing",
}


@of_organization()
@require_safe
def members(request: MemberRequest, organization: Organization) -> HttpResponse:
    return _members(request, organization)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
@verified_first
def member_invite(request: MemberRequest, organization: Organization) -> HttpResponse:
    role = request.POST.get("role", "")
    if role in Role.values:
        _require_assignment(request, organization, None, role)
    form = _invitation_form(request, organization, request.POST)
    if form.is_valid():
        email = form.cleaned_data["email"]
        try:
            told = f"{email} is invited; the link in the mail works for two weeks."
            _send(request, organization, email, Role(form.cleaned_data["role"]), told)
        except ValidationError as error:
            form.add_error("email", error.messages[0])
        else:
            return redirect("members", organization.public_id)
    return _members(request, organization, form)


def _members(
    request: MemberRequest,
    organization: Organization,
    form: InvitationForm | None = None,
    program: ServiceAccountForm | None = None,
) -> HttpResponse:
    own = access.role_in(request.user, organization)
    may_manage = access.may(own, Role.ADMIN)
    rows = organization.memberships.select_related("user").order_by("created_at", "pk")
    context = {
        "members": [
            {"row": row, "roles": [role for role in Role if access.may_assign(own, row.role, role)]} for row in rows
        ],
        "own": own,
        "assignable": [role for role in Role if access.may_assign(own, role, None)],
        "may_manage": may_manage,
        "waiting": invitations.open_ones(organization) if may_manage else [],
        "form": form or _invitation_form(request, organization),
        "programs": [{"row": row, "roles": _roles_for(own, row)} for row in _programs(organization)],
        "program": program or _program_form(request, organization),
        "roles": ROLES,
    }
    status = 400 if form or program else 200
    return page(request, organization, "members", "portal/members.html", context, status=status)


def _invitation_form(
    request: MemberRequest, organization: Organization, data: QueryDict | None = None
) -> InvitationForm:
    return InvitationForm(data, roles=[role for role in Role if _may_assign(request, organization, None, role)])


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def invitation_resend(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Sends a new link; the one sent before opens nothing any more."""
    row = _invitation(request, organization)
    told = f"{row.email} got a new link; the one sent before works no longer."
    _send(request, organization, row.email, Role(row.role), told)
    return redirect("members", organization.public_id)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def invitation_revoke(request: MemberRequest, organization: Organization) -> HttpResponse:
    row = _invitation(request, organization)
    invitations.revoke(invitation=row, actor=request.user, address=request.client_address)
    messages.success(request, f"{row.email} is invited no longer.")
    return redirect("members", organization.public_id)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def member_role(request: MemberRequest, organization: Organization) -> HttpResponse:
    row, role = _member(request, organization), request.POST.get("role", "")
    if role not in Role.values:
        raise Http404
    _require_assignment(request, organization, row.role, role)
    try:
        organizations.set_role(membership=row, role=Role(role), actor=request.user, address=request.client_address)
    except organizations.LastOwner:
        messages.error(request, "An account keeps at least one owner. Make somebody else an owner first.")
    else:
        messages.success(request, f"{row.user.email} is {Role(role).label.lower()} now.")
    return redirect("members", organization.public_id)


@of_organization()
@require_POST
def member_remove(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Asks once more, then removes; everybody may remove themselves."""
    row = _member(request, organization)
    leaves = row.user_id == request.user.pk
    if not leaves:
        _require_assignment(request, organization, row.role, None)
    if "sure" not in request.POST:
        return page(request, organization, "members", "portal/member_remove.html", {"member": row, "leaves": leaves})
    try:
        organizations.remove_member(membership=row, actor=request.user, address=request.client_address)
    except organizations.LastOwner:
        messages.error(request, "An account keeps at least one owner. Make somebody else an owner first.")
        return redirect("members", organization.public_id)
    messages.success(
        request,
        f"You have left {organization.name}." if leaves else f"{row.user.email} is no member any more. Keys stay.",
    )
    return redirect("home") if leaves else redirect("members", organization.public_id)


@of_organization(role_at_least=Role.OWNER)
@require_POST
def member_hand_over(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Asks once more, then makes the member owner and the reader an admin."""
    row = _member(request, organization)
    if "sure" not in request.POST:
        return page(request, organization, "members", "portal/member_hand_over.html", {"member": row})
    organizations.hand_over(organization=organization, owner=request.user, to=row.user, address=request.client_address)
    messages.success(request, f"{row.user.email} owns {organization.name} now, and you are an admin of it.")
    return redirect("members", organization.public_id)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def service_account_new(request: MemberRequest, organization: Organization) -> HttpResponse:
    role = request.POST.get("role", "")
    if role in Role.values:
        _require_assignment(request, organization, None, role)
    form = _program_form(request, organization, request.POST)
    if form.is_valid():
        name = form.cleaned_data["name"]
        try:
            service_accounts.create(
                organization=organization,
                name=name,
                role=Role(form.cleaned_data["role"]),
                actor=request.user,
                address=request.client_address,
            )
        except ValidationError as error:
            form.add_error("name", error.messages[0])
        else:
            messages.success(request, f"{name} is a service account now. New keys can belong to it.")
            return redirect("members", organization.public_id)
    return _members(request, organization, program=form)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def service_account_role(request: MemberRequest, organization: Organization) -> HttpResponse:
    row = access.service_account_of(organization, request.POST.get("service_account", ""))
    role = request.POST.get("role", "")
    if role not in Role.values:
        raise Http404
    _require_assignment(request, organization, row.role, role)
    try:
        service_accounts.set_role(account=row, role=Role(role), actor=request.user, address=request.client_address)
    except ValidationError as error:
        messages.error(request, error.messages[0])
    else:
        messages.success(request, f"{row.name} is {Role(role).label.lower()} now.")
    return redirect("members", organization.public_id)


@of_organization(role_at_least=Role.ADMIN)
@require_POST
def service_account_disable(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Asks once more, then ends it and its keys."""
    row = access.service_account_of(organization, request.POST.get("service_account", ""))
    _require_assignment(request, organization, row.role, None)
    if "sure" not in request.POST:
        context = {"row": row, "keys": row.keys.filter(revoked_at=None).order_by("name", "pk")}
        return page(request, organization, "members", "portal/service_account_disable.html", context)
    told = service_accounts.disable(account=row, actor=request.user, address=request.client_address)
    if told:
        messages.success(request, f"{row.name} is disabled. Requests with its keys are refused from now on.")
    else:
        messages.warning(request, f"{row.name} is disabled. {UNREACHABLE}")
    return redirect("members", organization.public_id)


def _programs(organization: Organization) -> QuerySet[ServiceAccount]:
    """Those that work first."""
    live = Count("keys", filter=Q(keys__revoked_at=None))
    rows = organization.service_accounts.select_related("created_by").annotate(live_keys=live)
    return rows.order_by(F("disabled_at").desc(nulls_first=True), "name", "pk")


def _roles_for(own: Role | None, row: ServiceAccount) -> list[Role]:
    """Which a reader of the role `own` may give it; none where they may not touch it."""
    return [role for role in Role if row.disabled_at is None and access.may_assign(own, row.role, role)]


def _program_form(
    request: MemberRequest, organization: Organization, data: QueryDict | None = None
) -> ServiceAccountForm:
    roles = [role for role in Role if _may_assign(request, organization, None, role)]
    return ServiceAccountForm(data, roles=roles, auto_id="program_%s")


def _send(request: MemberRequest, organization: Organization, email: str, role: Role, told: str) -> None:
    """And says so, as `told`."""
    invitation, token = invitations.invite(
        organization=organization, email=email, role=role, actor=request.user, address=request.client_address
    )
    try:
        invitation_mail.send(request, invitation, token)
    except invitation_mail.NotSent as error:
        messages.error(request, str(error))
    else:
        messages.success(request, told)


def _member(request: MemberRequest, organization: Organization) -> Membership:
    row = organization.memberships.select_related("user").filter(user__email=request.POST.get("member", "")).first()
    if row is None:
        raise Http404
    return row


def _invitation(request: MemberRequest, organization: Organization) -> Invitation:
    row = invitations.open_ones(organization).filter(email=request.POST.get("email", "")).first()
    if row is None:
        raise Http404
    _require_assignment(request, organization, None, row.role)
    return row


def _require_assignment(
    request: MemberRequest, organization: Organization, before: str | None, after: str | None
) -> None:
    access.require_assignment(access.role_in(request.user, organization), before, after)


def _may_assign(request: MemberRequest, organization: Organization, before: str | None, after: str | None) -> bool:
    return access.may_assign(access.role_in(request.user, organization), before, after)
