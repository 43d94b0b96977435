"""A price book to try out, as text: what `manage.py price preview` and the operators' page both read and say."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from django.core.exceptions import ValidationError

from billing import money, prices
from billing.models import Model, Rate
from keys.models import Brand
from portal.brandfile.structure import RatesEntry

EXAMPLE = '[aion-v3]\ninput = "0.25"\noutput = "0.60"'
EXACT = (
    "What was paid is exact, as booked. What would have been paid is exact up to rounding: each call is rounded up to a"
    " nano by itself, which sums cannot repeat; the range says how much that can be. Where a plan included some calls"
    " of a customer and not others, the balance is taken to pay the same part as before; calls that were free are taken"
    " as paid. Calls that broke off before anything was heard count as requests. Credits and limits are not looked at,"
    " nor that people use less of what is dearer."
)
"""In words for people, beside every preview."""


class BookWrong(ValueError):
    """The book cannot be read; the text says which part and why."""


@dataclass(slots=True)
class Book:
    """Everybody's price by model id, unsaved; what looks like a slip, a line each."""

    rates: dict[int, Rate] = field(default_factory=dict)
    slips: list[str] = field(default_factory=list)


def book_of(text: str, brand: Brand, *, is_json: bool) -> Book:
    """A table per model, as `rates` of a brand's file: prices per million tokens as text. Raises BookWrong."""
    try:
        given: Any = json.loads(text) if is_json else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise BookWrong(str(error)) from error
    if not isinstance(given, dict) or not given:
        raise BookWrong(f"a table per model is expected, e.g. {EXAMPLE}")
    models = {model.slug: model for model in Model.objects.filter(brand=brand).select_related("brand")}
    book = Book()
    for slug, said in given.items():
        if slug not in models:
            raise BookWrong(f"{brand.slug} has no model {slug!r}; it has: {', '.join(sorted(models)) or 'none yet'}.")
        try:
            entry = msgspec.convert(said, RatesEntry)
            put(book, models[slug], terms_of(entry))
        except (msgspec.ValidationError, money.AmountInvalid) as error:
            raise BookWrong(f"{slug}: {error}") from error
        except ValidationError as error:
            raise BookWrong(f"{slug}: {' '.join(error.messages)}") from error
    return book


def put(book: Book, model: Model, terms: prices.Terms) -> None:
    """Raises ValidationError."""
    book.rates[model.pk], slips = prices.proposed(model=model, **terms)
    book.slips += [f"{model.slug}: {slip}" for slip in slips]


def terms_of(entry: RatesEntry) -> prices.Terms:
    return prices.Terms(
        is_free=entry.free,
        request_nanos=money.nanos(entry.request or "0"),
        image_nanos=money.nanos(entry.image or "0"),
        credits_per_request=entry.credits_per_request,
        credits_per_1000_tokens=entry.credits_per_1000_tokens,
        per_million={name: getattr(entry, name) for name in prices.PER_MILLION},
    )


def in_force(brand: Brand, now: datetime) -> dict[int, Rate]:
    """Everybody's prices now, by model."""
    rates = Rate.objects.filter(model__brand=brand, organization=None).exclude(model__state=Model.State.RETIRED)
    return {rate.model_id: rate for rate in prices.in_force(rates, now).select_related("model__brand")}


def as_text(rates: Mapping[int, Rate]) -> str:
    """As book_of reads it back, from JSON."""
    return json.dumps({rate.model.slug: _said(rate) for rate in rates.values()}, indent=2)


def _said(rate: Rate) -> dict[str, Any]:
    if rate.is_free:
        return {"free": True}
    picos = {name: getattr(rate, f"{name}_picos") for name in prices.PER_MILLION}
    said = {name: money.price_per_million(value) for name, value in picos.items() if value is not None}
    apart = {"request": rate.request_nanos, "image": rate.image_nanos}
    return said | {name: money.amount(nanos) for name, nanos in apart.items() if nanos}
