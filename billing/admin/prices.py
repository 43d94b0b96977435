"""Rates: set here, ended here, never changed."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.db.models import Model as AnyModel
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing import prices
from billing.admin.pages import NanosField, Written, say_error
from billing.models import Rate
from keys.admin import Form, Kept, by

_OPTIONAL = {"cache_read": "the input price", "cache_write": "the input price", "reasoning": "the output price"}


def _per_million(name: str) -> forms.CharField:
    means = f", empty: {_OPTIONAL[name]}" if name in _OPTIONAL else ""
    return forms.CharField(
        required=False, label=name.replace("_", " ").capitalize(), help_text=f'Per million tokens, e.g. "0.20"{means}'
    )


class RateForm(Form):
    effective_from = forms.SplitDateTimeField(
        required=False, widget=AdminSplitDateTime(), help_text="UTC. Empty: from now on"
    )
    input, output = _per_million("input"), _per_million("output")
    cache_read, cache_write, reasoning = (_per_million(name) for name in _OPTIONAL)
    request_nanos = NanosField(required=False, label="Per request", help_text="In currency units")
    image_nanos = NanosField(required=False, label="Per image", help_text="In currency units")
    credits_per_request, credits_per_1000_tokens = (
        forms.IntegerField(required=False, min_value=0, initial=0) for _ in prices.CREDITS
    )

    confirmed = forms.BooleanField(
        required=False, label="It is meant so", help_text="Asked for where a price looks like a slip"
    )
    confirmed_reason = forms.CharField(required=False, max_length=200, label="Why", help_text="Kept in the trail")

    class Meta:
        model = Rate
        fields = ("model", "organization", "effective_from", "is_free")

    def clean_credits_per_request(self) -> int:
        return self.cleaned_data["credits_per_request"] or 0

    def clean_credits_per_1000_tokens(self) -> int:
        return self.cleaned_data["credits_per_1000_tokens"] or 0

    def price(self) -> dict[str, Any]:
        """What the form says, as set_price takes it."""
        given = self.cleaned_data
        same = ("model", "organization", "is_free", "request_nanos", "image_nanos", *prices.CREDITS)
        per_million = {name: given[name] or None for name in prices.PER_MILLION}
        return {name: given[name] for name in same} | {"per_million": per_million}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                slips = prices.drafted(effective_from=cleaned["effective_from"], **self.price())
            except ValidationError as error:
                say_error(self, error)
            else:
                self._ask_about(slips)
        return cleaned

    def _ask_about(self, slips: list[str]) -> None:
        for slip in slips if not self.confirmation() else ():
            self.add_error(None, slip)
        if slips and not self.confirmation():
            self.add_error("confirmed", "Confirm this, and say why, if it is meant so.")

    def confirmation(self) -> str:
        given = self.cleaned_data
        return str(given["confirmed_reason"]).strip() if given["confirmed"] else ""


@admin.register(Rate)
class RateAdmin(Kept, Written):
    """A price that has begun stays as it is in history: set another, or end it."""

    brand_path = "model__brand"
    form = RateForm
    list_display = ("model", "brand", "organization", "price", "credits_per_request", "effective_from", "state")
    list_filter = ("model__brand", "is_free", ("organization", admin.EmptyFieldListFilter))
    list_select_related = ("model__brand", "organization")
    search_fields = ("model__slug", "organization__name", "organization__public_id")
    autocomplete_fields = ("model", "organization")
    ordering = ("-effective_from", "-id")
    actions = ("end", "withdraw")
    shown = ("model", "organization", "price", *prices.CREDITS, "effective_from", "effective_until", "state")
    fieldsets = (
        (None, {"fields": ("model", "organization", "effective_from", "is_free")}),
        ("Per million tokens", {"fields": ("input", "output", "cache_read", "cache_write", "reasoning")}),
        ("Besides", {"fields": ("request_nanos", "image_nanos", *prices.CREDITS)}),
        ("If it looks like a slip", {"fields": ("confirmed", "confirmed_reason")}),
    )

    def has_change_permission(self, request: HttpRequest, obj: AnyModel | None = None) -> bool:
        return obj is None and super().has_change_permission(request)

    def get_fieldsets(self, request: HttpRequest, obj: Rate | None = None) -> Any:
        return ((None, {"fields": self.shown}),) if obj else self.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Rate | None = None) -> tuple[str, ...]:
        return self.shown if obj else ()

    def save_model(self, request: HttpRequest, obj: Rate, form: ModelForm[Rate], change: bool) -> None:
        assert isinstance(form, RateForm)
        begin = form.cleaned_data["effective_from"]
        made = prices.set_price(
            effective_from=begin, confirmed_reason=form.confirmation(), **by(request), **form.price()
        )
        obj.pk, obj.effective_from = made.pk, made.effective_from

    @admin.display(description="Brand", ordering="model__brand")
    def brand(self, rate: Rate) -> str:
        return str(rate.model.brand)

    @admin.display(description="Price")
    def price(self, rate: Rate) -> str:
        return prices.described(rate)

    @admin.display(description="State")
    def state(self, rate: Rate) -> str:
        now = timezone.now()
        if rate.effective_from > now:
            return "to begin"
        until = rate.effective_until
        return "in force" if until is None or until > now else "ended"

    @admin.action(description="End now: a customer's own gives way to everybody's, everybody's leaves none")
    def end(self, request: HttpRequest, queryset: QuerySet[Rate]) -> None:
        self.each(request, "Ended", queryset, lambda rate: prices.end_price(rate=rate, **by(request)))

    @admin.action(description="Withdraw: it has not begun and never will")
    def withdraw(self, request: HttpRequest, queryset: QuerySet[Rate]) -> None:
        self.each(request, "Withdrawn", queryset, lambda rate: prices.withdraw_price(rate=rate, **by(request)))
