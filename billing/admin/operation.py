"""What runs beneath: the journal's shards and writers, entries it could not book, changes and notices on their way."""

from __future__ import annotations

import json

from django.contrib import admin, messages
from django.db import DatabaseError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from billing import dead_letters, engine_counters
from billing.admin.pages import Bounded
from billing.entries import EntryRefused
from billing.models import (
    CounterChange,
    DeadLetter,
    EngineFinding,
    EngineReading,
    JournalShard,
    JournalWriter,
    Notice,
    WorkerLease,
)
from keys.admin import Page, ReadOnly
from keys.connections import redis_client


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, Page):
    list_display = ("at", "shard", "stream_id", "tries", "error", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter), "shard")
    ordering = ("-at",)
    fields = ("at", "shard", "stream_id", "tries", "error", "entry", "resolved_at")
    readonly_fields = fields
    actions = ("retry",)

    @admin.display(description="The entry")
    def entry(self, letter: DeadLetter) -> str:
        texts = {
            name.decode(errors="replace"): value.decode(errors="replace")
            for name, value in dead_letters.payload_of(letter).items()
        }
        return json.dumps(texts, indent=1, ensure_ascii=False)

    @admin.action(description="Book it now", permissions=["view"])
    def retry(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        booked = 0
        for letter in queryset.filter(resolved_at=None).order_by("at"):
            try:
                dead_letters.retry(letter.pk)
                booked += 1
            except (EntryRefused, DatabaseError) as error:
                self.message_user(request, f"{letter} stays: {error}", messages.ERROR)
        if booked:
            self.message_user(request, f"Booked: {booked}.", messages.SUCCESS)


@admin.register(CounterChange)
class CounterChangeAdmin(ReadOnly, Page):
    """Corrections and credit on their way into Redis."""

    brand_path = "organization__brand"
    paginator = Bounded
    list_display = ("created_at", "organization", "seq", "balance_nanos", "day", "amounts", "applied_at")
    list_filter = (("applied_at", admin.EmptyFieldListFilter),)
    list_select_related = ("organization",)
    search_fields = ("=organization__public_id",)
    ordering = ("-id",)


@admin.register(JournalShard)
class JournalShardAdmin(ReadOnly, Page):
    list_display = ("shard", "holder", "leased_until", "last_stream_id")
    list_per_page = 64
    ordering = ("shard",)


@admin.register(JournalWriter)
class JournalWriterAdmin(ReadOnly, Page):
    list_display = ("name", "seen_until")
    ordering = ("name",)


@admin.register(WorkerLease)
class WorkerLeaseAdmin(ReadOnly, Page):
    """Proxy workers, living or gone with calls still open; the sum is in nanos, over all brands."""

    list_display = ("name", "host", "running", "held_nanos", "expires_at")
    list_filter = ("host",)
    ordering = ("name",)


@admin.register(Notice)
class NoticeAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("created_at", "organization", "kind", "sent_at")
    list_filter = ("kind", ("sent_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__public_id", "unique_key")
    ordering = ("-id",)


@admin.register(EngineFinding)
class EngineFindingAdmin(ReadOnly, Page):
    """Where an engine's own counters contradict what was metered."""

    list_display = ("until", "root", "kind", "counted", "metered", "allowed", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter), "kind")
    ordering = ("-id",)
    actions = ("resolve",)

    @admin.action(description="Resolved: reconcile need not name it any more", permissions=["view"])
    def resolve(self, request: HttpRequest, queryset: QuerySet[EngineFinding]) -> None:
        resolved = engine_counters.resolve(queryset.values_list("id", flat=True), timezone.now())
        engine_counters.tell_metrics(redis_client())
        self.message_user(request, f"Resolved: {resolved}.", messages.SUCCESS)


@admin.register(EngineReading)
class EngineReadingAdmin(ReadOnly, Page):
    paginator = Bounded
    list_display = ("at", "root", "prompt_tokens", "output_tokens", "running", "boundary")
    list_filter = ("boundary", "root")
    ordering = ("-id",)
