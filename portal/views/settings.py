"""An account's own name, and what programs and support know it by."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from keys import access, organizations
from keys.models import Organization, Role
from portal.forms import AccountForm
from portal.middleware import MemberRequest
from portal.pages import of_organization, page


@of_organization()
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: MemberRequest, organization: Organization) -> HttpResponse:
    may_change = access.may(access.role_in(request.user, organization), Role.ADMIN)
    form = AccountForm(request.POST or None, initial={"name": organization.name})
    if request.method == "POST":
        if not may_change:
            raise PermissionDenied("Only an owner or an admin changes the account.")
        if form.is_valid() and _changed(request, organization, form):
            return redirect("settings", organization.public_id)
    context = {"form": form, "may_change": may_change}
    return page(request, organization, "settings", "portal/settings.html", context, status=400 if form.errors else 200)


def _changed(request: MemberRequest, organization: Organization, form: AccountForm) -> bool:
    try:
        organizations.change(
            organization=organization, actor=request.user, address=request.client_address, **form.cleaned_data
        )
    except ValidationError as error:
        form.add_error("name", error.messages[0])
        return False
    messages.success(request, "Saved.")
    return True
