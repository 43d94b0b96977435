"""For operators: a brand's prices side by side. What was changed is charged to the last days on paper first; then one
button sets it, now or from a moment on. All of it or nothing."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from billing import price_preview, prices
from billing.models import Model, Rate
from billing.prices import Terms, Unconfirmed
from keys import staff
from keys.admin import by
from keys.models import Brand
from portal import proposed_book
from portal.price_forms import APART, TOKENS, BeginForm, PriceRow, mark
from portal.proposed_book import Book

DAYS = 30


@require_http_methods(["GET", "HEAD", "POST"])
def price_book(request: HttpRequest) -> HttpResponse:
    brands = list(staff.brands_of(request.user).filter(models__isnull=False).distinct())
    if not request.user.has_perm("billing.view_rate") or not brands:
        raise PermissionDenied
    wanted = request.GET.get("brand", "")
    brand = next((brand for brand in brands if brand.slug == wanted), brands[0])
    managed = staff.brand_ids(request.user, to_change=True)
    if request.method == "POST" and managed is not None and brand.pk not in managed:
        raise PermissionDenied
    now = timezone.now()
    rows = _rows(brand, request.POST or None)
    begin = BeginForm(request.POST or None)
    context: dict[str, Any] = {}
    if request.method == "POST" and begin.is_valid():
        changed, overtaken = _changed(rows), [row for row in rows if row.is_overtaken]
        if not any(row.errors for row in rows):
            looked_at = mark([changed, begin.cleaned_data["begins"]])
            ready = request.POST.get("previewed") == looked_at and not overtaken
            if ready and request.POST.get("act") == "set" and _set(request, rows, changed, begin):
                return redirect(f"{reverse('admin:price_book')}?brand={brand.slug}")
            context = _effect(brand, rows, changed) | {"previewed": looked_at}
            context["again"] = request.POST.get("act") == "set" and not ready
        context["overtaken"] = overtaken
    context |= {
        **admin.site.each_context(request),
        "title": "Price book",
        "brands": brands,
        "brand": brand,
        "currency": brand.currency,
        "rows": [(row, row.errors) for row in rows],
        "begin": begin,
        "labels": [*TOKENS.values(), *APART.values()],
        "scheduled": _scheduled(brand, now),
        "own": _own(brand),
        "may_change": managed is None or brand.pk in managed,
        "days": DAYS,
        "exact": proposed_book.EXACT,
    }
    return render(request, "admin/price_book.html", context)


def _rows(brand: Brand, data: Any) -> list[PriceRow]:
    standing = proposed_book.in_force(brand, timezone.now())
    models = Model.objects.filter(brand=brand).exclude(state=Model.State.RETIRED).select_related("brand")
    return [PriceRow(model, standing.get(model.pk), data) for model in models.order_by("position", "slug")]


def _changed(rows: list[PriceRow]) -> dict[int, Terms]:
    """By model. What is wrong with a row stands at it."""
    found: dict[int, Terms] = {}
    for row in rows:
        if not row.is_valid():
            continue
        try:
            terms = row.terms()
            if terms is not None:
                prices.proposed(model=row.model, **terms)
                found[row.model.pk] = terms
        except ValidationError as error:
            row.add_error(None, error.messages)
    return found


def _effect(brand: Brand, rows: list[PriceRow], changed: dict[int, Terms]) -> dict[str, Any]:
    book = Book()
    for row in rows:
        if row.model.pk in changed:
            proposed_book.put(book, row.model, changed[row.model.pk])
    if not book.rates:
        return {"unchanged": True}
    found = price_preview.preview(brand, book.rates, days=DAYS, now=timezone.now())
    return {
        "found": found,
        "slips": book.slips,
        "unused": price_preview.models_without_use(brand, book.rates, found),
        "changes": [
            (row.model, prices.described(row.standing) if row.standing else "none", prices.described(rate))
            for row in rows
            if (rate := book.rates.get(row.model.pk)) is not None
        ],
    }


def _set(request: HttpRequest, rows: list[PriceRow], changed: dict[int, Terms], begin: BeginForm) -> bool:
    given = begin.cleaned_data
    models = {row.model.pk: row.model for row in rows}
    try:
        with transaction.atomic():
            for model_id, terms in changed.items():
                prices.set_price(
                    model=models[model_id],
                    effective_from=given["begins"],
                    confirmed_reason=given["reason"],
                    **by(request),
                    **terms,
                )
    except Unconfirmed:
        begin.add_error("reason", "Some of it looks like a slip, see below: say why it is meant.")
        return False
    except ValidationError as error:
        begin.add_error(None, error.messages)
        return False
    when = f"from {given['begins']:%Y-%m-%d %H:%M} UTC on" if given["begins"] else "from now on"
    names = ", ".join(models[model_id].slug for model_id in changed)
    if changed:
        messages.success(request, f"Set {when}: {names}.")
    return bool(changed)


def _scheduled(brand: Brand, now: Any) -> list[tuple[Rate, str]]:
    rates = Rate.objects.filter(model__brand=brand, effective_from__gt=now).select_related("model__brand")
    rows = rates.select_related("organization", "model__brand").order_by("effective_from", "model__slug")
    return [(rate, prices.described(rate)) for rate in rows]


def _own(brand: Brand) -> int:
    rates = Rate.objects.filter(model__brand=brand, organization__isnull=False)
    return int(prices.in_force(rates).aggregate(n=Count("organization", distinct=True))["n"])
