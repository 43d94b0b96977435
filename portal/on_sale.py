"""What a brand sells, to whom, and for how much."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Prefetch, Q

from billing import prices
from billing.models import Model, Rate, Tier
from keys.models import Brand, Organization


def price_list(brand: Brand, now: datetime, organization: Organization | None = None) -> list[Model]:
    """What the brand sells, each with `current_rates`: first the price in force that everybody pays, or that
    `organization` does, whose own goes before."""
    whose = Q(organization=None) | Q(organization=organization) if organization else Q(organization=None)
    rates = prices.in_force(Rate.objects.filter(whose), now).order_by("organization_id")  # everybody's (NULL) last
    models = Model.objects.filter(brand=brand).exclude(state=Model.State.RETIRED).order_by("position", "slug")
    return list(models.prefetch_related(Prefetch("rates", queryset=rates, to_attr="current_rates")))


def is_unlocked(model: Model, tier: Tier | None) -> bool:
    return tier is None or tier.model_slugs is None or model.slug in tier.model_slugs
