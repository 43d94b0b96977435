"""A brand's documentation: public, the same for everybody but for the address they read it on."""

from __future__ import annotations

import re
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from portal import firstcall
from portal.canary import checks
from portal.docs import sources
from portal.docs.pages import Page, pages_of
from portal.docs.surface import Surface
from portal.middleware import PortalRequest
from proxy import answers, idempotency

WAITS = {
    "head_seconds": round(answers.COMMIT_SECONDS),
    "silence_seconds": round(answers.KEEP_ALIVE_SECONDS),
    "idempotency_hours": idempotency.KEPT_SECONDS // 3600,
    "canary_minutes": round(checks.EVERY.total_seconds()) // 60,
    "canary_days": checks.KEPT.days,
}
"""How long things take that no brand changes."""
_SECTION = re.compile(r'<h2 id="([^"]+)">(.*?)<a class="anchor"', re.DOTALL)


@require_safe
def docs(request: PortalRequest) -> HttpResponse:
    """To the first page of the brand's menu."""
    pages = pages_of(request.brand)
    if not pages:
        raise Http404
    return redirect("docs_page", pages[0].name)


@require_safe
def docs_page(request: PortalRequest, name: str) -> HttpResponse:
    pages = pages_of(request.brand)
    place = next((number for number, page in enumerate(pages) if page.name == name), None)
    if place is None:
        raise Http404
    body = written(request, pages[place])
    context = {
        "pages": pages,
        "page": pages[place],
        "number": place + 1,
        "before": pages[place - 1] if place else None,
        "after": pages[place + 1] if place + 1 < len(pages) else None,
        "body": body,
        "sections": _SECTION.findall(body),
    }
    return render(request, "docs/page.html", context)


def written(request: PortalRequest, page: Page) -> str:
    """The page's text with this moment's facts in it."""
    surface = Surface(request.brand, base_url=firstcall.base_url(request), now=timezone.now())
    values: dict[str, Any] = {"surface": surface, "brand": request.brand, "page": page, "waits": WAITS}
    template: Any = sources.template_of(page.name)
    return str(template.render(values, request))
