"""Payments: what was asked of Stripe, what became of it, and what it told. Read-only, but for payments that were not
what was asked for, about which a person decides. No page shows a secret."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing import odd_payments, stripe_events, stripe_gateway, top_ups
from billing.admin.pages import Bounded, NanosField, Written, money_of
from billing.payment_models import AutoTopUp, Reversal, StripeAccount, StripeCustomer, StripeEvent, TopUp
from keys.admin import Form, Page, ReadOnly, by


@admin.register(StripeAccount)
class StripeAccountAdmin(ReadOnly, Page):
    """Connected by manage.py stripe_account, which reads secrets where nobody looks over a shoulder."""

    brand_path = "brand"
    list_display = ("brand", "stripe_id", "is_active", "livemode", "automatic_tax", "events_seen_until")
    list_filter = ("is_active", "livemode")
    list_select_related = ("brand",)
    fields = (
        "brand",
        "public_id",
        "stripe_id",
        "is_active",
        "livemode",
        "automatic_tax",
        "api_base",
        "created_at",
    )
    ordering = ("brand", "-pk")


class OddPaymentForm(Form):
    decision = forms.ChoiceField(choices=[("", "—"), *TopUp.Decision.choices])
    credit = NanosField(required=False, help_text='Without tax, in units of the currency, e.g. "10.00"')
    reason = forms.CharField(max_length=200, help_text="For the trail; of a credit, the customer sees it")

    class Meta:
        model = TopUp
        fields = ("decision",)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("decision") == TopUp.Decision.CREDITED and not cleaned.get("credit"):
            self.add_error("credit", "How much of it?")
        return cleaned

    def _post_clean(self) -> None:
        """The writer makes the row say what was decided."""


class Odd(admin.SimpleListFilter):
    title, parameter_name = "to decide", "odd"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "Paid otherwise than asked for")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[TopUp]) -> QuerySet[TopUp]:
        if self.value() != "1":
            return queryset
        return queryset.filter(failure__startswith=top_ups.ODD).exclude(state=TopUp.State.PAID)


@admin.register(TopUp)
class TopUpAdmin(ReadOnly, Written):
    """Where a payment is not what was asked for, whoever may add postings decides about it."""

    brand_path = "organization__brand"
    form = OddPaymentForm
    paginator = Bounded
    list_display = ("created_at", "organization", "kind", "state", "asked", "failure", "payment_intent")
    list_filter = (Odd, "state", "kind", "account")
    list_select_related = ("organization__brand", "account__brand")
    search_fields = ("=public_id", "=payment_intent", "=session_id", "=organization__public_id")
    fields = (
        *("public_id", "account", "organization", "kind", "state", "asked", "tax_units", "paid_units"),
        *("credited_nanos", "failure", "session_id", "payment_intent", "posting", "actor", "address", "created_at"),
        *("ended_at", "next_look_at", "decision"),
    )
    decided = ("decision", "credit", "reason")
    ordering = ("-pk",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        may = request.user.has_perm("billing.add_posting")
        return may and isinstance(obj, TopUp) and odd_payments.is_odd(obj)

    def get_fields(self, request: HttpRequest, obj: TopUp | None = None) -> Any:
        return (*self.fields[:-1], *self.decided) if self.has_change_permission(request, obj) else self.fields

    def get_readonly_fields(self, request: HttpRequest, obj: TopUp | None = None) -> Any:
        return self.fields[:-1] if self.has_change_permission(request, obj) else self.fields

    def save_model(self, request: HttpRequest, obj: TopUp, form: ModelForm[TopUp], change: bool) -> None:
        given = form.cleaned_data
        obj.refresh_from_db()
        try:
            if given["decision"] == TopUp.Decision.CREDITED:
                odd_payments.credit(top_up=obj, amount_nanos=given["credit"], reason=given["reason"], **by(request))
            else:
                odd_payments.give_back(top_up=obj, reason=given["reason"], **by(request))
        except odd_payments.NotDecided as error:
            raise ValidationError(str(error)) from error
        except stripe_gateway.Unknown as error:
            raise ValidationError(f"Stripe did not answer; do the same again. ({error})") from error

    @admin.display(description="Asked for")
    def asked(self, row: Model) -> str:
        assert isinstance(row, TopUp)
        return money_of(row.amount_nanos, row.currency)


@admin.register(Reversal)
class ReversalAdmin(ReadOnly, Page):
    brand_path = "top_up__organization__brand"
    list_display = ("created_at", "top_up", "kind", "units", "nanos", "stripe_id", "refused")
    list_filter = ("kind",)
    list_select_related = ("top_up",)
    search_fields = ("=stripe_id", "=top_up__public_id")
    fields = (
        *("top_up", "kind", "stripe_id", "units", "nanos", "posting", "returned"),
        *("reason", "actor", "refused", "created_at"),
    )
    ordering = ("-pk",)


@admin.register(AutoTopUp)
class AutoTopUpAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "is_on", "failures", "not_before", "stopped_because")
    list_filter = ("is_on",)
    list_select_related = ("organization__brand",)
    search_fields = ("=organization__public_id", "organization__name")
    ordering = ("-updated_at",)


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnly, Page):
    brand_path = "account__brand"
    paginator = Bounded
    list_display = ("received_at", "account", "kind", "source", "tries", "due_at", "error")
    list_filter = ("source", "kind")
    list_select_related = ("account__brand",)
    search_fields = ("=event_id",)
    ordering = ("-pk",)
    actions = ("try_again",)

    @admin.action(description="Work on it again now", permissions=["view"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[StripeEvent]) -> None:
        due = stripe_events.try_again(queryset.values_list("pk", flat=True), timezone.now())
        self.message_user(request, f"Due now: {due}. Those of kinds that nothing is done about stay.", messages.SUCCESS)


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("organization", "account", "customer_id", "card_brand", "card_last4", "card_expires")
    list_select_related = ("organization__brand", "account__brand")
    search_fields = ("=customer_id", "=organization__public_id")
    ordering = ("-pk",)
