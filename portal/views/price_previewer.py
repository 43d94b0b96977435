"""For operators: what the last days had brought in at other prices, before they go live. Reads only."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from billing import price_preview
from billing.price_preview import DAYS_MAX
from keys import staff
from keys.models import Brand
from portal import proposed_book
from portal.proposed_book import Book, BookWrong

BOOK_CHARS_MAX = 50_000


class PreviewForm(forms.Form):
    brand = forms.ModelChoiceField(Brand.objects.none(), to_field_name="slug", empty_label=None)
    days = forms.IntegerField(min_value=1, max_value=DAYS_MAX, initial=30, help_text=f"Days back, at most {DAYS_MAX}")
    book = forms.CharField(
        required=False,
        max_length=BOOK_CHARS_MAX,
        widget=forms.Textarea(attrs={"rows": 16, "cols": 90, "spellcheck": "false"}),
        help_text='JSON: {"MODEL": {"input": "0.25", "output": "0.60", …}, …}, per million tokens; also cache_read,'
        ' cache_write, reasoning, request, image; {"free": true}. Empty: the prices that are to begin.',
    )

    def __init__(self, brands: QuerySet[Brand], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast("forms.ModelChoiceField[Brand]", self.fields["brand"]).queryset = brands


@require_http_methods(["GET", "HEAD", "POST"])
def preview_prices(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("billing.view_rate") or not request.user.has_perm("billing.view_usageday"):
        raise PermissionDenied
    known = staff.brands_of(request.user)
    brands = list(known.filter(models__rates__isnull=False).distinct())
    context = {**admin.site.each_context(request), "title": "Preview prices", "brands": brands}
    if request.method != "POST":
        return render(
            request, "admin/preview_prices.html", context | {"form": _offered(known, request.GET.get("brand"))}
        )
    form = PreviewForm(known, request.POST)
    if form.is_valid():
        context |= _result(form)
    return render(request, "admin/preview_prices.html", context | {"form": form})


def _offered(known: QuerySet[Brand], slug: str | None) -> PreviewForm:
    """With the prices in force of the brand that was chosen, to begin from."""
    brand = known.filter(slug=slug or "").first()
    if brand is None:
        return PreviewForm(known)
    book = proposed_book.as_text(proposed_book.in_force(brand, timezone.now()))
    return PreviewForm(known, initial={"brand": brand.slug, "book": book})


def _result(form: PreviewForm) -> dict[str, object]:
    brand, text, now = form.cleaned_data["brand"], form.cleaned_data["book"].strip(), timezone.now()
    try:
        book = proposed_book.book_of(text, brand, is_json=True) if text else Book(price_preview.scheduled(brand, now))
        if not book.rates:
            raise BookWrong("No price is to begin: give some.")
    except BookWrong as error:
        form.add_error("book", str(error))
        return {}
    found = price_preview.preview(brand, book.rates, days=form.cleaned_data["days"], now=now)
    return {
        "found": found,
        "currency": brand.currency,
        "slips": book.slips,
        "unused": price_preview.models_without_use(brand, book.rates, found),
        "exact": proposed_book.EXACT,
    }
