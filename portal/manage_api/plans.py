"""The paid plan: what is sold by the month, the one that the account pays for, what was paid. What became of it is what
Stripe says."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.http import Http404
from rest_framework import serializers

from billing import subscriptions
from billing.models import Tier
from billing.subscription_models import Subscription, SubscriptionInvoice
from keys.models import Role
from portal.manage_api.fields import EmptyWish, Shape, Text, Wish, nanos, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first
from portal.manage_api.payments import asking_stripe, page_of

TAG = "Paid plans"


class OfferShape(Shape):
    tier = serializers.CharField(help_text="Slug of the tier")
    name = serializers.CharField()
    monthly_price_nanos = nanos()
    currency = serializers.CharField()
    EXAMPLE = {"tier": "plus", "name": "Plus", "monthly_price_nanos": 10_000_000_000, "currency": "USD"}


class OffersShape(Shape):
    data = OfferShape(many=True)  # type: ignore[assignment]
    EXAMPLE = {"data": [OfferShape.EXAMPLE]}


class PlanShape(Shape):
    id = serializers.CharField()
    tier = serializers.CharField(help_text="Slug of the tier that is paid for")
    name = serializers.CharField()
    state = serializers.ChoiceField(Subscription.State.choices)
    monthly_price_nanos = nanos()
    currency = serializers.CharField()
    checkout_url = serializers.CharField(allow_null=True, help_text="Where a person pays, while it is open")
    paid_until = utc(allow_null=True)
    ends_at = utc(allow_null=True, help_text="When it was told to end; null: it goes on")
    created_at = utc()
    EXAMPLE: dict[str, Any] = {
        "id": "plan_22222222222222222222",
        "tier": "plus",
        "name": "Plus",
        "state": "active",
        "monthly_price_nanos": 10_000_000_000,
        "currency": "USD",
        "checkout_url": None,
        "paid_until": "2026-12-21T09:00:00Z",
        "ends_at": None,
        "created_at": "2026-11-21T09:00:00Z",
    }


class PlanWish(Wish):
    tier = Text(max_length=60, help_text="Slug of a tier that is sold by the month")
    EXAMPLE = {"tier": "plus"}


class InvoiceShape(Shape):
    id = serializers.CharField(help_text="The payment service's")
    plan = serializers.CharField()
    name = serializers.CharField()
    net_nanos = nanos()
    currency = serializers.CharField()
    created_at = utc()
    EXAMPLE = {
        "id": "in_1",
        "plan": "plan_22222222222222222222",
        "name": "Plus",
        "net_nanos": 10_000_000_000,
        "currency": "USD",
        "created_at": "2026-11-21T09:00:00Z",
    }


class Offers(Endpoint):
    @operation("List the plans that are sold", name="list_plan_offers", tag=TAG, role=Role.VIEWER, gives=OffersShape)
    def get(self, call: Call) -> dict[str, Any]:
        """By the month, the lowest tier first. Other tiers are reached by use: see the ladder."""
        currency = call.organization.brand.currency
        tiers = subscriptions.sold(call.organization.brand)
        same = [(tier.slug, tier.name, tier.monthly_price_nanos, currency) for tier in tiers]
        return {"data": [dict(zip(OfferShape.EXAMPLE, row, strict=True)) for row in same]}


class Plan(Endpoint):
    @operation("Read the paid plan", name="read_plan", tag=TAG, role=Role.BILLING, gives=PlanShape)
    def get(self, call: Call) -> dict[str, Any]:
        """The one that begins or runs; 404 when there is none."""
        row = subscriptions.of(call.organization)
        if row is None:
            raise Http404
        return _shown(row)

    @operation(
        "Begin a paid plan",
        name="begin_plan",
        tag=TAG,
        role=Role.BILLING,
        takes=PlanWish,
        gives=PlanShape,
        status=201,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Nothing is paid yet: a person opens `checkout_url`. Then read the plan until it is active. Asked again for
        the same tier it is the same page."""
        tier = _tier(call)
        with asking_stripe():
            row = subscriptions.start(
                organization=call.organization,
                tier=tier,
                return_url=f"{page_of(call, 'plan')}?plan={{plan}}",
                **call.by,
            )
        return _shown(row)


class PlanChange(Endpoint):
    @operation(
        "Change the paid plan",
        name="change_plan",
        tag=TAG,
        role=Role.BILLING,
        takes=PlanWish,
        gives=PlanShape,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """To another tier from now on; the rest of the month is settled with the kept card."""
        tier = _tier(call)
        with asking_stripe():
            return _shown(subscriptions.change(organization=call.organization, tier=tier, **call.by))


class PlanEnd(Endpoint):
    @operation(
        "Cancel the paid plan",
        name="cancel_plan",
        tag=TAG,
        role=Role.BILLING,
        takes=EmptyWish,
        gives=PlanShape,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """It ends with the month that is paid."""
        with asking_stripe():
            return _shown(subscriptions.cancel(organization=call.organization, **call.by))


class PlanResumption(Endpoint):
    @operation(
        "Resume the paid plan",
        name="resume_plan",
        tag=TAG,
        role=Role.BILLING,
        takes=EmptyWish,
        gives=PlanShape,
        counted="payments",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """One that was cancelled and still runs goes on."""
        with asking_stripe():
            return _shown(subscriptions.resume(organization=call.organization, **call.by))


class Invoices(Endpoint):
    @operation(
        "List the invoices of paid plans",
        name="list_plan_invoices",
        tag=TAG,
        role=Role.BILLING,
        query=Paged,
        gives=InvoiceShape,
    )
    def get(self, call: Call) -> Page[Any]:
        rows = SubscriptionInvoice.objects.filter(subscription__organization=call.organization)
        rows = rows.select_related("subscription__price")
        page = newest_first(rows, Place.of(call.query, f"plan invoices {call.organization.pk}"))
        return Page([_invoice(row) for row in page.rows], page.next_cursor)


def _tier(call: Call) -> Tier:
    found = Tier.objects.filter(brand_id=call.organization.brand_id, slug=call.data["tier"], is_listed=True).first()
    if found is None:
        raise ValidationError({"tier": "No such tier is sold by the month."})
    return found


def _shown(row: Subscription) -> dict[str, Any]:
    price = row.price
    return {
        "id": row.public_id,
        "tier": price.tier.slug,
        "name": price.name,
        "state": row.state,
        "monthly_price_nanos": price.amount_nanos,
        "currency": price.currency,
        "checkout_url": row.checkout_url if row.state == Subscription.State.OPEN else None,
        "paid_until": row.period_end,
        "ends_at": row.ends_at,
        "created_at": row.created_at,
    }


def _invoice(row: SubscriptionInvoice) -> dict[str, Any]:
    return {
        "id": row.invoice_id,
        "plan": row.subscription.public_id,
        "name": row.subscription.price.name,
        "net_nanos": row.net_nanos,
        "currency": row.subscription.price.currency,
        "created_at": row.created_at,
    }
