"""What commands are told by name: brands, models, organizations. A wrong name gets the right ones for an answer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db.models import Q
from django.utils import timezone

from billing.models import Model
from keys.models import Brand, Organization


def brand_named(slug: str | None) -> Brand:
    """`slug` None: the default brand, or the only one there is."""
    there = list(Brand.objects.order_by("slug"))
    wanted = slug or settings.DEFAULT_BRAND
    for brand in there:
        if brand.slug == wanted or (slug is None and len(there) == 1):
            return brand
    names = ", ".join(brand.slug for brand in there) or "none yet (manage.py brand new SLUG)"
    raise CommandError(
        f"There is no brand {slug!r}; there are: {names}." if slug else f"Say --brand; there are: {names}."
    )


def organization_named(name: str, brand: Brand) -> Organization:
    try:
        return Organization.objects.get(Q(slug=name) | Q(public_id=name), brand=brand)
    except Organization.DoesNotExist:
        raise CommandError(f"Brand {brand.slug} has no organization {name!r}.") from None


def model_named(slug: str, brand: Brand) -> Model:
    try:
        return Model.objects.get(slug=slug, brand=brand)
    except Model.DoesNotExist:
        names = ", ".join(Model.objects.filter(brand=brand).order_by("slug").values_list("slug", flat=True))
        raise CommandError(f"Brand {brand.slug} has no model {slug!r}; it has: {names or 'none yet'}.") from None


def moment_named(text: str | None, option: str) -> datetime | None:
    """ISO 8601; UTC where no zone is given."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{option}: {text!r} is no ISO 8601 date and time.") from error
    return moment if moment.tzinfo else timezone.make_aware(moment)


def complaint(error: ValidationError) -> CommandError:
    """A refused value, as one line per field."""
    if hasattr(error, "error_dict"):
        lines = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
        return CommandError("; ".join(line.removeprefix("__all__: ") for line in lines))
    return CommandError(" ".join(error.messages))


def prices_of(options: dict[str, Any]) -> dict[str, str | None]:
    """The price options of a command as billing.prices takes them."""
    names = ("input", "output", "cache_read", "cache_write", "reasoning")
    return {name: options.get(f"{name}_price") for name in names}
