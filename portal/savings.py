"""What cache reads spared a customer: the difference to the price of input that no cache had. Sums do not keep prices,
so it is told at the prices in force now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q

from billing import prices
from billing.models import Rate
from billing.pricing import PICOS_PER_NANO
from billing.reports import Usage
from keys.models import Organization


def of_cache_reads(organization: Organization, by_model: Iterable[Usage], now: datetime) -> int:
    """Nanos, of rows that are grouped by model. A model without a price of its own for cache reads saves nothing."""
    read = {row.model_id: row.cache_read_tokens for row in by_model if row.cache_read_tokens}
    rates = Rate.objects.filter(Q(organization=None) | Q(organization=organization), model__in=read)
    spared: dict[int, int] = {}
    for rate in prices.in_force(rates, now).order_by("organization_id"):  # everybody's (NULL) come last
        if rate.input_picos is not None and rate.cache_read_picos is not None:
            spared.setdefault(rate.model_id, rate.input_picos - rate.cache_read_picos)
        else:
            spared.setdefault(rate.model_id, 0)
    return sum(read[model_id] * picos for model_id, picos in spared.items()) // PICOS_PER_NANO
