"""The only writer of Rate. A price holds from a moment on; the one before it ends there and stays in history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from billing import money
from billing.models import Model, Rate
from keys import audit, publication
from keys.audit import Actor
from keys.models import Organization

PER_MILLION = ("input", "output", "cache_read", "cache_write", "reasoning")


def set_price(
    *,
    model: Model,
    actor: Actor,
    organization: Organization | None = None,
    effective_from: datetime | None = None,
    is_free: bool = False,
    request_nanos: int = 0,
    image_nanos: int = 0,
    credits_per_request: int = 0,
    per_million: Mapping[str, str | None] | None = None,
) -> Rate:
    """The price of `model` from `effective_from` (now) on, for everybody or for one organization. `per_million` holds
    prices per million tokens as text ("0.20") by the names in PER_MILLION; input and output are required, except where
    free is said. ValidationError says what is wrong."""
    now = timezone.now()
    start = effective_from or now
    picos = _picos(per_million or {})
    if is_free:
        picos = {name: value or 0 for name, value in picos.items() if name in ("input", "output") or value}
    rate = Rate(
        model=model,
        organization=organization,
        effective_from=start,
        is_free=is_free,
        request_nanos=request_nanos,
        image_nanos=image_nanos,
        credits_per_request=credits_per_request,
        **{f"{name}_picos": value for name, value in picos.items()},
    )
    _check(rate)
    if effective_from is not None and effective_from < now:
        raise ValidationError({"effective_from": "A price cannot begin in the past: calls have been charged by then."})
    with transaction.atomic():
        publication.record(publication.BRAND, model.brand_id)  # locks the brand: prices are set one after another
        others = Rate.objects.filter(model=model, organization=organization)
        _make_room(rate, others)
        rate.save(force_insert=True)
        audit.note(
            "price.set", model.slug, actor=actor, brand=model.brand, organization=organization, after=_said(rate)
        )
    return rate


def _picos(per_million: Mapping[str, str | None]) -> dict[str, int | None]:
    unknown = per_million.keys() - set(PER_MILLION)
    if unknown:
        raise TypeError(f"no such price: {', '.join(sorted(unknown))}")
    wrong: dict[str, str] = {}
    picos: dict[str, int | None] = {}
    for name in PER_MILLION:
        text = per_million.get(name)
        try:
            picos[name] = None if text is None else money.picos_per_token(text)
        except money.AmountInvalid as error:
            wrong[f"{name}_picos"] = str(error)
    if wrong:
        raise ValidationError(wrong)
    return picos


def _check(rate: Rate) -> None:
    money_names = (*(f"{name}_picos" for name in PER_MILLION), "request_nanos", "image_nanos")
    priced = any(getattr(rate, name) for name in money_names)
    if rate.is_free and priced:
        raise ValidationError("A free model has no price.")
    if rate.input_picos is None or rate.output_picos is None:
        raise ValidationError("Give the price of input and of output tokens, or say that the model is free.")
    if not rate.is_free and not priced:
        raise ValidationError("A price of nothing must be said: free.")
    if rate.organization is not None and rate.organization.brand_id != rate.model.brand_id:
        raise ValidationError({"organization": "Not a customer of this model's brand."})


def _make_room(rate: Rate, others: Any) -> None:
    """End the price that holds at the new one's beginning; the new one ends where a later one begins."""
    start = rate.effective_from
    if others.filter(effective_from=start).exists():
        raise ValidationError({"effective_from": "Another price begins at this very moment."})
    later = others.filter(effective_from__gt=start).order_by("effective_from").first()
    rate.effective_until = later.effective_from if later else None
    others.filter(Q(effective_until=None) | Q(effective_until__gt=start), effective_from__lt=start).update(
        effective_until=start
    )


def _said(rate: Rate) -> dict[str, Any]:
    names = (*(f"{name}_picos" for name in PER_MILLION), "request_nanos", "image_nanos", "credits_per_request")
    said = {name: getattr(rate, name) for name in names if getattr(rate, name)}
    return said | {"is_free": rate.is_free, "effective_from": rate.effective_from.isoformat()}
