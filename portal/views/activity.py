"""Who changed what in an account, and from where: a page with filters, and the same as a file."""

from __future__ import annotations

from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.http import HttpResponseBase
from django.views.decorators.http import require_safe

from keys.models import Organization, Role
from portal import spreadsheets, trail
from portal.middleware import MemberRequest
from portal.pages import of_organization, page

PER_PAGE = 50
HEAD = ("at", "who", "action", "subject", "changes", "address")


@of_organization(role_at_least=Role.ADMIN)
@require_safe
def activity(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    chosen = trail.Filter.read(request.GET.dict())
    if request.GET.get("format") == "csv":
        rows = (
            (line.at.isoformat(), line.who, line.action, line.subject, _changes(line), line.address)
            for line in trail.every_line(organization, chosen)
        )
        return spreadsheets.Download(f"activity-{organization.slug}.csv", HEAD, rows)
    listed = Paginator(trail.events(organization, chosen), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "listed": listed,
        "lines": trail.lines(list(listed), organization),
        "chosen": chosen,
        "query": urlencode(chosen.query),
        "file": urlencode({**chosen.query, "format": "csv"}),
        "subjects": trail.SUBJECTS,
    }
    return page(request, organization, "activity", "portal/activity.html", context)


def _changes(line: trail.Line) -> str:
    return "; ".join(f"{change.name}: {change.before} → {change.after}" for change in line.changes)
