"""The paid plan: which tiers are sold by the month, which one the account pays for, and what was paid.

No page changes a tier: what Stripe says of the subscription does, when it is asked.
"""

from __future__ import annotations

import logging

from django.contrib import messages
from django.core.cache import caches
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from billing import ladder, stripe_accounts, stripe_gateway, subscription_state, subscriptions
from billing.models import Tier
from billing.subscription_models import Subscription, SubscriptionInvoice
from keys.models import Organization, Role
from portal import standing
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.views import payments

LISTED_MAX = 50
LOOK_SECONDS = 3
log = logging.getLogger(__name__)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.BILLING)
@verified_first
def plan(request: MemberRequest, organization: Organization) -> HttpResponse:
    if request.method == "POST":
        return _act(request, organization)
    shown = None
    if "plan" in request.GET:
        shown = get_object_or_404(organization.subscriptions, public_id=request.GET["plan"])
        if "returned" in request.GET and shown.state in subscription_state.BEGINNING:
            shown = _looked_at(shown)
    mine = subscriptions.of(organization)
    tier, _since = ladder.standing_of(organization)
    invoices = SubscriptionInvoice.objects.filter(subscription__organization=organization)
    context = {
        "account": payments.account_of(organization.brand),
        "shown": shown,
        "waits": "returned" in request.GET and shown is not None and shown.state in subscription_state.BEGINNING,
        "mine": mine if mine is not None and mine.state in subscription_state.RUNNING else None,
        "tier": tier,
        "sold": [
            (found, standing.binding(found), tier is not None and tier.rank > found.rank)
            for found in subscriptions.sold(organization.brand)
            if mine is None or mine.state not in subscription_state.RUNNING or mine.price.tier_id != found.pk
        ],
        "invoices": invoices.select_related("subscription__price")
        .prefetch_related("reversals")
        .order_by("-created_at", "-pk")[:LISTED_MAX],
    }
    return page(request, organization, "balance", "portal/plan.html", context)


def _looked_at(row: Subscription) -> Subscription:
    """Ask Stripe, rather than wait for its webhook; every few seconds at most, however often the page is loaded."""
    if caches["throttle"].add(f"plan:{row.public_id}", 1, LOOK_SECONDS):
        try:
            subscription_state.look(row, timezone.now())
        except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
            log.warning("nothing is known yet of %s: %s", row, error)
    return row


def _act(request: MemberRequest, organization: Organization) -> HttpResponse:
    here = redirect("plan", organization.public_id)
    try:
        if "subscribe" in request.POST:
            url = _begun(request, organization, _tier(organization, request.POST["subscribe"]))
            return payments.leave(request, organization, url)
        messages.success(request, _changed(request, organization))
    except subscriptions.NotAccepted as error:
        messages.error(request, str(error))
    except stripe_accounts.NotConnected:
        messages.error(request, payments.NOT_SET_UP)
    except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
        log.warning("a plan could not be begun or changed: %s", error)
        messages.error(request, "The payment service does not answer just now. Look here again in a minute.")
    return here


def _begun(request: MemberRequest, organization: Organization, tier: Tier) -> str:
    here = request.build_absolute_uri(reverse("plan", args=[organization.public_id]))
    row = subscriptions.start(
        organization=organization,
        tier=tier,
        return_url=f"{here}?plan={{plan}}",
        actor=request.user,
        address=request.client_address,
    )
    return row.checkout_url


def _changed(request: MemberRequest, organization: Organization) -> str:
    """What was done, in words."""
    actor, address = request.user, request.client_address
    if "change" in request.POST:
        tier = _tier(organization, request.POST["change"])
        row = subscriptions.change(organization=organization, tier=tier, actor=actor, address=address)
        return f"Your plan is {row.price.name} now."
    if "cancel" in request.POST:
        subscriptions.cancel(organization=organization, actor=actor, address=address)
        return "The plan ends with the month that is paid."
    if "resume" in request.POST:
        subscriptions.resume(organization=organization, actor=actor, address=address)
        return "The plan goes on."
    raise Http404("No such button.")


def _tier(organization: Organization, slug: str) -> Tier:
    return get_object_or_404(Tier, brand_id=organization.brand_id, slug=slug, is_listed=True)
