"""Which brand a page is for, where its reader is, and the headers every page carries.

A brand is found by host, else by the first path segment (then stripped and set as script prefix, so that `{% url %}`
keeps it), else it is DEFAULT_BRAND. The host is checked here against ALLOWED_HOSTS and the brands' own rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from django.conf import settings
from django.core.exceptions import BadRequest
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port, validate_host
from django.shortcuts import render
from django.urls import get_script_prefix, include, path, set_script_prefix

from keys.models import Brand, User
from proxy.addresses import client_address

Handler = Callable[[HttpRequest], HttpResponse]

PORTAL_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
ADMIN_POLICY = PORTAL_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Django's admin sets widths of a few widgets through style attributes."""

HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


CONFIRMATIONS = frozenset({"accounts/reauthenticate/", "accounts/2fa/reauthenticate/"})
"""Where somebody confirms who they are. allauth then carries on with the form that asked for it, and looks for its view
by the whole path, with the prefix."""


class PortalRequest(HttpRequest):
    """What BrandMiddleware leaves for views."""

    brand: Brand
    client_address: str


class MemberRequest(PortalRequest):
    """Behind a guard of portal.pages: somebody is signed in."""

    user: User


class NulMiddleware:
    """No page means anything by a NUL, and PostgreSQL refuses it: 400 for one in a path, a query or a form. What is not
    a form of ours (the management API, Stripe's events) reads its own."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path_info:
            raise BadRequest("NUL in a path")
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, *_arguments: Any) -> None:
        if getattr(view, "csrf_exempt", False):
            return
        given = [request.GET, request.POST] if request.method == "POST" else [request.GET]
        for fields in given:
            if any("\0" in text for name, texts in fields.lists() for text in (name, *texts)):
                raise BadRequest("NUL in a query or a form")


class BrandMiddleware:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        host = request._get_raw_host()  # type: ignore[attr-defined]  # get_host() knows ALLOWED_HOSTS only
        domain, _port = split_domain_port(host)
        segment, _slash, rest = request.path_info.removeprefix("/").partition("/")
        brand, by_path, host_is_known = self._find(domain, segment)
        if not (host_is_known or validate_host(domain, settings.ALLOWED_HOSTS)):
            return HttpResponse("Bad Request: this host is not served here.", status=400, content_type="text/plain")
        request.get_host = lambda: host  # type: ignore[method-assign]
        request.client_address = client_address(  # type: ignore[attr-defined]
            request.META.get("REMOTE_ADDR"),
            request.META.get("HTTP_X_FORWARDED_FOR", "").encode("latin-1", "replace") or None,
            settings.TRUSTED_PROXIES,
        )
        if brand is None:
            return render(request, "portal/no_brand.html", status=503)
        request.brand = brand  # type: ignore[attr-defined]
        return self._under_prefix(request, segment, rest) if by_path else self.get_response(request)

    def _find(self, domain: str, segment: str) -> tuple[Brand | None, bool, bool]:
        """(brand, whether the path names it, whether the host is one of a brand's)."""
        candidates = list(
            Brand.objects.filter(Q(hosts__contains=[domain]) | Q(slug__in=[segment, settings.DEFAULT_BRAND]))
        )
        by_host = next((brand for brand in candidates if domain in brand.hosts), None)
        if by_host is not None:
            return by_host, False, True
        by_slug = {brand.slug: brand for brand in candidates}
        if segment in by_slug:
            return by_slug[segment], True, False
        return by_slug.get(settings.DEFAULT_BRAND), False, False

    def _under_prefix(self, request: HttpRequest, segment: str, rest: str) -> HttpResponse:
        before = get_script_prefix()
        request.path_info = "/" + rest
        if request.method == "POST" and rest in CONFIRMATIONS:
            request.urlconf = _also_under(segment)  # type: ignore[assignment]  # a module is as good as its name
        set_script_prefix(f"{before}{segment}/")
        try:
            return self.get_response(request)
        finally:
            set_script_prefix(before)


@cache
def _also_under(segment: str) -> ModuleType:
    """The addresses of every page, also with the prefix. Addresses are still made without: the last found is first."""
    pages = import_module(settings.ROOT_URLCONF)
    found = ModuleType(f"{pages.__name__}, also under {segment}")
    vars(found).update({name: value for name, value in vars(pages).items() if name.startswith("handler")})
    vars(found)["urlpatterns"] = [path(f"{segment}/", include(pages.urlpatterns)), *pages.urlpatterns]
    return found


class SecurityHeadersMiddleware:
    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        policy = ADMIN_POLICY if request.path_info.startswith("/admin/") else PORTAL_POLICY
        for name, value in {"Content-Security-Policy": policy, **HEADERS}.items():
            response.headers.setdefault(name, value)
        if not request.path_info.startswith("/static/"):
            # Pages hold what only their reader may see; shared caches and the back button must not keep them.
            response.headers.setdefault("Cache-Control", "no-store")
        return response
