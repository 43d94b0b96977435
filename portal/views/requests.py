"""What happened to a request: paste its id. Served calls are explained to the last pico, refused ones by reason."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from billing import calls
from billing.models import Model
from keys.models import ApiKey, Organization
from portal import explaining
from portal.middleware import MemberRequest
from portal.pages import of_organization, page

PER_PAGE = 30


@dataclass(frozen=True, slots=True)
class Listed:
    call: calls.Call
    model: str
    key: str


@require_safe
@of_organization()
def requests(request: MemberRequest, organization: Organization) -> HttpResponse:
    """The list, or with ?id= the one request."""
    asked = request.GET.get("id", "").strip()
    if asked:
        return _one(request, organization, asked)
    before = read_id(request.GET.get("before", ""))
    found = calls.latest(organization.pk, before=before, limit=PER_PAGE + 1)
    context = {
        "listed": _named(found[:PER_PAGE]),
        "places": _exact_places(found[:PER_PAGE]),
        "before": before,
        "older": found[PER_PAGE - 1].event.call_id if len(found) > PER_PAGE else None,
    }
    return page(request, organization, "requests", "portal/requests.html", context)


def _one(request: MemberRequest, organization: Organization, asked: str) -> HttpResponse:
    call_id = read_id(asked)
    context: dict[str, object] = {"asked": asked, "is_id": call_id is not None}
    call = calls.call_of(call_id, organization_id=organization.pk) if call_id else None
    if call is not None:
        context |= explained(call)
    return page(request, organization, "requests", "portal/request.html", context, status=200 if call else 404)


def explained(call: calls.Call) -> dict[str, object]:
    """Template context of portal/_call.html."""
    (listed,) = _named([call])
    return {
        "call": call,
        "model": listed.model,
        "key": listed.key,
        "bill": explaining.bill(call),
        "end_reason": explaining.END_REASONS.get(call.event.end_reason, call.event.end_reason),
        "usage_source": explaining.USAGE_SOURCES.get(call.usage_source, call.usage_source),
        "flags": explaining.flags_in_words(call.event.flags),
    }


def _exact_places(found: list[calls.Call]) -> int:
    """Decimals that show every cost of the list exactly."""
    costs = [call.cost_nanos for call in found]
    return next((places for places in range(2, 9) if not any(cost % 10 ** (9 - places) for cost in costs)), 9)


def _named(found: list[calls.Call]) -> list[Listed]:
    models = dict(Model.objects.filter(pk__in={c.event.model_id for c in found}).values_list("pk", "slug"))
    hints = dict(ApiKey.objects.filter(pk__in={c.event.key_id for c in found}).values_list("pk", "hint"))
    return [Listed(c, models.get(c.event.model_id, ""), hints.get(c.event.key_id, "")) for c in found]


def read_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
