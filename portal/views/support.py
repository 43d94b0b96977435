"""For staff: a request id → whose it was, what they saw and why, and how their limits stood. Within one's brands."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from billing import calls, limits_then
from billing.limits_then import Then
from billing.models import Model
from keys import staff
from keys.models import Brand, Organization
from portal import answered
from portal.answered import Answered
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
        context |= {"currency": organization.brand.currency, "zone": organization.brand.timezone}
        context["then"] = _then(organization, call, refusal)
    if told is not None:
        brand = organization.brand if organization else Brand.objects.filter(pk=told.brand_id or 0).first()
        context["answered"] = _answered(call, refusal, brand)
    return render(request, "portal/support.html", context, status=200 if told else 404)


def _answered(call: calls.Call | None, refusal: RefusalRecord | None, brand: Brand | None) -> Answered | None:
    if refusal is not None:
        return answered.of_refusal(refusal, brand)
    return answered.of_call(call) if call else None


def _then(organization: Organization, call: calls.Call | None, refusal: RefusalRecord | None) -> Then | None:
    """When it was judged: as it began. Test calls meet no limits."""
    if call is not None:
        event = call.event
        return limits_then.of(
            organization,
            event.started_at,
            key_id=event.key_id,
            model_id=event.model_id,
            tier_id=event.tier_id or 0,
        )
    if refusal is None:
        return None
    model = Model.objects.filter(brand=organization.brand, slug=refusal.model).values_list("pk", flat=True).first()
    return limits_then.of(organization, refusal.at, key_id=refusal.key_id, model_id=model)
