"""For staff: a request id of any customer → whose it was and what happened to it."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing import calls
from keys.models import Organization
from portal.middleware import PortalRequest
from portal.views.requests import explained, read_id


@require_safe
def support(request: PortalRequest) -> HttpResponse:
    asked = request.GET.get("id", "").strip()
    call_id = read_id(asked)
    call = calls.call_of(call_id) if call_id else None
    context: dict[str, object] = {"asked": asked, "is_id": call_id is not None}
    if call is not None:
        organization = Organization.objects.select_related("brand").get(pk=call.event.organization_id)
        context |= explained(call) | {"organization": organization, "currency": organization.brand.currency}
    return render(request, "portal/support.html", context, status=404 if asked and call is None else 200)
