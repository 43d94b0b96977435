"""Usage: read-only. Settled calls by their id or their customer's, and the sums that pages read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model as AnyModel
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest

from billing.admin.pages import Bounded, money_of, organization_ids
from billing.models import Model, Rollup, UsageDay, UsageEvent, UsageQuarter
from keys.admin import Page, ReadOnly
from keys.models import ApiKey, Brand, Organization


class _Usage(ReadOnly, Page):
    """Rows name others by plain ids: they outlive what they name. So names are looked up beside them."""

    paginator = Bounded
    sortable_by = ()  # no index would bear it
    search_fields = ("organization_id",)  # shows the box; get_search_results reads it
    search_help_text = "An organization's id (org_…), whole"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        def name(model: type[AnyModel], field: str, reference: str) -> Subquery:
            return Subquery(model._default_manager.filter(pk=OuterRef(reference)).values(field)[:1])

        rows: QuerySet[Any] = super().get_queryset(request)
        named: QuerySet[Any] = rows.annotate(
            of_organization=name(Organization, "name", "organization_id"),
            of_key=name(ApiKey, "hint", "key_id"),
            of_model=name(Model, "slug", "model_id"),
            of_currency=name(Brand, "currency", "brand_id"),
        )
        return named

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        return (queryset.filter(organization_id__in=organization_ids(term)) if term else queryset), False

    @admin.display(description="Organization")
    def organization(self, row: Any) -> str:
        return str(row.of_organization or row.organization_id)

    @admin.display(description="Key")
    def key(self, row: Any) -> str:
        return str(row.of_key or row.key_id)

    @admin.display(description="Model")
    def model_slug(self, row: Any) -> str:
        return str(row.of_model or row.model_id)

    @admin.display(description="Charged")
    def charged(self, row: Any) -> str:
        return money_of(row.cost_nanos, row.of_currency or "")


@admin.register(UsageEvent)
class UsageEventAdmin(_Usage):
    """Immutable; a correction is another event."""

    brand_path = "brand_id"
    list_display = (
        *("settled_at", "call_id", "kind", "organization", "key", "model_slug", "prompt_tokens", "output_tokens"),
        *("charged", "usage_source", "end_reason"),
    )
    search_help_text = "A call's id (x-request-id), or an organization's (org_…), whole"
    ordering = ("-call_id",)
    names = ("organization", "key", "model_slug", "charged")

    def get_fields(self, request: HttpRequest, obj: UsageEvent | None = None) -> tuple[str, ...]:
        return ("call_id", *self.names, *(field.name for field in UsageEvent._meta.fields if field.name != "call_id"))

    def get_readonly_fields(self, request: HttpRequest, obj: UsageEvent | None = None) -> tuple[str, ...]:
        return self.get_fields(request, obj)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            return queryset.filter(call_id=UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="Prompt tokens")
    def prompt_tokens(self, event: UsageEvent) -> int:
        return event.uncached_input_tokens + (event.cache_read_tokens or 0) + (event.cache_write_tokens or 0)


class _RollupAdmin(_Usage):
    brand_path = "brand_id"
    sums = ("organization", "key", "model_slug", "end_reason", "requests", "prompt_tokens", "output_tokens", "charged")
    ordering = ("-id",)

    @admin.display(description="Prompt tokens")
    def prompt_tokens(self, rollup: Rollup) -> int:
        return rollup.uncached_input_tokens + rollup.cache_read_tokens + rollup.cache_write_tokens


@admin.register(UsageDay)
class UsageDayAdmin(_RollupAdmin):
    list_display = ("day", *_RollupAdmin.sums)


@admin.register(UsageQuarter)
class UsageQuarterAdmin(_RollupAdmin):
    list_display = ("starts_at", *_RollupAdmin.sums)
