"""Paying: top-ups through Stripe's Checkout, the kept card, and charging by itself.

Nothing here credits anything. A page sends who pays to Stripe; what became of it is what Stripe says when it is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.contrib import messages
from django.core.cache import caches
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing import auto_top_ups, cards, stripe_accounts, stripe_events, stripe_gateway, top_ups
from billing.payment_models import AutoTopUp, StripeAccount, TopUp
from keys.models import Brand, Organization, Role
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.payment_forms import AutoTopUpForm, TopUpForm

LISTED_MAX = 50
LOOK_SECONDS = 3
WAITING = (TopUp.State.CREATED, TopUp.State.OPEN)
AWAY = "The payment service does not answer just now. Nothing was charged; try again in a minute."
NOT_SET_UP = "Payments by card are not set up here."
log = logging.getLogger(__name__)


def account_of(brand: Brand) -> StripeAccount | None:
    try:
        return stripe_accounts.active(brand)
    except stripe_accounts.NotConnected:
        return None


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.BILLING)
@verified_first
def top_up(request: MemberRequest, organization: Organization) -> HttpResponse:
    account = account_of(organization.brand)
    form = TopUpForm(request.POST or None, currency=organization.brand.currency)
    if account is not None and request.method == "POST" and form.is_valid():
        state = request.build_absolute_uri(reverse("top_ups", args=[organization.public_id]))
        try:
            row = top_ups.start(
                organization=organization,
                amount_nanos=form.amount_nanos,
                keeps_card=form.cleaned_data["keeps_card"],
                return_url=f"{state}?top_up={{top_up}}",
                actor=request.user,
                address=request.client_address,
            )
        except top_ups.NotAccepted as error:
            form.add_error(None, str(error))
        except stripe_gateway.Unknown as error:
            log.warning("a top-up could not be begun: %s", error)
            form.add_error(None, AWAY)
        else:
            return leave(request, organization, row.checkout_url)
    return page(request, organization, "balance", "portal/top_up.html", {"form": form, "account": account})


@require_safe
@of_organization()
def top_ups_page(request: MemberRequest, organization: Organization) -> HttpResponse:
    """All of them, and how one stands: whoever comes back from paying waits here."""
    shown = None
    if "top_up" in request.GET:
        shown = get_object_or_404(organization.top_ups, public_id=request.GET["top_up"])
        if "returned" in request.GET and shown.state in WAITING:
            shown = _looked_at(shown)
    context = {
        "shown": shown,
        "waits": shown is not None and shown.state in WAITING and "returned" in request.GET,
        "rows": organization.top_ups.prefetch_related("reversals").order_by("-created_at", "-pk")[:LISTED_MAX],
    }
    return page(request, organization, "balance", "portal/top_ups.html", context)


def _looked_at(row: TopUp) -> TopUp:
    """Ask Stripe, rather than wait for its webhook; every few seconds at most, however often the page is loaded."""
    if caches["throttle"].add(f"top-up:{row.public_id}", 1, LOOK_SECONDS):
        try:
            stripe_events.look(row, timezone.now())
        except (stripe_gateway.Unknown, stripe_gateway.Refused, top_ups.NotAccepted) as error:
            log.warning("nothing is known yet of %s: %s", row, error)
    return row


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.BILLING)
@verified_first
def auto_top_up(request: MemberRequest, organization: Organization) -> HttpResponse:
    wish = AutoTopUp.objects.filter(organization=organization).first()
    if request.method == "POST" and "off" in request.POST:
        auto_top_ups.turn_off(organization=organization, actor=request.user, address=request.client_address)
        messages.success(request, "Automatic top-ups are off.")
        return redirect("auto_top_up", organization.public_id)
    form = AutoTopUpForm(request.POST or None, wish=wish, currency=organization.brand.currency)
    if request.method == "POST" and form.is_valid():
        try:
            auto_top_ups.put(
                organization=organization, actor=request.user, address=request.client_address, **form.values()
            )
        except ValidationError as error:
            form.take(error)
        else:
            messages.success(request, "Automatic top-ups are on.")
            return redirect("auto_top_up", organization.public_id)
    context = {
        "form": form,
        "wish": wish,
        "card": cards.kept(organization),
        "account": account_of(organization.brand),
        "spent_nanos": auto_top_ups.spent_this_month(organization, timezone.now()),
    }
    return page(request, organization, "balance", "portal/auto_top_up.html", context)


@of_organization(role_at_least=Role.BILLING)
@require_POST
@verified_first
def card(request: MemberRequest, organization: Organization) -> HttpResponse:
    """Leave a card at Stripe, or have the kept one forgotten."""
    if "forget" in request.POST:
        if cards.forget(organization, actor=request.user, address=request.client_address):
            messages.success(request, "The card is forgotten, here and at the payment service.")
        return redirect("auto_top_up", organization.public_id)
    back = request.build_absolute_uri(reverse("auto_top_up", args=[organization.public_id]))
    return _go_to_stripe(request, organization, lambda: cards.setup_url(organization, return_url=back))


@of_organization(role_at_least=Role.BILLING)
@require_POST
@verified_first
def billing_portal(request: MemberRequest, organization: Organization) -> HttpResponse:
    back = request.build_absolute_uri(reverse("top_ups", args=[organization.public_id]))
    return _go_to_stripe(request, organization, lambda: cards.portal_url(organization, return_url=back))


def _go_to_stripe(request: MemberRequest, organization: Organization, ask: Callable[[], str]) -> HttpResponse:
    try:
        return leave(request, organization, ask())
    except stripe_accounts.NotConnected:
        messages.error(request, NOT_SET_UP)
    except (stripe_gateway.Unknown, stripe_gateway.Refused) as error:
        log.warning("Stripe gave no page: %s", error)
        messages.error(request, AWAY)
    return redirect("auto_top_up", organization.public_id)


def leave(request: MemberRequest, organization: Organization, url: str) -> HttpResponse:
    """A page that leads there by itself: the policy of our pages lets forms end at home only."""
    return render(request, "portal/leaving.html", {"url": url, "organization": organization})
