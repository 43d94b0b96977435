"""The canary's account at each brand: an organization without members, on the brand's highest tier, whose rates are
free. Made when it is missing, put right when a brand's ladder or catalogue changed.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from itertools import count

from django.conf import settings

from billing import ladder, prices
from billing.models import Model, Rate, Tier
from keys import issuing, organizations, tokens
from keys.models import Brand, Organization

SLUG = "_canary"
"""No name that people give an account becomes this slug: slugs made from names begin with a letter or digit."""
ACTOR = "canary"


def ids(brand: Brand | None = None) -> list[int]:
    """The house's own organizations: what pages about customers leave out."""
    found = Organization.objects.filter(slug=SLUG)
    return list((found.filter(brand=brand) if brand else found).values_list("pk", flat=True))


def key_for(brand: Brand, models: list[Model], now: datetime) -> str:
    """A key of the brand that may ask all of `models` for nothing."""
    organization = Organization.objects.filter(brand=brand, slug=SLUG).first()
    if organization is None:
        organization = organizations.create(brand=brand, name="Canary", slug=SLUG, actor=ACTOR)
    highest = Tier.objects.filter(brand=brand).order_by("-rank").first()
    if highest is not None:
        ladder.assign(organization=organization, tier=highest, reason="canary", actor=ACTOR)
    _make_free(organization, models, now)
    return _secret(organization)


def _make_free(organization: Organization, models: list[Model], now: datetime) -> None:
    own = Rate.objects.filter(organization=organization)
    known = set(prices.in_force(own, now).values_list("model_id", flat=True))
    for model in models:
        if model.pk not in known:
            prices.set_price(model=model, organization=organization, is_free=True, actor=ACTOR)


def _secret(organization: Organization) -> str:
    """Derived from the installation's secret, so that it is kept nowhere; a revoked or expired one gets a successor."""
    brand = organization.brand
    for generation in count():
        purpose = f"canary:{brand.slug}:{generation}".encode()
        randomness = hmac.digest(settings.SECRET_KEY.encode(), purpose, hashlib.sha256)[: tokens.RANDOM_BYTES]
        secret = tokens.mint(brand.key_prefix, randomness)
        key = issuing.existing(secret)
        if key is None:
            return issuing.issue(organization=organization, name="Canary", actor=ACTOR, secret=secret).secret
        if key.revoked_at is None and key.expires_at is None:
            return secret
    raise AssertionError("count() never ends")
