"""Payments, read-only: what was asked of Stripe, what became of it, and what it told. No page shows a secret."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model

from billing.admin.pages import Bounded, money_of
from billing.payment_models import AutoTopUp, Reversal, StripeAccount, StripeCustomer, StripeEvent, TopUp
from keys.admin import Page, ReadOnly


@admin.register(StripeAccount)
class StripeAccountAdmin(ReadOnly, Page):
    """Connected by manage.py stripe_account, which reads secrets where nobody looks over a shoulder."""

    brand_path = "brand"
    list_display = ("brand", "stripe_id", "is_active", "livemode", "automatic_tax", "events_seen_until")
    list_filter = ("is_active", "livemode")
    list_select_related = ("brand",)
    fields = (
        "brand",
        "public_id",
        "stripe_id",
        "is_active",
        "livemode",
        "automatic_tax",
        "api_base",
        "created_at",
    )
    ordering = ("brand", "-pk")


@admin.register(TopUp)
class TopUpAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    paginator = Bounded
    list_display = ("created_at", "organization", "kind", "state", "asked", "failure", "payment_intent")
    list_filter = ("state", "kind", "account")
    list_select_related = ("organization__brand", "account__brand")
    search_fields = ("=public_id", "=payment_intent", "=session_id", "=organization__public_id")
    fields = (
        *("public_id", "account", "organization", "kind", "state", "asked", "paid_units", "credited_nanos", "failure"),
        *("session_id", "payment_intent", "posting", "actor", "address", "created_at", "ended_at", "next_look_at"),
    )
    readonly_fields = ("asked",)
    ordering = ("-pk",)

    @admin.display(description="Asked for")
    def asked(self, row: Model) -> str:
        assert isinstance(row, TopUp)
        return money_of(row.amount_nanos, row.currency)


@admin.register(Reversal)
class ReversalAdmin(ReadOnly, Page):
    brand_path = "top_up__organization__brand"
    list_display = ("created_at", "top_up", "kind", "units", "nanos", "stripe_id", "refused")
    list_filter = ("kind",)
    list_select_related = ("top_up",)
    search_fields = ("=stripe_id", "=top_up__public_id")
    fields = (
        *("top_up", "kind", "stripe_id", "units", "nanos", "posting", "returned"),
        *("reason", "actor", "refused", "created_at"),
    )
    ordering = ("-pk",)


@admin.register(AutoTopUp)
class AutoTopUpAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "is_on", "failures", "not_before", "stopped_because")
    list_filter = ("is_on",)
    list_select_related = ("organization__brand",)
    search_fields = ("=organization__public_id", "organization__name")
    ordering = ("-updated_at",)


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnly, Page):
    brand_path = "account__brand"
    paginator = Bounded
    list_display = ("received_at", "account", "kind", "source", "tries", "due_at", "error")
    list_filter = ("source", "kind")
    list_select_related = ("account__brand",)
    search_fields = ("=event_id",)
    ordering = ("-pk",)


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "account", "customer_id", "card_brand", "card_last4", "card_expires")
    list_select_related = ("organization__brand", "account__brand")
    search_fields = ("=customer_id", "=organization__public_id")
    ordering = ("-pk",)
