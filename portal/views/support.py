"""For staff: a request id of a customer of one's brands → whose it was and what happened to it."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing import calls
from keys import staff
from keys.models import Organization
from portal.middleware import PortalRequest
from portal.views.requests import explained, read_id
from proxy.models import RefusalRecord
from proxy.sandbox import calls as test_calls


@require_safe
def support(request: PortalRequest) -> HttpResponse:
    asked = request.GET.get("id", "").strip()
    call_id = read_id(asked)
    context: dict[str, object] = {"asked": asked, "is_id": call_id is not None, "for_staff": True}
    if call_id is None:
        return render(request, "portal/support.html", context, status=404 if asked else 200)
    call, refusal = calls.call_of(call_id), RefusalRecord.objects.filter(call_id=call_id).first()
    test = None if call else test_calls.of_id(call_id)
    told = call.event if call else test or refusal
    if not staff.sees(request.user, told.brand_id if told else None):
        call = refusal = test = told = None  # another brand's customer is nobody's here
    whose = told.organization_id if told else None
    organization = Organization.objects.select_related("brand").filter(pk=whose or 0).first()
    context |= explained(call, refusal, test) | {"organization": organization}
    if organization is not None:
        context["currency"] = organization.brand.currency
    return render(request, "portal/support.html", context, status=200 if told else 404)
