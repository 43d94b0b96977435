"""Rows → BrandFile → text. Importing the text again changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import tomli_w

from billing import money, prices
from billing.models import Engine, Model, Rate, Tier, TierLimit, Unit, Window
from billing.snapshot import Capabilities
from keys.models import Brand
from portal.brandfile.catalogue import ENGINE_COLUMNS, MODEL_COLUMNS
from portal.brandfile.importing import BRAND_COLUMNS
from portal.brandfile.ladder import TIER_COLUMNS
from portal.brandfile.structure import BrandFile, EngineEntry, LimitEntry, ModelEntry, RatesEntry, Section, TierEntry

HEAD = """\
# {name}: written by `manage.py brand export {slug}`; `manage.py brand import` makes it so again.
# Not in here: engines' keys and headers, customers and their own prices, prices that are to begin later.

"""


def as_text(file: BrandFile) -> str:
    """TOML without what is as it is when left out."""
    return HEAD.format(name=file.name.replace("\n", " "), slug=file.slug) + tomli_w.dumps(_said(file))


def _said(section: Section) -> dict[str, Any]:
    """What is not as it would be if it were left out."""
    said: dict[str, Any] = {}
    for field in msgspec.structs.fields(section):
        value = getattr(section, field.name)
        usual = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if value != usual:
            said[field.name] = _plain(value)
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return _said(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def brand_file(brand: Brand) -> BrandFile:
    """The brand as it stands now."""
    models = Model.objects.filter(brand=brand).order_by("position", "slug").prefetch_related("routes__engine")
    entries = [_model(number, model) for number, model in enumerate(models)]
    used = {name for entry in entries for name in entry.routes}
    tiers = Tier.objects.filter(brand=brand).order_by("rank").prefetch_related("limits__model")
    return BrandFile(
        slug=brand.slug,
        currency=brand.currency,
        sign_up_grant=money.amount(brand.sign_up_grant_nanos),
        engines={engine.name: _engine(engine) for engine in Engine.objects.filter(name__in=used).order_by("name")},
        models=entries,
        tiers=[_tier(number, tier) for number, tier in enumerate(tiers, start=1)],
        **{name: getattr(brand, name) for name in BRAND_COLUMNS},
    )


def _engine(engine: Engine) -> EngineEntry:
    usual = msgspec.to_builtins(Capabilities())
    return EngineEntry(
        only_here=engine.brand_id is not None,
        cost_per_hour=money.amount(engine.cost_per_hour_nanos),
        capabilities={name: value for name, value in engine.capabilities.items() if usual.get(name) != value},
        **{name: getattr(engine, name) for name in ENGINE_COLUMNS},
    )


def _model(number: int, model: Model) -> ModelEntry:
    standing = prices.in_force(Rate.objects.filter(model=model, organization=None)).first()
    return ModelEntry(
        id=model.slug,
        name="" if model.name == model.slug else model.name,
        max_completion_tokens=model.max_completion_tokens,
        default_max_tokens=model.default_max_tokens,
        position=None if model.position == number else model.position,
        rates=_rates(standing) if standing else None,
        routes={route.engine.name: route.name_there for route in model.routes.all()},
        **{name: getattr(model, name) for name in MODEL_COLUMNS},
    )


def _rates(rate: Rate) -> RatesEntry:
    said: dict[str, Any] = {}
    if not rate.is_free:
        given = {name: getattr(rate, f"{name}_picos") for name in prices.PER_MILLION}
        said = {name: money.price_per_million(picos) for name, picos in given.items() if picos is not None}
    return RatesEntry(
        free=rate.is_free,
        request=money.amount(rate.request_nanos),
        image=money.amount(rate.image_nanos),
        credits_per_request=rate.credits_per_request,
        credits_per_1000_tokens=rate.credits_per_1000_tokens,
        **said,
    )


def _tier(number: int, tier: Tier) -> TierEntry:
    price = tier.monthly_price_nanos
    limits = sorted(tier.limits.all(), key=lambda limit: limit.pk)
    return TierEntry(
        slug=tier.slug,
        models=tier.model_slugs,
        monthly_price=None if price is None else money.amount(price),
        rank=None if tier.rank == number else tier.rank,
        limits=[_limit(limit) for limit in limits],
        **{name: getattr(tier, name) for name in TIER_COLUMNS},
    )


def _limit(limit: TierLimit) -> LimitEntry:
    is_usual = limit.unit == Unit.CONCURRENT and limit.window == Window.MINUTE
    return LimitEntry(
        unit=limit.unit,  # type: ignore[arg-type]  # the column's choices are the type's words
        window="" if is_usual else limit.window,  # type: ignore[arg-type]
        scope=limit.scope,  # type: ignore[arg-type]
        model=limit.model.slug if limit.model else "",
        amount=money.amount(limit.amount) if limit.unit == Unit.NANOS else limit.amount,
        is_allotment=limit.is_allotment,
        is_shadow=limit.is_shadow,
    )
