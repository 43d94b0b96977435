"""Where customers hear of events, and what was sent there: read-only, and no page shows a secret."""

from __future__ import annotations

from django.contrib import admin

from billing.admin.pages import Bounded
from billing.webhook_models import WebhookDelivery, WebhookEndpoint
from keys.admin import Page, ReadOnly


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "url", "is_enabled", "failing_since", "disabled_because", "created_at")
    list_filter = ("is_enabled",)
    list_select_related = ("organization__brand",)
    search_fields = ("=public_id", "=organization__public_id", "url")
    fields = (
        *("organization", "public_id", "url", "events", "low_balance_nanos", "balance_level", "is_enabled"),
        *("failing_since", "disabled_because", "previous_secret_until", "created_at"),
    )
    ordering = ("-pk",)


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnly, Page):
    brand_path = "endpoint__organization__brand"
    paginator = Bounded
    list_display = ("created_at", "endpoint", "event", "state", "attempts", "answer_status", "next_at")
    list_filter = ("state", "event")
    list_select_related = ("endpoint",)
    search_fields = ("=event_id", "=endpoint__public_id", "=endpoint__organization__public_id")
    ordering = ("-pk",)
