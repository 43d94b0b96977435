"""For operators: a brand's ladder on one page, each limit's amount beside those of the other tiers. What was changed is
looked at over the last days first, whom it had met; then one button sets it, all or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from billing import ladder as tiers
from billing import limit_preview
from billing.admin.ladder import amount_read, amount_said
from billing.choices import reach
from billing.limit_preview import Effect
from billing.models import Tier, TierLimit
from keys import staff
from keys.admin import by
from keys.models import Brand
from portal.price_forms import mark

DAYS = 30


class AmountForm(forms.Form):
    amount = forms.CharField(max_length=24, widget=forms.TextInput(attrs={"size": 12, "inputmode": "decimal"}))

    seen = forms.CharField(widget=forms.HiddenInput)
    """What held when the page was shown."""

    def __init__(self, limit: TierLimit, data: Any) -> None:
        prefix, seen = f"l{limit.pk}", str(limit.amount)
        self.is_overtaken = data is not None and data.get(f"{prefix}-seen") != seen
        """Somebody else changed it since: what holds now is shown, and nothing is set."""
        initial = {"amount": amount_said(limit), "seen": seen}
        super().__init__(None if self.is_overtaken else data, prefix=prefix, initial=initial)
        self.limit = limit
        where = reach(limit.unit, limit.window, limit.scope)
        self.label = f"{limit.get_unit_display()} {where}"
        self.fields["amount"].widget.attrs["aria-label"] = f"{limit.tier.name}: {self.label}"

    def clean_amount(self) -> int:
        return amount_read(self.cleaned_data["amount"], self.limit.unit)

    @property
    def differs(self) -> bool:
        return bool(self.cleaned_data["amount"] != self.limit.amount)


@dataclass(frozen=True, slots=True)
class Changed:
    form: AmountForm
    before: str
    after: str
    effect: Effect


@require_http_methods(["GET", "HEAD", "POST"])
def ladder(request: HttpRequest) -> HttpResponse:
    brands = list(staff.brands_of(request.user).filter(tiers__isnull=False).distinct())
    if not request.user.has_perm("billing.view_tier") or not brands:
        raise PermissionDenied
    brand = next((brand for brand in brands if brand.slug == request.GET.get("brand", "")), brands[0])
    managed = staff.brand_ids(request.user, to_change=True)
    if request.method == "POST" and managed is not None and brand.pk not in managed:
        raise PermissionDenied
    rungs = _rungs(brand, request.POST or None)
    amounts = [form for _, forms_ in rungs for form in forms_]
    context: dict[str, Any] = {}
    if request.method == "POST":
        given, overtaken = [form for form in amounts if form.is_bound], [form for form in amounts if form.is_overtaken]
        changed = [form for form in given if form.is_valid() and form.differs]
        if all(form.is_valid() for form in given):
            looked_at = mark([(form.limit.pk, form.cleaned_data["amount"]) for form in changed])
            ready = request.POST.get("previewed") == looked_at and not overtaken
            if changed and ready and request.POST.get("act") == "set" and _set(request, changed):
                return redirect(f"{reverse('admin:ladder')}?brand={brand.slug}")
            context = {"changed": [_looked_at(form) for form in changed], "unchanged": not changed and not overtaken}
            context |= {"previewed": looked_at, "again": request.POST.get("act") == "set" and not ready}
        context["overtaken"] = overtaken
    context |= {
        **admin.site.each_context(request),
        "title": "Ladder",
        "brands": brands,
        "brand": brand,
        "currency": brand.currency,
        "rungs": rungs,
        "may_change": managed is None or brand.pk in managed,
        "days": DAYS,
    }
    return render(request, "admin/ladder.html", context)


def _rungs(brand: Brand, data: Any) -> list[tuple[Tier, list[AmountForm]]]:
    rows = Tier.objects.filter(brand=brand).select_related("brand").prefetch_related("limits__model", "limits__tier")
    found = rows.annotate(standing=Count("assignments", distinct=True)).order_by("rank")
    return [
        (tier, [AmountForm(limit, data) for limit in sorted(tier.limits.all(), key=lambda limit: limit.pk)])
        for tier in found
    ]


def _looked_at(form: AmountForm) -> Changed:
    limit, amount = form.limit, form.cleaned_data["amount"]
    after = TierLimit(unit=limit.unit, amount=amount)
    effect = limit_preview.effect(limit, amount, days=DAYS, now=timezone.now())
    return Changed(form, amount_said(limit), amount_said(after), effect)


def _set(request: HttpRequest, changed: list[AmountForm]) -> bool:
    try:
        with transaction.atomic():
            for form in changed:
                form.limit.amount = form.cleaned_data["amount"]
                tiers.save_limit(form.limit, **by(request))
    except ValidationError as error:
        messages.error(request, f"Nothing is changed. {' '.join(error.messages)}")
        return False
    said = ", ".join(f"{form.limit.tier.name}: {form.label.lower()}" for form in changed)
    messages.success(request, f"In force on the next request: {said}.")
    return True
