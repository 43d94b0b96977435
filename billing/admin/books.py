"""Money: read-only, but for grants, which are given here and posted by the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing import ledger
from billing.admin.pages import Bounded, NanosField, Written, money_of
from billing.models import Grant, GrantEnd, LedgerAccount, LedgerSeal, Posting, PostingLine, WalletMark
from keys.admin import Form, Page, ReadOnly, Tabular, by


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnly, Page):
    brand_path = "brand"
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
    brand_path = "posting__brand"
    model = PostingLine
    extra = 0
    fields = ("account", "amount", "amount_nanos")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[PostingLine]:
        return super().get_queryset(request).select_related("account__brand", "account__organization")

    @admin.display(description="Amount")
    def amount(self, line: PostingLine) -> str:
        return money_of(line.amount_nanos, line.account.brand.currency)


class AdjustmentForm(Form):
    """A new entry. What is there is never changed."""

    kind = forms.ChoiceField(choices=[("adjustment", "Adjustment"), ("refund", "Refund: the money was paid back")])
    takes = forms.TypedChoiceField(
        label="Does", choices=[("1", "Take from the balance"), ("", "Add to the balance")], coerce=bool, required=False
    )
    amount = NanosField(help_text='In units of the brand\'s currency, e.g. "10.00"')
    memo = forms.CharField(label="Reason", max_length=200, help_text="Shown to the customer")
    reference = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)

    class Meta:
        model = Posting
        fields = ("organization", "kind", "memo")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "organization" in self.fields:  # of a posting that is there already it is shown
            self.fields["organization"].required = True

    def clean_amount(self) -> int:
        return _more_than_nothing(self.cleaned_data["amount"])

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("kind") == Posting.Kind.REFUND and not cleaned.get("takes"):
            self.add_error("takes", "A refund is taken from the balance.")
        return cleaned

    def _post_clean(self) -> None:
        """The writer makes the row; a posting without its brand would not pass as one."""


@admin.register(Posting)
class PostingAdmin(ReadOnly, Written):
    """A correction is another posting; these are never changed. What is added here is an adjustment."""

    brand_path = "brand"
    form = AdjustmentForm
    autocomplete_fields = ("organization",)
    paginator = Bounded
    sortable_by = ()  # no index would bear it
    list_display = ("posted_at", "kind", "organization", "to_customer", "memo", "reference")
    list_filter = ("kind", "brand")
    list_select_related = ("brand", "organization")
    search_fields = ("=reference", "=organization__public_id")
    search_help_text = "A reference or an organization's id (org_…), whole"
    shown = ("posted_at", "brand", "organization", "kind", "reference", "memo", "actor_id")
    ordering = ("-id",)

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("billing.add_posting")

    def get_fields(self, request: HttpRequest, obj: Posting | None = None) -> Any:
        return self.shown if obj else ("organization", "kind", "takes", "amount", "memo", "reference")

    def get_readonly_fields(self, request: HttpRequest, obj: Posting | None = None) -> tuple[str, ...]:
        return self.shown if obj else ()

    def get_inlines(self, request: HttpRequest, obj: Posting | None) -> Any:
        return (_Lines,) if obj else ()

    def save_model(self, request: HttpRequest, obj: Posting, form: ModelForm[Posting], change: bool) -> None:
        given = form.cleaned_data
        try:
            posted = ledger.adjust(
                organization=given["organization"],
                amount_nanos=-given["amount"] if given["takes"] else given["amount"],
                kind=given["kind"],
                reason=given["memo"],
                reference=f"{given['kind']}:{given['reference']}",
                **by(request),
            )
        except ledger.PostingConflict as error:
            raise ValidationError(str(error)) from None
        obj.pk, obj.reference = posted.posting.pk, posted.posting.reference

    def get_queryset(self, request: HttpRequest) -> QuerySet[Posting]:
        return super().get_queryset(request).prefetch_related("lines__account")

    @admin.display(description="To the customer")
    def to_customer(self, posting: Posting) -> str:
        """What the wallet gained."""
        wallets = (line for line in posting.lines.all() if line.account.kind == LedgerAccount.Kind.WALLET)
        return money_of(sum(line.amount_nanos for line in wallets), posting.brand.currency)


def _more_than_nothing(nanos: int) -> int:
    if nanos <= 0:
        raise ValidationError("More than nothing.")
    return nanos


class GrantForm(Form):
    amount = NanosField(help_text='In units of the brand\'s currency, e.g. "10.00"')
    payment = forms.CharField(
        required=False,
        max_length=60,
        label="Bank reference",
        help_text="Of paid credit: the transfer's own reference. Recording one transfer twice credits it once",
    )
    reference = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)  # sending a form twice gives once

    class Meta:
        model = Grant
        fields = ("organization", "kind", "amount", "reason", "expires_at", "priority", "reference")

    def clean_expires_at(self) -> datetime | None:
        moment: datetime | None = self.cleaned_data["expires_at"]
        if moment is not None and moment <= timezone.now():
            raise ValidationError("Credit that has expired already helps nobody.")
        return moment

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("payment") and cleaned.get("kind") != Grant.Kind.PAID:
            self.add_error("payment", "A bank transfer is paid credit.")
        if cleaned.get("payment") and cleaned.get("organization"):
            booked = Grant.objects.filter(posting__reference=self.booked_as()).select_related("organization").first()
            if booked is not None:
                said = f"Recorded already: {booked}, {booked.created_at:%Y-%m-%d %H:%M} UTC. Nothing is credited again."
                self.add_error("payment", said)
        return cleaned

    def booked_as(self) -> str:
        given = self.cleaned_data
        if given["payment"]:
            return ledger.bank_reference(given["organization"].brand_id, given["payment"])
        return f"grant:{given['reference']}"

    def clean_amount(self) -> int:
        return _more_than_nothing(self.cleaned_data["amount"])


@admin.register(Grant)
class GrantAdmin(ReadOnly, Written):
    brand_path = "organization__brand"
    form = GrantForm
    list_display = ("created_at", "organization", "credit", "kind", "reason", "expires_at")
    list_filter = ("kind", "organization__brand")
    list_select_related = ("organization__brand",)
    search_fields = ("organization__name", "organization__public_id", "reason")
    autocomplete_fields = ("organization",)
    ordering = ("-id",)
    shown = ("organization", "kind", "credit", "reason", "posting", "created_at", "expires_at", "priority")
    given = ("organization", "kind", "amount", "reason", "payment", "expires_at", "priority", "reference")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.has_perm("billing.add_grant")

    def get_fields(self, request: HttpRequest, obj: Grant | None = None) -> Any:
        return self.shown if obj else self.given

    def get_readonly_fields(self, request: HttpRequest, obj: Grant | None = None) -> tuple[str, ...]:
        return self.shown if obj else ()

    def save_model(self, request: HttpRequest, obj: Grant, form: ModelForm[Grant], change: bool) -> None:
        assert isinstance(form, GrantForm)
        given = form.cleaned_data
        try:
            made = ledger.grant(
                organization=given["organization"],
                amount_nanos=given["amount"],
                kind=given["kind"],
                reason=given["reason"],
                reference=form.booked_as(),
                expires_at=given["expires_at"],
                priority=given["priority"],
                **by(request),
            )
        except ledger.PostingConflict as error:
            raise ValidationError(str(error)) from None
        obj.pk, obj.amount_nanos = made.pk, made.amount_nanos

    @admin.display(description="Credit", ordering="amount_nanos")
    def credit(self, grant: Grant) -> str:
        return money_of(grant.amount_nanos, grant.organization.brand.currency)


@admin.register(GrantEnd)
class GrantEndAdmin(ReadOnly, Page):
    brand_path = "grant__organization__brand"
    list_display = ("at", "grant")
    list_select_related = ("grant__organization",)
    fields = ("grant", "at")
    readonly_fields = fields
    ordering = ("-at",)


@admin.register(WalletMark)
class WalletMarkAdmin(ReadOnly, Page):
    """A cache: how far a long wallet was read, and what was left of its grants there."""

    brand_path = "organization__brand"
    list_display = ("organization", "posting_id", "left", "loose_nanos", "debt_nanos")
    list_select_related = ("organization",)
    search_fields = ("=organization__public_id",)
    fields = list_display
    readonly_fields = fields
    ordering = ("-posting_id",)


@admin.register(LedgerSeal)
class LedgerSealAdmin(ReadOnly, Page):
    """What `manage.py verify_ledger` compares the books with."""

    brand_path = "brand"
    list_display = ("day", "brand", "number", "postings", "digest", "sealed_at")
    list_filter = ("brand",)
    list_select_related = ("brand",)
    search_fields = ("=digest",)
    fields = ("brand", "number", "day", "since", "until", "postings", "digest", "pepper_version", "sealed_at")
    readonly_fields = fields
    ordering = ("-until", "brand")
