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
from keys.models import Organization
from portal import remedies, request_list
from portal.middleware import MemberRequest
from portal.pages import of_organization, page
from portal.views.usage import Choice
from proxy.models import RefusalRecord, TestCall
from proxy.sandbox import calls as test_calls


@require_safe
@of_organization()
def requests(request: MemberRequest, organization: Organization) -> HttpResponse:
    """The list, or with ?id= the one request."""
    asked = request.GET.get("id", "").strip()
    if asked:
        return _one(request, organization, asked)
    before = read_id(request.GET.get("before", ""))
    marked, show = _marked(request), _show(request)
    found = request_list.listed(organization.pk, show=show, before=before, marks=_marks(marked))
    chosen = {**({"show": show} if show else {}), **marked}
    context = {
        **_list(organization, found),
        "before": before,
        "older": urlencode({**chosen, "before": found.older}) if found.older else None,
        "newest": urlencode(chosen),
        "show": show,
        "marked": marked,
        "searched": calls.SEARCHED_MAX,
        "shows": _shows(show, marked),
        "is_live": not (before or marked),
        "tag": found.tag,
    }
    return page(request, organization, "requests", "portal/requests.html", context)


@require_safe
@never_cache
@of_organization()
def requests_live(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    """The newest of the list, which portal.js fetches again every two seconds; 304 while nothing changed. Searches by
    what calls said of themselves may read thousands of rows, so they are not asked for here."""
    show = _show(request)
    found = request_list.listed(organization.pk, show=show)
    unchanged = get_conditional_response(request, etag=found.tag)
    if unchanged is not None:
        return unchanged
    context = {**_list(organization, found), "organization": organization, "show": show}
    answer = render(request, "portal/_requests.html", context)
    answer["ETag"] = found.tag
    return answer


def _list(organization: Organization, found: request_list.Page) -> dict[str, Any]:
    rows = request_list.named(found.rows)
    return {"listed": rows, "places": found.places, "currency": organization.brand.currency}


def _show(request: MemberRequest) -> str:
    show = request.GET.get("show", "")
    return show if show in request_list.SHOWS else ""


def _shows(chosen: str, marked: dict[str, str]) -> list[Choice]:
    """A search by marks lists calls only: there is nothing to choose."""
    if marked:
        return []
    return [
        Choice(label, f"?show={show}" if show else "?", show == chosen) for show, label in request_list.SHOWS.items()
    ]


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
        found["remedy"] = remedies.remedy(refusal.reason)
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
