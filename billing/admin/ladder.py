"""Tiers with their limits, and who stands where."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from billing import ladder, money, overrides, upgrade_rules
from billing.admin.pages import OptionalNanosField, Written, say
from billing.choices import reach
from billing.limits import AMOUNT_MAX
from billing.models import (
    LimitOverride,
    LimitScope,
    Tier,
    TierAssignment,
    TierChange,
    TierLimit,
    Unit,
    UpgradeNight,
    Window,
)
from keys.admin import Form, Kept, OrganizationAdmin, Page, ReadOnly, Tabular, by
from keys.models import Organization

_WHOLE = re.compile(r"[0-9]{1,24}|[0-9]{1,3}(?:[,_][0-9]{3}){1,7}")
"""Marks stand between thousands only: 1,5 is not fifteen."""


def amount_read(text: str, unit: str) -> int:
    """What a person typed as a limit of that unit. Raises ValidationError."""
    try:
        amount = money.nanos(text) if unit == Unit.NANOS else _whole(text)
    except money.AmountInvalid as error:
        raise ValidationError(str(error)) from error
    if amount > AMOUNT_MAX:
        raise ValidationError(f"{text} is more than a limit may be")
    return amount


class LimitForm(Form):
    amount = forms.CharField(help_text='Spend in currency units ("50.00"), everything else in whole numbers')

    class Meta:
        model = TierLimit
        fields = ("unit", "window", "scope", "model", "amount", "is_allotment", "is_shadow")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["amount"] = amount_said(self.instance)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        text = cleaned.get("amount")
        if text is not None:
            try:
                cleaned["amount"] = amount_read(text, cleaned.get("unit", ""))
            except ValidationError as error:
                self.add_error("amount", error)
        return cleaned


class LimitFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    def clean(self) -> None:
        """What Django says of two equal rows names columns; what is said here names the limit."""
        taken = set()
        for form in self.forms:
            if not form.is_valid() or not form.cleaned_data or form.cleaned_data.get("DELETE"):
                continue
            if form.has_changed():
                say(form, ladder.limit_problems(form.instance, self.instance))
            place = ladder.place_of(form.instance)
            if place in taken:
                form.add_error("unit", ladder.twice(form.instance))
            taken.add(place)


class _Limits(Tabular):
    brand_path = "tier__brand"
    model = TierLimit
    form = LimitForm
    formset = LimitFormSet
    extra = 0


@admin.register(Tier)
class TierAdmin(Kept, Written):
    """Tiers stay: events and changes name them."""

    brand_path = "brand"
    list_display = ("name", "brand", "rank", "slug", "payer", "is_default", "unlocks", "says", "organizations")
    list_filter = ("brand", "payer")
    list_select_related = ("brand",)
    search_fields = ("name", "slug")
    ordering = ("brand", "rank")
    inlines = (_Limits,)
    fields = ("brand", *ladder.TIER_FIELDS, "rule_in_words", "rule_version", "rule_since")

    def get_readonly_fields(self, request: HttpRequest, obj: Tier | None = None) -> tuple[str, ...]:
        return ("rule_in_words", "rule_version", "rule_since", *(("brand",) if obj else ()))

    def get_form(self, request: HttpRequest, obj: Tier | None = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, form=TierForm, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tier]:
        tiers: QuerySet[Tier] = super().get_queryset(request).prefetch_related("limits")
        return tiers.annotate(standing=Count("assignments", distinct=True))

    def save_model(self, request: HttpRequest, obj: Tier, form: ModelForm[Tier], change: bool) -> None:
        ladder.save_tier(obj, **by(request))

    def save_formset(
        self, request: HttpRequest, form: ModelForm[Tier], formset: BaseInlineFormSet[Any, Any, Any], change: bool
    ) -> None:
        changed = formset.save(commit=False)
        for limit in formset.deleted_objects:
            ladder.remove_limit(limit, **by(request))
        for limit in changed:
            limit.tier = form.instance
            ladder.save_limit(limit, **by(request))

    @admin.display(description="The rule in words")
    def rule_in_words(self, tier: Tier) -> str:
        if tier.upgrade_rule is None:
            return "None: this tier is given by hand."
        try:
            words = upgrade_rules.in_words(upgrade_rules.read(tier.upgrade_rule))
        except upgrade_rules.RuleInvalid as error:
            return f"It cannot be read, so nobody moves up by it. {error}"
        return format_html_join(SafeString("<br>"), "{}", ((word,) for word in words))

    @admin.display(description="Models")
    def unlocks(self, tier: Tier) -> str:
        return "all" if tier.model_slugs is None else ", ".join(tier.model_slugs)

    @admin.display(description="Limits")
    def says(self, tier: Tier) -> str:
        return "; ".join(
            f"{amount_said(limit)} {limit.get_unit_display()} {reach(limit.unit, limit.window, limit.scope)}"
            for limit in tier.limits.all()
        )

    @admin.display(description="Organizations", ordering="standing")
    def organizations(self, tier: Tier) -> int:
        return int(getattr(tier, "standing", 0))


class RuleField(forms.JSONField):
    widget = forms.Textarea(attrs={"rows": 9, "cols": 90, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        """Laid out for reading; what somebody typed and got wrong stays as it was typed."""
        return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else value or ""


class TierForm(Form):
    upgrade_rule = RuleField(
        required=False,
        help_text=f"What it takes to rise to this tier from the one below; empty: it is given by hand."
        f" {upgrade_rules.GRAMMAR}. Try one out before it goes live: Simulate tiers.",
    )
    monthly_price_nanos = OptionalNanosField(
        required=False, label="Monthly price", help_text="In currency units; empty where the tier is not sold"
    )

    class Meta:
        model = Tier
        fields = ("brand", *ladder.TIER_FIELDS)
        help_texts = {"model_slugs": "Models unlocked, with commas between; empty: all"}

    def _get_validation_exclusions(self) -> set[str]:
        """A new default takes over from the old one, so that there is one already is no mistake."""
        exclusions: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return exclusions | {"is_default"}

    def clean_model_slugs(self) -> list[str] | None:
        return self.cleaned_data["model_slugs"] or None

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.instance.brand_id is None:
            return
        say(self, ladder.tier_problems(self.instance))
        others = Tier.objects.filter(brand_id=self.instance.brand_id).exclude(pk=self.instance.pk)
        if not self.instance.is_default and not others.filter(is_default=True).exists():
            text = "New organizations start on the default tier: make another tier the default, and it takes over."
            self.add_error("is_default", text)


class StandingForm(Form):
    reason = forms.CharField(max_length=200, help_text="Kept with the change")

    class Meta:
        model = TierAssignment
        fields = ("organization", "tier")

    def clean_tier(self) -> Tier:
        tier: Tier = self.cleaned_data["tier"]
        organization = self.cleaned_data.get("organization") or getattr(self.instance, "organization", None)
        if organization is not None and organization.brand_id != tier.brand_id:
            raise ValidationError("This tier is on another brand's ladder.")
        return tier


@admin.register(TierAssignment)
class TierAssignmentAdmin(Kept, Written):
    brand_path = "organization__brand"
    form = StandingForm
    list_display = ("organization", "tier", "assigned_at")
    list_filter = ("tier__brand", "tier")
    list_select_related = ("organization", "tier")
    search_fields = ("organization__name", "organization__public_id")
    autocomplete_fields = ("organization",)
    fields = ("organization", "tier", "reason")
    ordering = ("-assigned_at",)

    def get_readonly_fields(self, request: HttpRequest, obj: TierAssignment | None = None) -> tuple[str, ...]:
        return ("organization",) if obj else ()

    def save_model(
        self, request: HttpRequest, obj: TierAssignment, form: ModelForm[TierAssignment], change: bool
    ) -> None:
        given = form.cleaned_data
        ladder.assign(organization=obj.organization, tier=given["tier"], reason=given["reason"], **by(request))


@admin.register(TierChange)
class TierChangeAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("at", "organization", "from_tier", "to_tier", "reason", "night", "rule_version", "actor")
    list_filter = ("to_tier__brand",)
    list_select_related = ("organization", "from_tier", "to_tier", "actor")
    search_fields = ("organization__name", "organization__public_id", "reason")
    ordering = ("-at",)


@admin.register(UpgradeNight)
class UpgradeNightAdmin(ReadOnly, Page):
    brand_path = "brand"
    list_display = ("night", "brand", "judged", "moved", "finished_at")
    list_filter = ("brand",)
    list_select_related = ("brand",)
    ordering = ("-night",)


class OverrideForm(Form):
    amount = forms.CharField(help_text='Spend in currency units ("50.00"), everything else in whole numbers')

    class Meta:
        model = LimitOverride
        fields = ("organization", "unit", "window", "scope", "model", "amount", "reason", "expires_at")
        widgets: ClassVar[dict[str, Any]] = {
            "unit": forms.Select(choices=Unit.choices),
            "window": forms.Select(choices=Window.choices),
            "scope": forms.Select(choices=LimitScope.choices),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.initial["amount"] = amount_said(self.instance)

    def clean_amount(self) -> int:
        return amount_read(self.cleaned_data["amount"], self.cleaned_data.get("unit", ""))

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            say(self, overrides.problems(self.instance))


@admin.register(LimitOverride)
class LimitOverrideAdmin(Written):
    """Exceptions for single organizations. To end one now, delete it."""

    brand_path = "organization__brand"
    form = OverrideForm
    autocomplete_fields = ("organization",)
    list_display = ("organization", "unit", "window", "scope", "model", "amount", "expires_at", "reason", "created_by")
    list_filter = ("organization__brand", "unit")
    list_select_related = ("organization", "model", "created_by")
    search_fields = ("organization__name", "organization__public_id", "reason")
    ordering = ("-created_at",)

    def save_model(
        self, request: HttpRequest, obj: LimitOverride, form: ModelForm[LimitOverride], change: bool
    ) -> None:
        if change and not form.has_changed():
            return
        names = ("organization", "unit", "window", "scope", "model", "amount", "reason", "expires_at")
        kept = overrides.put(**{name: getattr(obj, name) for name in names}, **by(request))
        if change and kept.pk != obj.pk:
            overrides.end(LimitOverride.objects.get(pk=obj.pk), **by(request))
        obj.pk = kept.pk

    def delete_model(self, request: HttpRequest, obj: LimitOverride) -> None:
        overrides.end(obj, **by(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[LimitOverride]) -> None:
        for override in queryset:
            overrides.end(override, **by(request))


def amount_said(limit: TierLimit | LimitOverride) -> str:
    return money.decimal(limit.amount, 9, places_min=2) if limit.unit == Unit.NANOS else str(limit.amount)


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text.strip()):
        raise money.AmountInvalid("a limit is a whole number, e.g. 100000 or 100,000")
    return int(text.replace(",", "").replace("_", ""))


@admin.display(description="Tier")
def tier_of(organization: Organization) -> str:
    tier, since = ladder.standing_of(organization)
    if TierAssignment.objects.filter(organization=organization).exists():
        url = reverse("admin:billing_tierassignment_change", args=[organization.pk])
    else:
        url = f"{reverse('admin:billing_tierassignment_add')}?organization={organization.pk}"
    said = "none" if tier is None else tier.name if since is None else f"{tier.name}, since {since:%Y-%m-%d}"
    history = f"{reverse('admin:billing_tierchange_changelist')}?organization__id__exact={organization.pk}"
    return format_html('{} · <a href="{}">set another</a> · <a href="{}">history</a>', said, url, history)


@admin.display(description="Limit overrides")
def overrides_of(organization: Organization) -> str:
    known = LimitOverride.objects.filter(organization=organization).order_by("pk")
    rows = format_html_join(
        "",
        '<li><a href="{}">{} {} {}</a>{}</li>',
        (
            (
                reverse("admin:billing_limitoverride_change", args=[found.pk]),
                amount_said(found),
                Unit(found.unit).label.lower(),
                reach(found.unit, found.window, found.scope),
                "" if found.expires_at is None else f" until {found.expires_at:%Y-%m-%d %H:%M} UTC",
            )
            for found in known
        ),
    )
    url = f"{reverse('admin:billing_limitoverride_add')}?organization={organization.pk}"
    return format_html('<ul>{}</ul><a href="{}">Add one</a>', rows, url)


OrganizationAdmin.more_about += (tier_of, overrides_of)
