"""Who was told of what, and whose first account it was: read-only."""

from __future__ import annotations

from django.contrib import admin

from billing.ladder_models import FirstAccount
from billing.telling_models import AlertPreference, LimitAlert, NoticesSeen
from keys.admin import Page, ReadOnly


@admin.register(AlertPreference)
class AlertPreferenceAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "percents", "changed_at")
    list_select_related = ("organization__brand",)
    ordering = ("-changed_at",)


@admin.register(LimitAlert)
class LimitAlertAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("at", "organization", "limit", "percent", "used", "amount")
    list_select_related = ("organization__brand",)
    search_fields = ("=organization__public_id",)
    ordering = ("-pk",)


@admin.register(NoticesSeen)
class NoticesSeenAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "user", "last_notice_id")
    list_select_related = ("organization__brand", "user")
    ordering = ("-pk",)


@admin.register(FirstAccount)
class FirstAccountAdmin(ReadOnly, Page):
    brand_path = "brand"
    list_display = ("created_at", "brand", "mailbox", "organization")
    list_select_related = ("brand", "organization")
    search_fields = ("=organization__public_id", "mailbox")
    ordering = ("-pk",)
