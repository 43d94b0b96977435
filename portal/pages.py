"""What every page of an account shares: who may see it, its navigation, its context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlencode

from allauth.account.decorators import verified_email_required
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from billing import notices
from keys import access
from keys.models import Organization, Role
from portal import accounts, terms
from portal.docs.pages import CHANGELOG, has_page
from portal.middleware import MemberRequest

Rest = ParamSpec("Rest")
OrganizationView = Callable[Concatenate[MemberRequest, Organization, Rest], HttpResponseBase]


@dataclass(frozen=True, slots=True)
class Item:
    name: str
    label: str
    url: str


ACCOUNTS_LISTED = 20
"""In the switcher; more are on the front page."""
SECTIONS = {
    "overview": "Overview",
    "keys": "API keys",
    "playground": "Playground",
    "usage": "Usage",
    "limits": "Limits & tier",
    "balance": "Balance",
    "requests": "Requests",
    "members": "Members",
    "webhooks": "Webhooks",
    "activity": "Activity",
    "settings": "Settings",
}
"""In the order of the navigation. The name of a section is the name of its URL and of its icon."""


NEEDS = {"playground": Role.DEVELOPER, "activity": Role.ADMIN, "webhooks": Role.ADMIN}
"""Sections that not every member sees."""


def of_organization(
    *, role_at_least: Role | None = None
) -> Callable[[OrganizationView[Rest]], Callable[..., HttpResponseBase]]:
    """A view of one organization: signed-in members of at least that role only. A stranger gets what a missing
    organization gives; a member whose role is too small gets 403."""

    def decorate(view: OrganizationView[Rest]) -> Callable[..., HttpResponseBase]:
        @login_required
        @wraps(view)
        def guarded(
            request: MemberRequest, organization: str, *args: Rest.args, **kwargs: Rest.kwargs
        ) -> HttpResponseBase:
            found = access.organization_for(request.user, request.brand, organization, role_at_least=role_at_least)
            if terms.pending(request.user, request.brand):
                return redirect(f"{reverse('terms')}?{urlencode({'next': request.get_full_path()})}")
            return view(request, found, *args, **kwargs)

        return guarded

    return decorate


def verified_first(view: Callable[Rest, HttpResponse]) -> Callable[Rest, HttpResponse]:
    """Before that, people confirm their address: they get the page that says so, and the mail once more."""
    guarded: Callable[Rest, HttpResponse] = verified_email_required(view)
    return guarded


def page(
    request: MemberRequest,
    organization: Organization,
    section: str,
    template: str,
    context: dict[str, Any] | None = None,
    *,
    status: int = 200,
) -> HttpResponse:
    role = access.role_in(request.user, organization)
    shared = {
        "organization": organization,
        "currency": organization.brand.currency,
        "section": section,
        "navigation": [
            Item(name, label, reverse(name, args=[organization.public_id]))
            for name, label in SECTIONS.items()
            if access.may(role, NEEDS.get(name, Role.VIEWER))
        ],
        "accounts": list(access.organizations_of(request.user, request.brand)[:ACCOUNTS_LISTED]),
        "takes_new": accounts.takes_new_people(organization.brand),
        "may_issue": access.may(role, Role.DEVELOPER),
        "may_administer": access.may(role, Role.ADMIN),
        "has_changelog": has_page(organization.brand, CHANGELOG),
        "banner": notices.banner(organization, request.user, timezone.now()),
    }
    return render(request, template, {**shared, **(context or {})}, status=status)


def shortcut(section: str) -> Callable[..., HttpResponse]:
    """/keys/ for the reader's only account; with several, the front page asks which."""

    @login_required
    def view(request: MemberRequest) -> HttpResponse:
        organizations = list(access.organizations_of(request.user, request.brand)[:2])
        if len(organizations) == 1:
            return redirect(section, organizations[0].public_id)
        return redirect("home")

    return view
