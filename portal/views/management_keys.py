"""Management keys: programs that do by the management API what a member with the key's role does here."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import F
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from keys import access, issuing
from keys.models import Organization, Role
from portal import form_tokens
from portal.docs.pages import has_page
from portal.forms import ManagementKeyForm
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first

PER_PAGE = 50


@require_safe
@of_organization(role_at_least=Role.ADMIN)
def management_keys(request: MemberRequest, organization: Organization) -> HttpResponse:
    rows = organization.keys.exclude(manages_as="").select_related("use", "created_by", "service_account")
    rows = rows.order_by(F("revoked_at").desc(nulls_first=True), "-created_at", "-id")
    context = {
        "keys": Paginator(rows, PER_PAGE).get_page(request.GET.get("page")),
        "now": timezone.now(),
        "roles": _roles(request, organization),
        "has_docs": has_page(organization.brand, "management-api"),
    }
    return page(request, organization, "keys", "portal/management_keys.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.ADMIN)
@verified_first
def management_key_new(request: MemberRequest, organization: Organization) -> HttpResponse:
    form = ManagementKeyForm(request.POST or None, organization=organization, roles=_roles(request, organization))
    if request.method == "POST" and form.is_valid():
        if not form_tokens.spend(request):
            messages.warning(request, "That form was sent before, so no further key was made.")
            return redirect("management_keys", organization.public_id)
        try:
            issued = issuing.issue_for_management(
                organization=organization,
                actor=request.user,
                address=request.client_address,
                **form.values(timezone.now()),
            )
        except ValidationError as error:
            form.take(error)
        else:
            return _reveal(request, organization, issued)
    context = {"form": form, "form_token": form_tokens.mint(request)}
    return page(request, organization, "keys", "portal/management_key_new.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.ADMIN)
def management_key_revoke(request: MemberRequest, organization: Organization, key: str) -> HttpResponse:
    row = access.management_key_of(organization, key)
    access.require_assignment(access.role_in(request.user, organization), row.manages_as, None)
    if request.method != "POST":
        return page(request, organization, "keys", "portal/key_revoke.html", {"key": row})
    issuing.revoke(key=row, actor=request.user, address=request.client_address)
    messages.success(request, f"{row.name} is revoked. Requests with it are refused from now on.")
    return redirect("management_keys", organization.public_id)


@sensitive_variables("issued")
def _reveal(request: MemberRequest, organization: Organization, issued: issuing.Issued) -> HttpResponse:
    """The one page that ever shows the secret."""
    context = {"key": issued.key, "secret": issued.secret}
    return page(request, organization, "keys", "portal/management_key_secret.html", context, status=201)


def _roles(request: MemberRequest, organization: Organization) -> list[Role]:
    """Those the reader may give away."""
    own = access.role_in(request.user, organization)
    return [role for role in Role if access.may_assign(own, None, role)]
