"""The engines, models, routes and prices of a brand file, as rows."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.exceptions import ValidationError

from billing import engine_facts, engines, prices
from billing.models import Engine, Model, Rate
from billing.snapshot import Capabilities
from keys.models import Brand
from portal.brandfile.judging import Judge
from portal.brandfile.structure import BrandFile, EngineEntry, ModelEntry, RatesEntry

ENGINE_APART = frozenset({"only_here", "cost_per_hour", "capabilities"})
ENGINE_COLUMNS = tuple(name for name in EngineEntry.__struct_fields__ if name not in ENGINE_APART)
MODEL_APART = frozenset({"id", "name", "max_completion_tokens", "default_max_tokens", "position", "rates", "routes"})
MODEL_COLUMNS = tuple(name for name in ModelEntry.__struct_fields__ if name not in MODEL_APART)
RATE_KEYS = {f"{name}_picos": name for name in prices.PER_MILLION} | {
    "request_nanos": "request",
    "image_nanos": "image",
    "is_free": "free",
}
"""A rate's field → its key in the file."""


def set_engines(file: BrandFile, brand: Brand, standing: dict[str, Engine], judge: Judge) -> dict[str, Engine]:
    """The engines that the file defines, made or changed; all that may be routed to, by name."""
    known = dict(standing)
    for name, entry in file.engines.items():
        path = f"engines.{name}"
        with judge.writing(path, {"brand": "only_here", "cost_per_hour_nanos": "cost_per_hour"}):
            values = _engine_values(entry, brand, path, judge)
            if name in known:
                if judge.changed(f"engine {name}", known[name], values):
                    engines.change(engine=known[name], actor=judge.actor, **values)
            else:
                capabilities = msgspec.convert(values.pop("capabilities"), Capabilities)
                known[name] = engines.register(name=name, capabilities=capabilities, actor=judge.actor, **values)
                judge.changes.append(f"engine {name}: new")
    return known


def _engine_values(entry: EngineEntry, brand: Brand, path: str, judge: Judge) -> dict[str, Any]:
    unknown = sorted(set(entry.capabilities) - set(Capabilities.__struct_fields__))
    if unknown:
        raise ValidationError({f"capabilities.{unknown[0]}": "no such key"})
    try:
        capabilities = msgspec.convert(entry.capabilities, Capabilities)
    except msgspec.ValidationError as error:
        raise ValidationError({"capabilities": str(error)}) from None
    cost_nanos = judge.nanos(f"{path}.cost_per_hour", entry.cost_per_hour)
    return {name: getattr(entry, name) for name in ENGINE_COLUMNS} | {
        "base_url": entry.base_url.rstrip("/"),
        "brand": brand if entry.only_here else None,
        "cost_per_hour_nanos": cost_nanos,
        "cost_currency": brand.currency if cost_nanos else "",
        "capabilities": engines.as_stored(capabilities),
    }


def set_models(file: BrandFile, brand: Brand, known: dict[str, Engine], judge: Judge) -> None:
    _retire_unnamed(file, brand, judge)
    for number, entry in enumerate(file.models):
        path = f"models[{number}]"
        with judge.writing(path, {"slug": "id"}):
            model = _model(brand, entry, number, judge)
            _set_routes(model, entry, known, path, judge, described=set(file.engines))
            _set_price(model, entry.rates, path, judge)


def model_values(entry: ModelEntry, number: int) -> dict[str, Any]:
    """A model's columns as the file says or leaves to be drafted."""
    longest = entry.context_length if entry.max_completion_tokens is None else entry.max_completion_tokens
    usual = min(engines.DEFAULT_MAX_TOKENS, longest) if entry.default_max_tokens is None else entry.default_max_tokens
    return {name: getattr(entry, name) for name in MODEL_COLUMNS} | {
        "name": entry.name or entry.id,
        "max_completion_tokens": longest,
        "default_max_tokens": usual,
        "position": number if entry.position is None else entry.position,
    }


def _model(brand: Brand, entry: ModelEntry, number: int, judge: Judge) -> Model:
    values = model_values(entry, number)
    model = Model.objects.filter(brand=brand, slug=entry.id).first()
    if model is None:
        judge.changes.append(f"model {entry.id}: new")
        return engines.create_model(brand=brand, slug=entry.id, actor=judge.actor, **values)
    if judge.changed(f"model {entry.id}", model, values):
        engines.change_model(model=model, actor=judge.actor, **values)
    else:
        wrong = engine_facts.model_problems(model)  # the brand's rules may be new
        if wrong:
            raise ValidationError(wrong)
    return model


def _retire_unnamed(file: BrandFile, brand: Brand, judge: Judge) -> None:
    """Books name them for ever, so they stay as rows that nobody can call."""
    named = {entry.id for entry in file.models}
    for model in Model.objects.filter(brand=brand).exclude(slug__in=named).exclude(state=Model.State.RETIRED):
        engines.change_model(model=model, actor=judge.actor, state=Model.State.RETIRED)
        judge.changes.append(f"model {model.slug}: retired, as the file does not name it")


def _set_routes(
    model: Model, entry: ModelEntry, known: dict[str, Engine], path: str, judge: Judge, *, described: set[str]
) -> None:
    """An engine that is `described` but not known has been refused; that is told already."""
    there = {route.engine.name: route for route in model.routes.select_related("engine", "model__brand")}
    for name, route in there.items():
        if name not in entry.routes:
            engines.remove_route(route=route, actor=judge.actor)
            judge.changes.append(f"model {model.slug}: no more on {name}")
    for name, name_there in entry.routes.items():
        if name not in known:
            if name in described:
                continue
            judge.wrong(f"{path}.routes.{name}", f"there is no engine {name}; describe it in [engines.{name}]")
        elif name not in there or there[name].name_there != name_there:
            with judge.writing(f"{path}.routes.{name}", {"engine": "", "name_there": ""}):
                engines.set_route(model=model, engine=known[name], name_there=name_there, actor=judge.actor)
            judge.changes.append(f"model {model.slug}: on {name} as {name_there}")


def _set_price(model: Model, entry: RatesEntry | None, path: str, judge: Judge) -> None:
    if entry is None:
        standing = prices.in_force(Rate.objects.filter(model=model, organization=None)).first()
        if standing is not None:
            prices.end_price(rate=standing, actor=judge.actor)
            judge.changes.append(f"model {model.slug}: its price has ended")
        return
    terms = prices.Terms(
        is_free=entry.free,
        request_nanos=judge.nanos(f"{path}.rates.request", entry.request),
        image_nanos=judge.nanos(f"{path}.rates.image", entry.image),
        credits_per_request=entry.credits_per_request,
        credits_per_1000_tokens=entry.credits_per_1000_tokens,
        per_million={name: getattr(entry, name) for name in prices.PER_MILLION},
    )
    with judge.writing(f"{path}.rates", RATE_KEYS):
        if not prices.is_set(model=model, **terms):
            try:
                rate = prices.set_price(model=model, actor=judge.actor, confirmed_reason=judge.confirmed, **terms)
            except prices.Unconfirmed as error:
                raise ValidationError(
                    [f"{text} If it is meant so: --confirm REASON" for text in error.messages]
                ) from None
            judge.changes.append(f"model {model.slug}: {prices.described(rate)}")
