"""Limits and tier: what is used of each limit just now, the ladder, the way up, the way here."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from billing import alerts, balances, gauges, ladder, notices, subscriptions
from billing.models import Tier
from keys import access
from keys.models import Organization, Role
from portal import standing
from portal.forms import AlertsForm
from portal.middleware import MemberRequest
from portal.pages import SECTIONS, of_organization, page
from portal.views import payments

BIGINT_DIGITS = 19


@of_organization()
@require_http_methods(["GET", "HEAD", "POST"])
def limits(request: MemberRequest, organization: Organization) -> HttpResponse:
    if request.method == "POST" and "put_away" in request.POST:
        return _put_away(request, organization)
    tier, since = ladder.standing_of(organization)
    tiers = standing.ladder_of(organization.brand)
    reading = gauges.of(organization, tier, timezone.now())
    may_change = access.may(access.role_in(request.user, organization), Role.ADMIN)
    form = _alerts_form(request, organization, reading)
    if request.method == "POST":
        if not may_change:
            raise PermissionDenied("Only an owner or an admin chooses what the account is told.")
        if form.is_valid() and _chosen(request, organization, form):
            return redirect("limits", organization.public_id)
    context = {
        **_live(organization, reading, tiers),
        "tier_since": since,
        "rungs": standing.rungs(tiers, tier, organization.brand),
        "sold": subscriptions.sold(organization.brand) if _may_buy(request, organization) else [],
        "way": standing.way_up(organization, reading, tiers),
        "history": standing.history(organization),
        "form": form,
        "may_change": may_change,
    }
    return page(request, organization, "limits", "portal/limits.html", context, status=400 if form.errors else 200)


def _may_buy(request: MemberRequest, organization: Organization) -> bool:
    may_pay = access.may(access.role_in(request.user, organization), Role.BILLING)
    return may_pay and payments.account_of(organization.brand) is not None


def _alerts_form(request: MemberRequest, organization: Organization, reading: gauges.Reading) -> AlertsForm:
    chosen = alerts.thresholds_of([organization])[organization.pk]
    quotas = {gauge.name: gauge for gauge in reading.gauges if gauge.is_quota}
    initial = {
        "percents": ", ".join(map(str, chosen.percents)),
        "limits": sorted({gauge.name for gauge in reading.gauges if chosen.watch(gauge)}),
    }
    choices = [(name, standing.quota_name(gauge)) for name, gauge in quotas.items()]
    return AlertsForm(request.POST or None, choices=choices, initial=initial)


def _chosen(request: MemberRequest, organization: Organization, form: AlertsForm) -> bool:
    try:
        alerts.choose(
            organization=organization, actor=request.user, address=request.client_address, **form.cleaned_data
        )
    except ValidationError as error:
        form.take(error)
        return False
    messages.success(request, "Saved.")
    return True


def _put_away(request: MemberRequest, organization: Organization) -> HttpResponse:
    """A banner, for whoever asks; back to where it stood."""
    notice = request.POST["put_away"]
    if notice.isascii() and notice.isdigit() and len(notice) < BIGINT_DIGITS:
        notices.put_away(organization, request.user, int(notice))
    section = request.POST.get("section", "")
    return redirect(section if section in SECTIONS else "limits", organization.public_id)


@require_safe
@never_cache
@of_organization()
def limits_live(request: MemberRequest, organization: Organization) -> HttpResponse:
    """The part of the page that portal.js fetches again every few seconds."""
    tier, _since = ladder.standing_of(organization)
    reading = gauges.of(organization, tier, timezone.now())
    return render(
        request, "portal/_limits_live.html", _live(organization, reading, standing.ladder_of(organization.brand))
    )


def _live(organization: Organization, reading: gauges.Reading, tiers: list[Tier]) -> dict[str, Any]:
    payer = ladder.payer_of(organization, reading.tier)
    return {
        "organization": organization,
        "currency": organization.brand.currency,
        "zone": organization.brand.timezone,
        "tier": reading.tier,
        "payer": payer,
        "board": standing.board(reading, standing.units_of(tiers)),
        "balance": balances.of(organization) if payer != "included" else None,
    }
