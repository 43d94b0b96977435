"""Models: what a brand sells, and the engines that serve it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Prefetch, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest

from billing import engine_facts, engines, prices
from billing.admin.pages import Written, say
from billing.models import Model, ModelEngine, Rate
from keys.admin import Form, Kept, Tabular, by


class ModelPageForm(Form):
    class Meta:
        model = Model
        fields = ("brand", *engines.MODEL_CHANGEABLE)
        help_texts = {"slug": "What customers send. Tiers and keys name it, so keep it; an alias is another name."}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.instance.brand_id is not None:
            say(self, engine_facts.model_problems(self.instance))


class RouteFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    def clean(self) -> None:
        super().clean()
        for form in self.forms:
            engine = form.cleaned_data.get("engine") if hasattr(form, "cleaned_data") else None
            if engine is not None and engine.brand_id not in (None, self.instance.brand_id):
                form.add_error("engine", f"Engine {engine} serves another brand only.")


class _Routes(Tabular):
    brand_path = "model__brand"
    model = ModelEngine
    formset = RouteFormSet
    verbose_name_plural = "engines that serve it"
    extra = 0
    fields = ("engine", "name_there")


@admin.register(Model)
class ModelAdmin(Kept, Written):
    """Models are retired, never deleted: events and prices name them."""

    brand_path = "brand"
    form = ModelPageForm
    list_display = ("slug", "name", "brand", "state", "context_length", "price", "served_by", "position")
    list_filter = ("brand", "state", "is_reasoning")
    list_select_related = ("brand",)
    search_fields = ("slug", "name", "aliases")
    ordering = ("brand", "position", "slug")
    inlines = (_Routes,)
    actions = ("hold_back", "bring_live", "retire")
    fieldsets = (
        (None, {"fields": ("brand", "slug", "aliases", "name", "description", "state", "maintenance_message")}),
        ("As customers see it", {"fields": ("owned_by", "released_on", "position", "features", "is_moderated")}),
        (
            "Bounds, in tokens",
            {
                "fields": (
                    *("context_length", "default_max_tokens", "max_completion_tokens", "modalities"),
                    *("tokens_per_message", "tokens_per_call"),
                )
            },
        ),
        ("Its engines", {"fields": ("is_reasoning", "extra_fields")}),
        ("Deadlines, in milliseconds", {"fields": ("connect_ms", "first_byte_ms", "idle_ms", "total_ms")}),
        ("Price", {"fields": ("price", "created_at"), "description": "Prices are set under Rates."}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        return ("price", "created_at", *(("brand",) if obj else ()))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        everybodys = prices.in_force(Rate.objects.filter(organization=None)).select_related("model__brand")
        return (
            super()
            .get_queryset(request)
            .prefetch_related("routes__engine", Prefetch("rates", everybodys, to_attr="current"))
        )

    def save_model(self, request: HttpRequest, obj: Model, form: ModelForm[Model], change: bool) -> None:
        given = form.cleaned_data
        if change:
            values = {name: given[name] for name in form.changed_data if name in engines.MODEL_CHANGEABLE}
            engines.change_model(model=obj, **by(request), **values)
        else:
            obj.pk = engines.create_model(**by(request), **given).pk

    def save_formset(
        self, request: HttpRequest, form: ModelForm[Model], formset: BaseInlineFormSet[Any, Any, Any], change: bool
    ) -> None:
        changed = formset.save(commit=False)
        for route in formset.deleted_objects:
            engines.remove_route(route=route, **by(request))
        for route in changed:
            stood = ModelEngine.objects.filter(pk=route.pk).first()
            if stood is not None and stood.engine_id != route.engine_id:
                engines.remove_route(route=stood, **by(request))
            engines.set_route(model=form.instance, engine=route.engine, name_there=route.name_there, **by(request))

    @admin.display(description="Price")
    def price(self, model: Model) -> str:
        current: list[Rate] = getattr(model, "current", [])
        return prices.described(current[0]) if current else "none: calls are refused"

    @admin.display(description="Engines")
    def served_by(self, model: Model) -> str:
        return ", ".join(route.engine.name for route in model.routes.all()) or "none: calls are refused"

    @admin.action(description="Maintenance: refuse calls with the model's message")
    def hold_back(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._switch(request, queryset, Model.State.MAINTENANCE)

    @admin.action(description="Live: take calls again")
    def bring_live(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._switch(request, queryset, Model.State.LIVE)

    @admin.action(description="Retire: it is sold no more")
    def retire(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        self._switch(request, queryset, Model.State.RETIRED)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Model], state: Model.State) -> None:
        rows = queryset.order_by("brand_id", "pk")
        self.each(request, state.label, rows, lambda row: engines.change_model(model=row, state=state, **by(request)))
