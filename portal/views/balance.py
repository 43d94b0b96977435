"""The account's money: what it may spend, what running calls have set aside, and every posting behind it."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import balances, ladder, wallets
from billing.models import LedgerAccount, PostingLine
from keys.models import Organization
from portal import allowances
from portal.middleware import MemberRequest
from portal.pages import of_organization, page
from portal.views.usage import today

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
        "tier": tier,
        "tier_since": since,
        "allowances": allowances.of(organization, tier, today(organization.brand, timezone.now())),
        "wallet": wallet,
        "grants": [(grant, wallet.left[grant.pk]) for grant in wallet.grants],
        "spent": organization.grants.exclude(pk__in=wallet.left).select_related("end").order_by("-pk")[:SPENT_MAX],
        "lines": Paginator(lines, PER_PAGE).get_page(request.GET.get("page")),
    }
    return page(request, organization, "balance", "portal/balance.html", context)
