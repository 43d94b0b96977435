"""The playground: a chat in the browser with any model the account may use, through the gateway like every call."""

from __future__ import annotations

from django.http import HttpResponse, JsonResponse
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from billing import calls, explaining, money
from keys.models import Organization, Role
from portal import firstcall, playground
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.views.requests import read_id


@require_safe
@of_organization(role_at_least=Role.DEVELOPER)
def playground_page(request: MemberRequest, organization: Organization) -> HttpResponse:
    brand, models = organization.brand, playground.models_of(organization)
    chosen = firstcall.model_for(brand, models)
    base_url = firstcall.base_url(request)
    context = {
        "models": models,
        "chosen": chosen,
        "base_url": base_url,
        "scheme": firstcall.scheme_of(brand.schemes),
        "placeholder": firstcall.PLACEHOLDER,
        "symbol": money.SYMBOLS.get(brand.currency) or f"{brand.currency} ",
        "minutes": int(playground.LIFETIME.total_seconds()) // 60,
        "samples": firstcall.samples(base_url=base_url, schemes=brand.schemes, model=chosen),
    }
    return page(request, organization, "playground", "portal/playground.html", context)


@of_organization(role_at_least=Role.DEVELOPER)
@require_POST
@verified_first
@sensitive_variables("issued")
def playground_key(request: MemberRequest, organization: Organization) -> HttpResponse:
    """For the page's script, which keeps it in memory: {"secret", "seconds"}."""
    issued = playground.open_key(organization, request.user, address=request.client_address)
    if not issued.published:
        return JsonResponse({"problem": "The gateway is unreachable just now. Try again in a moment."}, status=503)
    return JsonResponse({"secret": issued.secret, "seconds": int(playground.LIFETIME.total_seconds())})


@of_organization(role_at_least=Role.DEVELOPER)
@require_POST
def playground_close(request: MemberRequest, organization: Organization) -> HttpResponse:
    playground.close(organization, request.user, address=request.client_address)
    return HttpResponse(status=204)


@require_safe
@of_organization(role_at_least=Role.DEVELOPER)
def playground_call(request: MemberRequest, organization: Organization) -> HttpResponse:
    """What a call came to, for answers that were stopped before they said so. `booked` False: not yet, or never."""
    call_id = read_id(request.GET.get("id", ""))
    call = calls.call_of(call_id, organization_id=organization.pk) if call_id else None
    if call is None:
        return JsonResponse({"booked": False})
    read = ("uncached_input_tokens", "cache_read_tokens", "cache_write_tokens")
    return JsonResponse(
        {
            "booked": True,
            "input_tokens": sum(call.total(name) or 0 for name in read),
            "output_tokens": call.total("output_tokens") or 0,
            "cost": money.display(call.cost_nanos, organization.brand.currency),
            "ended": explaining.END_REASONS.get(call.event.end_reason, call.event.end_reason),
        }
    )
