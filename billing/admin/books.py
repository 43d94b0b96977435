"""Money: read-only, but for grants, which are given here and posted by the ledger."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest

from billing import ledger
from billing.admin.pages import Bounded, NanosField, Written, money_of
from billing.models import Grant, LedgerAccount, Posting, PostingLine
from keys.admin import Form, Page, ReadOnly, Tabular, by


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnly, Page):
    list_display = ("brand", "kind", "organization", "balance", "changes")
    list_filter = ("kind", "brand")
    list_select_related = ("brand", "organization")
    search_fields = ("organization__name", "organization__public_id", "organization__slug")
    fields = ("brand", "organization", "kind", "balance", "balance_nanos", "changes")
    readonly_fields = fields
    ordering = ("brand", "kind", "organization")

    @admin.display(description="Balance", ordering="balance_nanos")
    def balance(self, account: LedgerAccount) -> str:
        return money_of(account.balance_nanos, account.brand.currency)


class _Lines(ReadOnly, Tabular):
    model = PostingLine
    extra = 0
    fields = ("account", "amount", "amount_nanos")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[PostingLine]:
        return super().get_queryset(request).select_related("account__brand", "account__organization")

    @admin.display(description="Amount")
    def amount(self, line: PostingLine) -> str:
        return money_of(line.amount_nanos, line.account.brand.currency)


@admin.register(Posting)
class PostingAdmin(ReadOnly, Page):
    """A correction is another posting; these are never changed."""

    paginator = Bounded
    sortable_by = ()  # no index would bear it
    list_display = ("posted_at", "kind", "organization", "to_customer", "memo", "reference")
    list_filter = ("kind", "brand")
    list_select_related = ("brand", "organization")
    search_fields = ("=reference", "=organization__public_id")
    search_help_text = "A reference or an organization's id (org_…), whole"
    inlines = (_Lines,)
    fields = ("posted_at", "brand", "organization", "kind", "reference", "memo", "actor_id")
    ordering = ("-id",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Posting]:
        return super().get_queryset(request).prefetch_related("lines__account")

    @admin.display(description="To the customer")
    def to_customer(self, posting: Posting) -> str:
        """What the wallet gained."""
        wallets = (line for line in posting.lines.all() if line.account.kind == LedgerAccount.Kind.WALLET)
        return money_of(sum(line.amount_nanos for line in wallets), posting.brand.currency)


class GrantForm(Form):
    amount = NanosField(help_text='In units of the brand\'s currency, e.g. "10.00"')
    reference = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)  # sending a form twice gives once

    class Meta:
        model = Grant
        fields = ("organization", "kind", "amount", "reason", "reference")

    def clean_amount(self) -> int:
        amount: int = self.cleaned_data["amount"]
        if amount <= 0:
            raise ValidationError("More than nothing.")
        return amount


@admin.register(Grant)
class GrantAdmin(ReadOnly, Written):
    form = GrantForm
    list_display = ("created_at", "organization", "credit", "kind", "reason", "expires_at")
    list_filter = ("kind", "organization__brand")
    list_select_related = ("organization__brand",)
    search_fields = ("organization__name", "organization__public_id", "reason")
    autocomplete_fields = ("organization",)
    ordering = ("-id",)
    shown = ("organization", "kind", "credit", "reason", "posting", "created_at", "expires_at")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("billing.add_grant")

    def get_fields(self, request: HttpRequest, obj: Grant | None = None) -> Any:
        return self.shown if obj else ("organization", "kind", "amount", "reason", "reference")

    def get_readonly_fields(self, request: HttpRequest, obj: Grant | None = None) -> tuple[str, ...]:
        return self.shown if obj else ()

    def save_model(self, request: HttpRequest, obj: Grant, form: ModelForm[Grant], change: bool) -> None:
        given = form.cleaned_data
        try:
            made = ledger.grant(
                organization=given["organization"],
                amount_nanos=given["amount"],
                kind=given["kind"],
                reason=given["reason"],
                reference=f"grant:{given['reference']}",
                **by(request),
            )
        except ledger.PostingConflict as error:
            raise ValidationError(str(error)) from None
        obj.pk, obj.amount_nanos = made.pk, made.amount_nanos

    @admin.display(description="Credit", ordering="amount_nanos")
    def credit(self, grant: Grant) -> str:
        return money_of(grant.amount_nanos, grant.organization.brand.currency)
