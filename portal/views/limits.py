"""Limits and tier: what is used of each limit just now, the ladder, the way up, the way here."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from billing import balances, gauges, ladder
from billing.models import Tier
from keys.models import Organization
from portal import standing
from portal.middleware import MemberRequest
from portal.pages import of_organization, page


@require_safe
@of_organization()
def limits(request: MemberRequest, organization: Organization) -> HttpResponse:
    tier, since = ladder.standing_of(organization)
    tiers = standing.ladder_of(organization.brand)
    reading = gauges.of(organization, tier, timezone.now())
    context = {
        **_live(organization, reading, tiers),
        "tier_since": since,
        "rungs": standing.rungs(tiers, tier, organization.brand),
        "way": standing.way_up(organization, reading, tiers),
        "history": standing.history(organization),
    }
    return page(request, organization, "limits", "portal/limits.html", context)


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
