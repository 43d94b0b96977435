"""The operator's view of refused and failed calls. Read only: the journal process writes them, a week later they go."""

from __future__ import annotations

from django.contrib import admin

from keys.admin import Page, ReadOnly
from proxy.models import RefusalCount, RefusalRecord


@admin.register(RefusalRecord)
class RefusalRecordAdmin(ReadOnly, Page):
    brand_path = "brand_id"
    list_display = ("at", "status", "reason", "limit", "model", "key_hint", "organization_id", "engine_status")
    list_filter = ("status", "reason", "endpoint")
    search_fields = ("=call_id", "key_hint", "model")
    ordering = ("-call_id",)


@admin.register(RefusalCount)
class RefusalCountAdmin(ReadOnly, Page):
    brand_path = "brand_id"
    list_display = ("minute", "reason", "count", "brand_id", "organization_id")
    list_filter = ("reason",)
    ordering = ("-minute",)
