"""Pages for what went wrong. They say what to do next and nothing about our insides."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def _page(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    # Before a brand is found there is nothing to dress the page with.
    template = "portal/error.html" if hasattr(request, "brand") else "portal/error_bare.html"
    return render(request, template, {"title": title, "text": text}, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, 400, "That request was not understood", "Go back, and try it from the page it belongs to.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(
        request,
        403,
        "Your role does not allow this",
        "Ask an owner or an admin of the account to do it, or to change your role.",
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(
        request,
        404,
        "There is nothing here",
        "The address may be mistyped, or it belongs to an account that you are not a member of.",
    )


def failed(request: HttpRequest) -> HttpResponse:
    return _page(request, 500, "Something failed on our side", "It is recorded. Try again in a moment.")


def form_expired(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(
        request,
        403,
        "This form is out of date",
        "Go back, load the page again, and send it once more. Cookies must be allowed.",
    )
