"""Paid plans, read-only: what was agreed, which tier it gives, what came in and what went back."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model

from billing.admin.pages import Bounded, money_of
from billing.subscription_models import InvoiceReversal, Subscription, SubscriptionInvoice, SubscriptionPrice
from keys.admin import Page, ReadOnly


@admin.register(Subscription)
class SubscriptionAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    paginator = Bounded
    list_display = ("created_at", "organization", "price", "state", "granted", "period_end", "ends_at", "grace_until")
    list_filter = ("state", "account")
    list_select_related = ("organization__brand", "price", "granted")
    search_fields = ("=public_id", "=stripe_id", "=session_id", "=organization__public_id")
    fields = (
        *("public_id", "account", "organization", "price", "state", "granted", "fallback", "period_end", "ends_at"),
        *("grace_until", "failure", "session_id", "stripe_id", "actor", "address", "created_at", "ended_at"),
        *("next_look_at", "looks", "applied_look"),
    )
    ordering = ("-pk",)


@admin.register(SubscriptionPrice)
class SubscriptionPriceAdmin(ReadOnly, Page):
    brand_path = "tier__brand"
    list_display = ("name", "tier", "amount", "account", "price_id")
    list_select_related = ("tier", "account__brand")
    search_fields = ("=price_id", "name")
    fields = ("account", "tier", "name", "amount", "price_id")
    readonly_fields = ("amount",)
    ordering = ("-pk",)

    @admin.display(description="A month")
    def amount(self, row: Model) -> str:
        assert isinstance(row, SubscriptionPrice)
        return money_of(row.amount_nanos, row.currency)


@admin.register(SubscriptionInvoice)
class SubscriptionInvoiceAdmin(ReadOnly, Page):
    brand_path = "subscription__organization__brand"
    paginator = Bounded
    list_display = ("created_at", "subscription", "reason", "paid_units", "net", "invoice_id")
    list_select_related = ("subscription__price",)
    search_fields = ("=invoice_id", "=payment_intent", "=subscription__public_id")
    fields = (
        *("subscription", "invoice_id", "payment_intent", "reason", "paid_units", "net", "posting", "created_at"),
    )
    readonly_fields = ("net",)
    ordering = ("-pk",)

    @admin.display(description="Without tax")
    def net(self, row: Model) -> str:
        assert isinstance(row, SubscriptionInvoice)
        return money_of(row.net_nanos, row.subscription.price.currency)


@admin.register(InvoiceReversal)
class InvoiceReversalAdmin(ReadOnly, Page):
    brand_path = "invoice__subscription__organization__brand"
    list_display = ("created_at", "invoice", "kind", "units", "nanos", "stripe_id")
    list_filter = ("kind",)
    list_select_related = ("invoice",)
    search_fields = ("=stripe_id", "=invoice__invoice_id")
    fields = ("invoice", "kind", "stripe_id", "units", "nanos", "posting", "returned", "created_at")
    ordering = ("-pk",)
