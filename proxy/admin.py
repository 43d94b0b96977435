"""The operator's view of refused and failed calls. Read only: the journal process writes them, a week later they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from proxy.models import RefusalCount, RefusalRecord

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Any]
else:
    Base = admin.ModelAdmin


class ReadOnly(Base):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(RefusalRecord)
class RefusalRecordAdmin(ReadOnly):
    list_display = ("at", "status", "reason", "limit", "model", "key_hint", "organization_id", "engine_status")
    list_filter = ("status", "reason", "endpoint")
    search_fields = ("=call_id", "key_hint", "model")
    ordering = ("-call_id",)
    show_full_result_count = False


@admin.register(RefusalCount)
class RefusalCountAdmin(ReadOnly):
    list_display = ("minute", "reason", "count", "brand_id", "organization_id")
    list_filter = ("reason",)
    ordering = ("-minute",)
    show_full_result_count = False
