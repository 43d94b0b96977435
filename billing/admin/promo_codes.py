"""Codes that give credit: made here, claimed on customers' balance pages."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.forms import ModelForm
from django.http import HttpRequest

from billing import promo_codes
from billing.admin.pages import NanosField, Written, money_of
from billing.models import PromoClaim, PromoCode
from billing.wallet_models import PromoClaimant
from keys.admin import Form, Kept, Page, ReadOnly, Tabular, by


class _Claims(ReadOnly, Tabular):
    brand_path = "code__brand"
    model = PromoClaim
    extra = 0
    fields = ("at", "organization", "grant")
    readonly_fields = fields


class _Claimants(ReadOnly, Tabular):
    brand_path = "code__brand"
    model = PromoClaimant
    extra = 0
    fields = ("mailbox", "user", "claim")
    readonly_fields = fields


class PromoCodeForm(Form):
    amount_nanos = NanosField(label="Amount", help_text='In units of the brand\'s currency, e.g. "10.00"')

    class Meta:
        model = PromoCode
        fields = ("brand", "code", "amount_nanos", "claims_max", "expires_at", "credit_days", "note")

    def clean_code(self) -> str:
        code = promo_codes.normalised(self.cleaned_data["code"])
        problem = promo_codes.problem(code)
        if problem:
            raise ValidationError(problem)
        return code


@admin.register(PromoCode)
class PromoCodeAdmin(Kept, Written):
    brand_path = "brand"
    form = PromoCodeForm
    inlines = (_Claims, _Claimants)
    list_display = ("code", "brand", "amount", "claimed", "claims_max", "expires_at", "credit_days", "note")
    list_filter = ("brand",)
    list_select_related = ("brand",)
    search_fields = ("code", "note")
    ordering = ("-id",)

    def get_readonly_fields(self, request: HttpRequest, obj: PromoCode | None = None) -> tuple[str, ...]:
        return ("brand", "code") if obj else ()

    def get_inlines(self, request: HttpRequest, obj: PromoCode | None) -> Any:
        return self.inlines if obj else ()

    def save_model(self, request: HttpRequest, obj: PromoCode, form: ModelForm[PromoCode], change: bool) -> None:
        promo_codes.save(obj, **by(request))

    @admin.display(description="Amount", ordering="amount_nanos")
    def amount(self, code: PromoCode) -> str:
        return money_of(code.amount_nanos, code.brand.currency)


@admin.register(PromoClaim)
class PromoClaimAdmin(ReadOnly, Page):
    brand_path = "code__brand"
    list_display = ("at", "code", "organization", "grant")
    list_filter = ("code__brand",)
    list_select_related = ("code", "organization", "grant__organization")
    search_fields = ("code__code", "organization__name", "=organization__public_id")
    fields = ("code", "organization", "grant", "at")
    readonly_fields = fields
    ordering = ("-id",)
