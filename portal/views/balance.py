"""The account's money: what it may spend, what running calls have set aside, every posting behind it, and codes for
credit."""

from __future__ import annotations

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_safe

from billing import balances, ladder, money, promo_codes, subscriptions, wallets
from billing.models import LedgerAccount, PostingLine
from keys import access
from keys.models import Organization, Role
from portal import standing
from portal.forms import PromoForm
from portal.middleware import MemberRequest
from portal.pages import of_organization, page, verified_first
from portal.views import payments

PER_PAGE = 30
SPENT_MAX = 20


@require_safe
@of_organization()
def balance(request: MemberRequest, organization: Organization) -> HttpResponse:
    lines = (
        PostingLine.objects.filter(account__organization=organization, account__kind=LedgerAccount.Kind.WALLET)
        .select_related("posting")
        .order_by("-posting__posted_at", "-pk")
    )
    wallet = wallets.of(organization)
    tier, since = ladder.standing_of(organization)
    context = {
        "balance": balances.of(organization),
        "may_redeem": access.may(access.role_in(request.user, organization), Role.BILLING),
        "payments": payments.account_of(organization.brand),
        "has_plans": bool(subscriptions.sold(organization.brand)),
        "tier": tier,
        "payer": ladder.payer_of(organization, tier),
        "tier_since": since,
        "limits": standing.binding(tier) if tier else [],
        "wallet": wallet,
        "grants": [(grant, wallet.left[grant.pk]) for grant in wallet.grants],
        "spent": organization.grants.exclude(pk__in=wallet.left).select_related("end").order_by("-pk")[:SPENT_MAX],
        "lines": Paginator(lines, PER_PAGE).get_page(request.GET.get("page")),
    }
    return page(request, organization, "balance", "portal/balance.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@of_organization(role_at_least=Role.BILLING)
@verified_first
def promo(request: MemberRequest, organization: Organization) -> HttpResponse:
    form = PromoForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            grant = promo_codes.claim(
                organization=organization,
                code=form.cleaned_data["code"],
                actor=request.user,
                address=request.client_address,
            )
        except promo_codes.NotClaimed as error:
            form.add_error("code", str(error))
        else:
            given = money.display_short(grant.amount_nanos, organization.brand.currency)
            messages.success(request, f"{given} of credit is yours.")
            return redirect("balance", organization.public_id)
    return page(request, organization, "balance", "portal/promo.html", {"form": form})
