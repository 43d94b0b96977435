"""Engines: their key is entered and never shown, their state decides where the next request goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from django import forms
from django.contrib import admin
from django.db.models import CharField, Count, F, Func, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.forms import ModelForm
from django.http import HttpRequest

from billing import engine_facts, engines, money
from billing.admin.pages import NanosField, Written, say
from billing.models import Engine, EngineCost, EngineFinding, EngineReading, ModelEngine
from billing.snapshot import Capabilities
from keys.admin import Form, Kept, ReadOnly, Tabular, by
from keys.brand_scope import LOOKING

SHOWN_MAX = 3
"""Names of models in one cell of a list."""


class EngineForm(Form):
    api_key = forms.CharField(
        required=False,
        label="API key",
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="The engine's own. Kept sealed and never shown again; empty keeps the one it has.",
    )
    remove_api_key = forms.BooleanField(required=False, label="Remove its API key")
    cost_per_hour_nanos = NanosField(required=False, label="Cost per hour", help_text='In currency units, e.g. "2.49"')

    class Meta:
        model = Engine
        fields = engines.CHANGEABLE
        help_texts = {
            "brand": "Whose models it serves; empty: every brand's",
            "headers": f'Extra request headers as an object. "{engine_facts.HIDDEN}" keeps the value there is.',
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept_headers = dict(self.instance.headers)
        self.initial["headers"] = engine_facts.headers_hidden(self.kept_headers)

    def clean_headers(self) -> Any:
        given = self.cleaned_data["headers"]
        return {} if given is None else engine_facts.headers_restored(given, self.kept_headers)

    def clean_capabilities(self) -> Any:
        given = self.cleaned_data["capabilities"]
        return {} if given is None else given

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        say(self, engine_facts.problems(self.instance))


class _Served(ReadOnly, Tabular):
    brand_path = "model__brand"
    model = ModelEngine
    verbose_name_plural = "models it serves (routes are set on the model's page)"
    extra = 0
    fields = ("model", "name_there")
    readonly_fields = fields


class _Costs(ReadOnly, Tabular):
    brand_path = "engine__brand"
    model = EngineCost
    verbose_name_plural = "costs per hour so far (one that was told late: manage.py engine cost --since)"
    extra = 0
    fields = ("since", "per_hour")
    readonly_fields = fields
    ordering = ("-since",)

    @admin.display(description="Cost per hour")
    def per_hour(self, cost: EngineCost) -> str:
        return f"{money.amount(cost.per_hour_nanos)} {cost.currency or '(of no currency that was said)'}"


@admin.register(Engine)
class EngineAdmin(Kept, Written):
    """Engines are drained and taken down, never deleted: events name them. Their addresses lie within the operator's
    network, so those who only work for a brand switch its engines but neither add nor change them."""

    brand_path = "brand"
    staff_may = LOOKING
    brandless_for_all = True
    form = EngineForm
    list_display = ("name", "state", "serves", "compared", "kind", "brand", "base_url", "weight")
    more_columns: tuple[Callable[[Engine], str], ...] = ()
    """What higher rooms know of an engine now; they add their own."""
    list_filter = ("state", "kind", "brand")
    list_select_related = ("brand",)
    search_fields = ("name", "base_url")
    inlines = (_Served, _Costs)
    actions = ("drain", "take_down", "bring_live")
    readonly_fields = ("has_key", "created_at")
    fieldsets = (
        (None, {"fields": ("name", "kind", "brand", "base_url", "state", "is_shared")}),
        ("Its key and how to reach it", {"fields": ("has_key", "api_key", "remove_api_key", "headers", "verify_tls")}),
        ("Share of the calls", {"fields": ("max_in_flight", "weight")}),
        ("What it costs", {"fields": ("cost_per_hour_nanos", "cost_currency")}),
        ("What it was found to do", {"fields": ("capabilities", "created_at")}),
    )

    def get_list_display(self, request: HttpRequest) -> Any:
        first, *others = self.list_display
        return (first, *self.more_columns, *others)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Engine]:
        rows: QuerySet[Engine] = super().get_queryset(request).prefetch_related("routes__model")
        return rows.annotate(**_comparisons())

    def save_model(self, request: HttpRequest, obj: Engine, form: ModelForm[Engine], change: bool) -> None:
        given = form.cleaned_data
        if change:
            values = {name: given[name] for name in form.changed_data if name in engines.CHANGEABLE}
            api_key = "" if given["remove_api_key"] else given["api_key"] or None
            engines.change(engine=obj, api_key=api_key, **by(request), **values)
        else:
            values = {name: given[name] for name in engines.CHANGEABLE}
            values["capabilities"] = msgspec.convert(values["capabilities"], Capabilities)
            obj.pk = engines.register(api_key=given["api_key"], **by(request), **values).pk

    @admin.display(boolean=True, description="Has a key")
    def has_key(self, engine: Engine) -> bool:
        return bool(engine.api_key_sealed)

    @admin.display(description="Its counters")
    def compared(self, engine: Engine) -> str:
        """When they were last judged, and what is open about them."""
        at, found = getattr(engine, "compared_at", None), getattr(engine, "open_findings", 0)
        said = f"{engine.compared_result} {at:%m-%d %H:%M}" if at else "–"  # type: ignore[attr-defined]
        return f"{said}, {found} open" if found else said

    @admin.display(description="Serves")
    def serves(self, engine: Engine) -> str:
        slugs = sorted({route.model.slug for route in engine.routes.all()})
        more = f" and {len(slugs) - SHOWN_MAX} more" if len(slugs) > SHOWN_MAX else ""
        return ", ".join(slugs[:SHOWN_MAX]) + more

    @admin.action(description="Drain: running calls end, no new ones are sent")
    def drain(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        self._switch(request, queryset, Engine.State.DRAINING)

    @admin.action(description="Down: send no calls")
    def take_down(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        self._switch(request, queryset, Engine.State.DOWN)

    @admin.action(description="Live: send calls again")
    def bring_live(self, request: HttpRequest, queryset: QuerySet[Engine]) -> None:
        self._switch(request, queryset, Engine.State.LIVE)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Engine], state: Engine.State) -> None:
        rows = queryset.order_by("pk")
        self.each(request, f"{state.label}", rows, lambda row: engines.change(engine=row, state=state, **by(request)))


def _comparisons() -> dict[str, Any]:
    """Annotations: how the counters at an engine's address last compared with what was metered."""
    root = Func(F("base_url"), Value("/v1$"), Value(""), function="regexp_replace", output_field=CharField())
    judged = (EngineReading.Boundary.AGREED, EngineReading.Boundary.DIFFERED)
    last = EngineReading.objects.filter(root=OuterRef("root"), boundary__in=judged).order_by("-at")
    found = EngineFinding.objects.filter(root=OuterRef("root"), resolved_at=None).order_by()
    return {
        "root": root,
        "compared_at": Subquery(last.values("at")[:1]),
        "compared_result": Subquery(last.values("boundary")[:1]),
        "open_findings": Coalesce(Subquery(found.values("root").annotate(n=Count("pk")).values("n")), 0),
    }
