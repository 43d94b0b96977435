"""The operator's view of refused, failed and test calls. Read only: the journal process writes them; they go after a
week."""

from __future__ import annotations

from django.contrib import admin

from keys.admin import Page, ReadOnly
from proxy.models import RefusalCount, RefusalRecord, TestCall


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


@admin.register(TestCall)
class TestCallAdmin(ReadOnly, Page):
    brand_path = "brand_id"
    list_display = ("at", "http_status", "end_reason", "endpoint", "model", "key_hint", "organization_id")
    list_filter = ("http_status", "end_reason", "endpoint")
    search_fields = ("=call_id", "key_hint", "model")
    ordering = ("-call_id",)
