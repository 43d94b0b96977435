"""Where a person is signed in, and how to end it: kept by django-allauth, one row per session."""

from __future__ import annotations

from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from portal.middleware import MemberRequest


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def sessions(request: MemberRequest) -> HttpResponse:
    """A POST ends the session named by `session`, or without it every other one."""
    rows = UserSession.objects.purge_and_list(request.user)
    others = [row for row in rows if row.session_key != request.session.session_key]
    if request.method != "POST":
        rows.sort(key=lambda row: (row.session_key != request.session.session_key, -row.created_at.timestamp()))
        context = {"sessions": rows, "current": request.session.session_key, "others": len(others)}
        return render(request, "portal/sessions.html", context)
    given = request.POST.get("session")
    ended = others if given is None else [row for row in others if str(row.pk) == given]
    if given is not None and not ended:
        raise Http404
    for row in ended:
        row.end()
    messages.success(request, f"Signed out of {len(ended)} other session{'s' if len(ended) != 1 else ''}.")
    return redirect("sessions")
