"""The page between a sign-in and an account: new terms, read and accepted."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods

from portal import terms as accepting
from portal.middleware import MemberRequest


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def terms(request: MemberRequest) -> HttpResponse:
    asked = request.POST.get("next") or request.GET.get("next") or ""
    onward = asked if url_has_allowed_host_and_scheme(asked, allowed_hosts=None) else ""
    if not accepting.pending(request.user, request.brand):
        return redirect(onward or "home")
    if request.method == "POST":
        version = request.POST.get("version", "")
        if accepting.accept(request.user, request.brand, version, address=request.client_address):
            return redirect(onward or "home")
        messages.warning(request, "The terms changed while you read them. These are the ones in force.")
    return render(request, "portal/terms.html", {"next": onward})
