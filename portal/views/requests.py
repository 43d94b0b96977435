"""What happened to a request: paste its id. Served calls are explained to the last pico, refused ones by reason."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.views.decorators.http import require_safe

from billing import calls
from billing.models import Model
from keys.models import ApiKey, Organization
from portal import explaining, remedies
from portal.middleware import MemberRequest
from portal.pages import of_organization, page
from portal.views.usage import Choice
from proxy.models import RefusalRecord

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
    if request.GET.get("show") == "refused":
        return _refused(request, organization)
    before = read_id(request.GET.get("before", ""))
    marked = _marked(request)
    marks = calls.Marks.read(marked.get("user"), [marked["metadata"]] if "metadata" in marked else [])
    down_to = calls.reach(organization.pk, before=before) if marks else None
    found = calls.latest(organization.pk, before=before, marks=marks, down_to=down_to, limit=PER_PAGE + 1)
    older = found[PER_PAGE - 1].event.call_id if len(found) > PER_PAGE else down_to
    context = {
        "listed": _named(found[:PER_PAGE]),
        "places": _exact_places(found[:PER_PAGE]),
        "before": before,
        "older": urlencode({**marked, "before": older}) if older else None,
        "newest": urlencode(marked),
        "marked": marked,
        "searched": calls.SEARCHED_MAX,
        "shows": _shows("served"),
    }
    return page(request, organization, "requests", "portal/requests.html", context)


def _marked(request: MemberRequest) -> dict[str, str]:
    """The fields of the filter that say something."""
    texts = {name: request.GET.get(name, "").replace("\0", "") for name in ("user", "metadata")}
    return {name: text for name, text in texts.items() if text}


def _one(request: MemberRequest, organization: Organization, asked: str) -> HttpResponse:
    call_id = read_id(asked)
    context: dict[str, object] = {"asked": asked, "is_id": call_id is not None}
    if call_id is not None:
        call = calls.call_of(call_id, organization_id=organization.pk)
        refusal = RefusalRecord.objects.filter(call_id=call_id, organization_id=organization.pk).first()
        context |= explained(call, refusal)
    status = 200 if context.get("call") or context.get("refusal") else 404
    return page(request, organization, "requests", "portal/request.html", context, status=status)


def _refused(request: MemberRequest, organization: Organization) -> HttpResponse:
    rows = RefusalRecord.objects.filter(organization_id=organization.pk).order_by("-at")[:PER_PAGE]
    context = {"refusals": rows, "shows": _shows("refused")}
    return page(request, organization, "requests", "portal/refused.html", context)


def _shows(chosen: str) -> list[Choice]:
    return [
        Choice("Served", "?", chosen == "served"),
        Choice("Refused", "?show=refused", chosen == "refused"),
    ]


def explained(call: calls.Call | None, refusal: RefusalRecord | None) -> dict[str, object]:
    """Template context of portal/_call.html and portal/_refusal.html. A call whose engine failed has both."""
    found: dict[str, object] = {"call": call, "refusal": refusal}
    if refusal is not None:
        found["remedy"] = remedies.remedy(refusal.reason)
    if call is None:
        return found
    (listed,) = _named([call])
    return found | {
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
