"""The brand's front door, its colours, and the demo's mailbox."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.views.decorators.cache import cache_control, never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing import balances, gauges, ladder, reports
from keys import access, invitations
from keys.models import Organization
from portal import accounts, charts, firstcall, form_tokens, on_sale, onboarding, theme
from portal import mailbox as post_office
from portal.forms import NewAccountForm
from portal.middleware import MemberRequest, PortalRequest
from portal.pages import of_organization, page, verified_first
from portal.views.usage import today


@require_safe
def home(request: PortalRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return _landing(request)
    organizations = list(access.organizations_of(request.user, request.brand))
    waiting = list(invitations.waiting_for(request.user.email, request.brand))
    if len(organizations) == 1 and not waiting:
        return redirect("overview", organizations[0].public_id)
    return render(request, "portal/accounts.html", {"organizations": organizations, "invitations": waiting})


@require_safe
@of_organization()
def overview(request: MemberRequest, organization: Organization) -> HttpResponse:
    now = timezone.now()
    last = today(organization.brand, now)
    first = last - timedelta(days=29)
    models = on_sale.price_list(organization.brand, now, organization)
    tier, _since = ladder.standing_of(organization)
    role = access.role_in(request.user, organization)
    by_day = reports.usage(organization.pk, first=first, last=last)
    context = {
        "checklist": onboarding.shown(organization, request.user, role),
        "balance": balances.of(organization),
        "tier": tier,
        "payer": ladder.payer_of(organization, tier),
        "included": gauges.of(organization, tier, now).included(),
        "total": reports.added(by_day)[0],
        "chart": charts.by_day(by_day, first, last),
        "has_keys": organization.keys.filter(revoked_at=None, manages_as="").exists(),
        "models": models,
        "locked": [model.slug for model in models if not on_sale.is_unlocked(model, tier)],
        "placeholder": firstcall.PLACEHOLDER,
        "samples": firstcall.samples(
            base_url=firstcall.base_url(request),
            schemes=organization.brand.schemes,
            model=firstcall.model_for(organization.brand, models),
        ),
    }
    return page(request, organization, "overview", "portal/overview.html", context)


@never_cache
@of_organization()
@require_http_methods(["GET", "HEAD", "POST"])
def checklist(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    """The first steps by themselves, for portal.js to ask again while somebody takes them; sent to, put away."""
    if request.method == "POST":
        onboarding.dismiss(organization, request.user)
        return redirect("overview", organization.public_id)
    found = onboarding.checklist(organization, access.role_in(request.user, organization))
    if found is None:
        return HttpResponse()
    unchanged = get_conditional_response(request, etag=found.tag)
    if unchanged is not None:
        return unchanged
    answer = render(request, "portal/_checklist.html", {"checklist": found})
    answer["ETag"] = found.tag
    return answer


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
@verified_first
def account_new(request: MemberRequest) -> HttpResponse:
    """One more account of the same person, by name."""
    form = NewAccountForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if not form_tokens.spend(request):
            return redirect("home")
        name = form.cleaned_data["name"]
        made = accounts.open_another(request.user, request.brand, name=name, address=request.client_address)
        if made is not None:
            return redirect("overview", made.public_id)
        form.add_error(None, "No more accounts can be opened here by yourself.")
    is_open = accounts.takes_new_people(request.brand)
    context = {"form": form, "form_token": form_tokens.mint(request), "is_open": is_open}
    return render(request, "portal/account_new.html", context)


@require_POST
@login_required
@verified_first
def account_open(request: MemberRequest) -> HttpResponse:
    """For people who came with an account of another brand, or lost the one they had here."""
    organization = accounts.open_account(request.user, request.brand, address=request.client_address)
    if organization is None:
        messages.error(request, f"{request.brand.name} takes new customers by invitation.")
        return redirect("home")
    return redirect("overview", organization.public_id)


def _landing(request: PortalRequest) -> HttpResponse:
    brand = request.brand
    models = on_sale.price_list(brand, timezone.now())
    samples = firstcall.samples(
        base_url=firstcall.base_url(request), schemes=brand.schemes, model=firstcall.model_for(brand, models)
    )
    return render(request, "portal/landing.html", {"models": models, "samples": samples})


@require_safe
@cache_control(max_age=300, private=True)
def colours(request: PortalRequest) -> HttpResponse:
    return HttpResponse(theme.stylesheet(request.brand.theme), content_type="text/css; charset=utf-8")


@require_safe
def mailbox(request: HttpRequest) -> HttpResponse:
    if not settings.DEMO:
        raise Http404
    return render(request, "portal/mailbox.html", {"mails": post_office.newest_first()})
