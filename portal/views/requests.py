"""What happened to the account's requests: all of them as they come, or one by its id. Served calls are explained to
the last pico, refused ones by reason."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import get_conditional_response
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing import calls, explaining
from billing.models import Model
from keys.models import ApiKey, Organization
from portal import remedies, request_filter, request_list
from portal.middleware import MemberRequest
from portal.pages import of_organization, page
from portal.views.usage import Choice
from proxy.models import RefusalRecord, TestCall
from proxy.sandbox import calls as test_calls

LIVE_MS, LIVE_SPARSE_MS = 2_000, 10_000
"""How often the newest are fetched again. A search may read ten thousand rows of an index for that."""
OFFERED_MAX = 200
"""Keys in the form; others are reached from their own page."""


@require_safe
@of_organization()
def requests(request: MemberRequest, organization: Organization) -> HttpResponse:
    """The list, or with ?id= the one request."""
    asked = request.GET.get("id", "").strip()
    if asked:
        return _one(request, organization, asked)
    before = read_id(request.GET.get("before", ""))
    marked = _marked(request)
    only = request_filter.read(organization, request.GET.dict(), _marks(marked))
    show = _show(request, only)
    found = request_list.listed(organization.pk, show=show, before=before, only=only)
    chosen = {**({"show": show} if show else {}), **only.words(), **marked}
    context = {
        **_list(organization, found),
        "before": before,
        "older": urlencode({**chosen, "before": found.older}) if found.older else None,
        "newest": urlencode(chosen),
        "show": show,
        "marked": marked,
        "shows": _shows(show, only, marked),
        "only": only,
        "is_filtered": bool(only.words() or marked),
        "live": None if before or marked or only.until else urlencode(chosen),
        "live_ms": LIVE_SPARSE_MS if only.is_sparse else LIVE_MS,
        "tag": found.tag,
        **_offered(organization, only),
    }
    return page(request, organization, "requests", "portal/requests.html", context)


@require_safe
@never_cache
@of_organization()
def requests_live(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    """The newest of the list, which portal.js fetches again every few seconds; 304 while nothing changed. What calls
    said of themselves is not asked for here: reading it costs most."""
    only = request_filter.read(organization, request.GET.dict())
    show = _show(request, only)
    found = request_list.listed(organization.pk, show=show, only=only)
    unchanged = get_conditional_response(request, etag=found.tag)
    if unchanged is not None:
        return unchanged
    is_filtered = bool(only.words())
    context = {**_list(organization, found), "organization": organization, "show": show, "is_filtered": is_filtered}
    context["older"] = found.older
    answer = render(request, "portal/_requests.html", context)
    answer["ETag"] = found.tag
    return answer


def _list(organization: Organization, found: request_list.Page) -> dict[str, Any]:
    rows = request_list.named(found.rows)
    return {
        "listed": rows,
        "places": found.places,
        "currency": organization.brand.currency,
        "searched": calls.SEARCHED_MAX,
        "per_page": request_list.PER_PAGE,
        # A full page that is followed by others ended at its length, not at the bound of its search.
        "searched_all": not found.older or len(rows) >= request_list.PER_PAGE,
    }


def _show(request: MemberRequest, only: request_filter.Filter) -> str:
    """What a test key did stands in the list of tests and nowhere else."""
    if only.key and only.key.mode == ApiKey.Mode.TEST:
        return "test"
    show = request.GET.get("show", "")
    return show if show in request_list.SHOWS else ""


def _shows(chosen: str, only: request_filter.Filter, marked: dict[str, str]) -> list[Choice]:
    """A search by marks lists calls only: there is nothing to choose. What was refused never ended."""
    if marked:
        return []
    words = only.words()
    return [
        Choice(
            label,
            request_filter.query(show=show, **{**words, "end": words.get("end") if show != "refused" else ""}),
            show == chosen,
        )
        for show, label in request_list.SHOWS.items()
    ]


def _offered(organization: Organization, only: request_filter.Filter) -> dict[str, list[Choice]]:
    """What the form lets choose: the account's keys by name, the brand's models, and ways to end."""
    keys = list(
        organization.keys.filter(manages_as="", purpose=ApiKey.Purpose.PROGRAM).order_by("name", "pk")[:OFFERED_MAX]
    )
    slugs = list(
        Model.objects.filter(brand=organization.brand).order_by("position", "slug").values_list("slug", flat=True)
    )
    if only.key and only.key not in keys:
        keys.append(only.key)
    return {
        "keys": [Choice(f"{key.name} {key.hint}", key.public_id, key == only.key) for key in keys],
        "models": [Choice(slug, slug, bool(only.model and slug == only.model.slug)) for slug in slugs],
        "ends": [Choice(end.replace("_", " "), end, end == only.end) for end in request_filter.ENDS],
    }


def _marked(request: MemberRequest) -> dict[str, str]:
    """The fields of the filter that say something."""
    texts = {name: request.GET.get(name, "").replace("\0", "") for name in ("user", "metadata")}
    return {name: text for name, text in texts.items() if text}


def _marks(marked: dict[str, str]) -> calls.Marks:
    return calls.Marks.read(marked.get("user"), [marked["metadata"]] if "metadata" in marked else [])


def _one(request: MemberRequest, organization: Organization, asked: str) -> HttpResponse:
    call_id = read_id(asked)
    context: dict[str, object] = {"asked": asked, "is_id": call_id is not None}
    if call_id is not None:
        call = calls.call_of(call_id, organization_id=organization.pk)
        refusal = RefusalRecord.objects.filter(call_id=call_id, organization_id=organization.pk).first()
        test = None if call else test_calls.of_id(call_id, organization_id=organization.pk)
        context |= explained(call, refusal, test)
    status = 200 if any(context.get(name) for name in ("call", "refusal", "test")) else 404
    return page(request, organization, "requests", "portal/request.html", context, status=status)


def explained(
    call: calls.Call | None, refusal: RefusalRecord | None, test: TestCall | None = None
) -> dict[str, object]:
    """Template context of portal/_call.html or portal/_test_call.html, and portal/_refusal.html. A call whose engine
    failed has both."""
    found: dict[str, object] = {"call": call, "refusal": refusal, "test": test}
    if refusal is not None:
        found |= {"remedy": remedies.remedy(refusal.reason), "remedy_links": remedies.links(refusal.reason)}
    if call is None:
        return found
    listed = request_list.of_call(call)
    return found | {
        "model": listed.model,
        "key": listed.key,
        "bill": explaining.bill(call),
        "end_reason": explaining.ended(call),
        "usage_source": explaining.counted(call),
        "flags": explaining.flags_in_words(call.event.flags),
    }


def read_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
