"""Everybody's prices that are to begin, and those that did."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import QuerySet

from billing import prices
from billing.models import Model, Rate
from portal.docs.surface import Surface
from portal.docs.tables import Cell, Table, code
from portal.templatetags.portal import clock

ROWS_MAX = 100
HISTORY = timedelta(days=365)


def prices_to_come(surface: Surface) -> Table:
    rates = _public(surface).filter(effective_from__gt=surface.now).exclude(model__state=Model.State.RETIRED)
    return _table(surface, "From", rates.order_by("effective_from", "model__slug", "pk"))


def price_history(surface: Surface) -> Table:
    """Newest first, each model's first price too."""
    rates = _public(surface).filter(effective_from__lte=surface.now, effective_from__gt=surface.now - HISTORY)
    return _table(surface, "Since", rates.order_by("-effective_from", "model__slug", "-pk"))


def _public(surface: Surface) -> QuerySet[Rate]:
    return Rate.objects.filter(model__brand=surface.brand, organization=None).select_related("model__brand")


def _table(surface: Surface, when: str, rates: QuerySet[Rate]) -> Table:
    zone = surface.brand.timezone
    rows = [
        (
            code(rate.model.slug),
            Cell(clock(rate.effective_from.isoformat(), zone)),
            Cell(prices.described(rate)),
        )
        for rate in rates[:ROWS_MAX]
    ]
    return Table(("Model", when, "Price"), rows)
