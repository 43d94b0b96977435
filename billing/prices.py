"""The only writer of Rate. A price holds from a moment on; the one before it ends there and stays in history.

All writers lock the brand first, so prices are set one after another; the database's exclusion constraint proves that
the periods of one model and customer never overlap, and its trigger that a price which has begun never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from billing import money
from billing.models import Model, Rate
from billing.price_slips import Price, slips
from keys import audit, publication
from keys.audit import Actor
from keys.models import Organization

PER_MILLION = ("input", "output", "cache_read", "cache_write", "reasoning")
AMOUNTS = (*(f"{name}_picos" for name in PER_MILLION), "request_nanos", "image_nanos")
CREDITS = ("credits_per_request", "credits_per_1000_tokens")
CREDITS_MAX = 1_000_000
"""So that what a call takes stays exact in scripts, however long it is."""
SAYS = (*AMOUNTS, *CREDITS, "is_free")
"""What makes two prices the same."""


class Unconfirmed(ValidationError):
    """The price looks like a slip; it is taken once somebody says why it is meant."""


class Terms(TypedDict, total=False):
    """What a price says. `per_million` holds prices per million tokens as text ("0.20") by the names in PER_MILLION;
    input and output are required, except where free is said."""

    is_free: bool
    request_nanos: int
    image_nanos: int
    credits_per_request: int
    credits_per_1000_tokens: int
    per_million: Mapping[str, str | None] | None


def set_price(
    *,
    model: Model,
    actor: Actor,
    organization: Organization | None = None,
    effective_from: datetime | None = None,
    confirmed_reason: str = "",
    address: str | None = None,
    **terms: Unpack[Terms],
) -> Rate:
    """The price of `model` from `effective_from` (now) on, for everybody or for one organization. ValidationError says
    what is wrong; Unconfirmed, that it looks like a slip (price_slips.py) and wants a `confirmed_reason`.

    The price in force then ends at that moment. One that is to begin later stays, and the new one holds until it does.
    Setting from now on what holds already changes nothing.
    """
    rate = _worded(model, organization, _beginning(effective_from), terms)
    with transaction.atomic():
        publication.record(publication.BRAND, model.brand_id)
        rate.effective_from = max(rate.effective_from, timezone.now())  # the lock may have been waited for
        others = Rate.objects.filter(model=model, organization=organization)
        standing = in_force(others, rate.effective_from).first()
        if standing is not None and effective_from is None and _same(standing, rate):
            return standing
        found = _slips(rate)
        if found and not confirmed_reason.strip():
            raise Unconfirmed(found)
        _make_room(rate, others)
        rate.save(force_insert=True)
        audit.note(
            *("price.set", model.slug),
            actor=actor,
            brand=model.brand,
            organization=organization,
            before={} if standing is None else _said(standing),
            after=_said(rate) | ({"confirmed": confirmed_reason.strip(), "slips": found} if found else {}),
            address=address,
        )
    return rate


def is_set(*, model: Model, **terms: Unpack[Terms]) -> bool:
    """Whether this is everybody's price of `model` already. ValidationError as set_price raises it."""
    standing = in_force(Rate.objects.filter(model=model, organization=None)).first()
    return _same(_worded(model, None, timezone.now(), terms), standing) if standing else False


def proposed(*, model: Model, **terms: Unpack[Terms]) -> tuple[Rate, list[str]]:
    """Everybody's price of `model` as it would be, unsaved, and what about it looks like a slip. ValidationError as
    set_price raises it."""
    rate = _worded(model, None, timezone.now(), terms)
    return rate, _slips(rate)


def end_price(*, rate: Rate, actor: Actor, address: str | None = None) -> None:
    """The price in force ends now: a customer's own gives way to everybody's; without everybody's, calls are refused.
    ValidationError when it is not in force."""
    with transaction.atomic():
        row, now = _locked(rate), timezone.now()
        if row.effective_from > now or (row.effective_until is not None and row.effective_until <= now):
            raise ValidationError("This price is not in force.")
        row.effective_until = now
        row.save(update_fields=["effective_until"])
        _note("price.ended", row, actor, address)
    rate.effective_until = row.effective_until


def withdraw_price(*, rate: Rate, actor: Actor, address: str | None = None) -> None:
    """Take back a price that is still to begin; the one before it holds on in its place. ValidationError when it has
    begun: calls are charged by it."""
    with transaction.atomic():
        row, now = _locked(rate), timezone.now()
        if row.effective_from <= now:
            raise ValidationError("This price has begun, so it stays; set another, or end it.")
        _note("price.withdrawn", row, actor, address)
        others = Rate.objects.filter(model=row.model, organization=row.organization)
        begin, end = row.effective_from, row.effective_until
        row.delete()
        others.filter(effective_until=begin).update(effective_until=end)


def described(rate: Rate) -> str:
    """For people: "input 0.20, output 0.40 USD per million tokens; $0.01 per request; 1 credit per request"."""
    credited = [
        f"{amount} credit{'s' if amount > 1 else ''} per {what}"
        for amount, what in ((rate.credits_per_request, "request"), (rate.credits_per_1000_tokens, "1,000 tokens"))
        if amount
    ]
    if rate.is_free:
        return "; ".join(["free", *credited])
    tokens = [
        f"{name.replace('_', ' ')} {money.price_per_million(picos)}"
        for name in PER_MILLION
        if (picos := getattr(rate, f"{name}_picos")) is not None
    ]
    currency = rate.model.brand.currency
    apart = [
        f"{money.display(nanos, currency)} per {name}"
        for name, nanos in (("request", rate.request_nanos), ("image", rate.image_nanos))
        if nanos
    ]
    return "; ".join([f"{', '.join(tokens)} {currency} per million tokens", *apart, *credited])


def in_force(rates: QuerySet[Rate], moment: datetime | None = None) -> QuerySet[Rate]:
    """Those that hold at `moment` (now): at most one per model and customer."""
    at = moment or timezone.now()
    return rates.filter(Q(effective_until=None) | Q(effective_until__gt=at), effective_from__lte=at)


def drafted(
    *,
    model: Model,
    organization: Organization | None,
    is_free: bool,
    per_million: Mapping[str, str | None],
    effective_from: datetime | None = None,
    **more: int,
) -> list[str]:
    """For a form: what would look like a slip. Raises the ValidationError that set_price would, and writes nothing."""
    moment = effective_from or timezone.now()
    fields = {**more, **_picos(per_million, is_free), "is_free": is_free, "effective_from": moment}
    rate = Rate(model=model, organization=organization, **fields)
    _check(rate)
    return _slips(rate)


def _slips(rate: Rate) -> list[str]:
    """Beside the price that it takes the place of: a customer's first own one takes that of everybody's."""
    rates = in_force(Rate.objects.filter(model=rate.model), rate.effective_from)
    own = rates.filter(organization=rate.organization).first()
    return slips(_price(rate), _price(before) if (before := own or rates.filter(organization=None).first()) else None)


def _price(rate: Rate) -> Price:
    return Price(
        is_free=rate.is_free,
        request=rate.request_nanos,
        image=rate.image_nanos,
        **{name: getattr(rate, name) for name in CREDITS},
        sells_output=set(rate.model.features) != {"embeddings"},
        **{name: getattr(rate, f"{name}_picos") for name in PER_MILLION},
    )


def _beginning(effective_from: datetime | None) -> datetime:
    now = timezone.now()
    if effective_from is None:
        return now
    if timezone.is_naive(effective_from):
        raise ValidationError({"effective_from": "Say the time zone."})
    if effective_from < now:
        raise ValidationError({"effective_from": "A price cannot begin in the past: calls have been charged by then."})
    return effective_from


def _worded(model: Model, organization: Organization | None, beginning: datetime, terms: Terms) -> Rate:
    """The terms as an unsaved row. Raises ValidationError."""
    said: dict[str, Any] = dict(terms)
    said.pop("per_million", None)
    picos = _picos(terms.get("per_million") or {}, terms.get("is_free", False))
    rate = Rate(model=model, organization=organization, effective_from=beginning, **said, **picos)
    _check(rate)
    return rate


def _picos(per_million: Mapping[str, str | None], is_free: bool) -> dict[str, int | None]:
    unknown = per_million.keys() - set(PER_MILLION)
    if unknown:
        raise TypeError(f"no such price: {', '.join(sorted(unknown))}")
    wrong: dict[str, str] = {}
    picos: dict[str, int | None] = {}
    for name in PER_MILLION:
        text = per_million.get(name)
        try:
            picos[f"{name}_picos"] = None if text is None else money.picos_per_token(text)
        except money.AmountInvalid as error:
            wrong[f"{name}_picos"] = str(error)
    if wrong:
        raise ValidationError(wrong)
    if is_free:
        free: dict[str, int | None] = {"input_picos": 0, "output_picos": 0}
        return free | {name: value for name, value in picos.items() if value}
    return picos


def _check(rate: Rate) -> None:
    for name in ("request_nanos", "image_nanos", *CREDITS):
        value = getattr(rate, name)
        if type(value) is not int or value < 0:
            raise ValidationError({name: "A whole number from 0 on: money is not rounded here."})
        if name in CREDITS and value > CREDITS_MAX:
            raise ValidationError({name: f"At most {CREDITS_MAX}."})
    priced = any(getattr(rate, name) for name in AMOUNTS)
    if rate.is_free and priced:
        raise ValidationError("A free model has no price.")
    if rate.input_picos is None or rate.output_picos is None:
        raise ValidationError("Give the price of input and of output tokens, or say that the model is free.")
    if not rate.is_free and not priced:
        raise ValidationError("A price of nothing must be said: free.")
    if rate.organization is not None and rate.organization.brand_id != rate.model.brand_id:
        raise ValidationError({"organization": "Not a customer of this model's brand."})
    rate.full_clean()


def _same(one: Rate, other: Rate) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in SAYS)


def _make_room(rate: Rate, others: QuerySet[Rate]) -> None:
    """End the price that holds at the new one's beginning; the new one ends where a later one begins."""
    start = rate.effective_from
    if others.filter(effective_from=start).exists():
        raise ValidationError({"effective_from": "Another price begins at this very moment; withdraw it first."})
    later = others.filter(effective_from__gt=start).order_by("effective_from").first()
    rate.effective_until = later.effective_from if later else None
    others.filter(Q(effective_until=None) | Q(effective_until__gt=start), effective_from__lt=start).update(
        effective_until=start
    )


def _locked(rate: Rate) -> Rate:
    """As it stands behind the brand's lock."""
    publication.record(publication.BRAND, rate.model.brand_id)
    return Rate.objects.select_related("model__brand", "organization").get(pk=rate.pk)


def _note(action: str, rate: Rate, actor: Actor, address: str | None) -> None:
    model = rate.model
    audit.note(
        *(action, model.slug),
        actor=actor,
        brand=model.brand,
        organization=rate.organization,
        before=_said(rate),
        address=address,
    )


def _said(rate: Rate) -> dict[str, Any]:
    said = {name: getattr(rate, name) for name in SAYS if getattr(rate, name)}
    return said | {"is_free": rate.is_free, "effective_from": rate.effective_from.isoformat()}
