"""The only writers of Engine, Model and ModelEngine. A change is published before they return, to every brand it
touches: draining an engine, maintenance on a model and a new route hold on the next request.

Locks are taken in one order: the engine, then brands by id, then the model. An engine that gains a route is locked like
one that changes, so whoever changes it knows every brand that must hear of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from billing import engine_costs
from billing.engine_facts import model_problems, problems, without_values
from billing.models import Engine, Model, ModelEngine
from billing.snapshot import Capabilities
from keys import audit, publication, sealing
from keys.audit import Actor
from keys.models import Brand
from keys.publication import Version

DEFAULT_MAX_TOKENS = 4096
CHANGEABLE = (
    *("brand", "name", "kind", "base_url", "headers", "verify_tls", "max_in_flight", "weight"),
    *("cost_per_hour_nanos", "cost_currency", "state", "is_shared", "capabilities"),
)
MODEL_CHANGEABLE = tuple(
    field.name for field in Model._meta.concrete_fields if field.name not in ("id", "brand", "created_at")
)


def register(
    *,
    name: str,
    kind: str,
    base_url: str,
    actor: Actor,
    brand: Brand | None = None,
    api_key: str = "",
    capabilities: Capabilities | None = None,
    address: str | None = None,
    **fields: Any,
) -> Engine:
    """A new engine; `brand` None lets every brand's models use it. `api_key` is plain and kept sealed. `fields` as
    Engine has them. ValidationError names the field that is wrong."""
    engine = Engine(name=name, kind=kind, base_url=base_url.rstrip("/"), brand=brand, **fields)
    engine.capabilities = as_stored(capabilities or Capabilities())
    engine.api_key_sealed = _sealed(api_key)
    _check(engine)
    with transaction.atomic():
        engine.save(force_insert=True)
        if engine.cost_per_hour_nanos:
            engine_costs.put(engine, engine.cost_per_hour_nanos, timezone.now())
        after = {"name": name, "kind": kind, "base_url": engine.base_url}
        audit.note("engine.registered", name, actor=actor, brand=brand, after=after, address=address)
    return engine


def change(
    *, engine: Engine, actor: Actor, api_key: str | None = None, address: str | None = None, **values: Any
) -> tuple[Version, ...]:
    """Change any of CHANGEABLE; `state="draining"` lets running calls end and sends no new ones. `api_key` "" removes
    it. The versions are those of the brands whose models it serves."""
    _only(values, CHANGEABLE)
    with transaction.atomic():
        row = _locked(engine)
        if "base_url" in values:
            values["base_url"] = values["base_url"].rstrip("/")
        before, after = audit.assign(row, values)
        if api_key is not None and (api_key or row.api_key_sealed):
            row.api_key_sealed = _sealed(api_key)
            after["api_key"] = "changed" if api_key else "removed"
        if not after:
            return ()
        _check(row)
        row.save()
        if after.keys() & {"cost_per_hour_nanos", "cost_currency"}:
            engine_costs.put(row, row.cost_per_hour_nanos, timezone.now())
        versions = _publish(Model.objects.filter(routes__engine=row))
        before, after = without_values(before), without_values(after)
        audit.note(
            *("engine.changed", row.name), actor=actor, brand=row.brand, before=before, after=after, address=address
        )
    engine.refresh_from_db()
    return versions


def set_cost(
    *,
    engine: Engine,
    per_hour_nanos: int,
    since: datetime,
    actor: Actor,
    now: datetime,
    currency: str = "",
    address: str | None = None,
) -> None:
    """What the engine cost from `since`, which has been, until the next cost that is known: for one that was told too
    late. `change` sets it from now on. `currency` "": the one that its costs are in."""
    if since > now:
        raise ValidationError({"since": "A cost is set when it holds; this moment is yet to come."})
    if per_hour_nanos < 0:
        raise ValidationError({"per_hour_nanos": "A cost is not negative."})
    with transaction.atomic():
        row = _locked(engine)
        row.cost_currency = currency or row.cost_currency
        _check(row)
        if engine_costs.put(row, per_hour_nanos, since):
            row.cost_per_hour_nanos = per_hour_nanos
            row.save(update_fields=["cost_per_hour_nanos", "cost_currency"])
        after = {"cost_per_hour_nanos": per_hour_nanos, "since": since.isoformat()}
        after |= {"cost_currency": currency} if currency else {}
        audit.note("engine.cost_set", row.name, actor=actor, brand=row.brand, after=after, address=address)
    engine.refresh_from_db()


def create_model(
    *, brand: Brand, slug: str, context_length: int, actor: Actor, address: str | None = None, **fields: Any
) -> Model:
    """A model that no engine serves yet: calls to it are refused until it has a route and a price. `fields` as Model
    has them; what is not given is drafted from the slug and the context length."""
    with transaction.atomic():
        publication.record(publication.BRAND, brand.id)  # locks the brand: a name means one model
        model = _created(brand, slug, context_length, fields)
        audit.note("model.created", slug, actor=actor, brand=brand, address=address)
    return model


def draft_model(
    *,
    brand: Brand,
    slug: str,
    engine: Engine,
    name_there: str,
    context_length: int,
    actor: Actor,
    address: str | None = None,
    **fields: Any,
) -> tuple[Model, bool]:
    """The brand's model `slug`, served by `engine` under `name_there`, and whether it is new. One that exists keeps its
    facts and gains the route. It refuses calls until it has a price."""
    with transaction.atomic():
        _locked(engine)
        publication.record(publication.BRAND, brand.id)
        model = Model.objects.filter(brand=brand, slug=slug).first()
        is_new = model is None
        if model is None:
            model = _created(brand, slug, context_length, fields)
        _route(model, engine, name_there)
        action = "model.drafted" if is_new else "model.route_set"
        after = {"engine": engine.name, "name_there": name_there}
        audit.note(action, slug, actor=actor, brand=brand, after=after, address=address)
    return model, is_new


def change_model(*, model: Model, actor: Actor, address: str | None = None, **values: Any) -> Version | None:
    """Change any of MODEL_CHANGEABLE; state, maintenance message and deadlines hold on the next request. A slug that a
    tier, a key or the brand's default names is theirs: change it there first. None when nothing differs."""
    _only(values, MODEL_CHANGEABLE)
    with transaction.atomic():
        Brand.objects.select_for_update(no_key=True).get(pk=model.brand_id)
        row = Model.objects.select_for_update(of=("self",), no_key=True).select_related("brand").get(pk=model.pk)
        before, after = audit.assign(row, values)
        if not after:
            return None
        _check_model(row)
        row.save()
        version = publication.record(publication.BRAND, model.brand_id)
        audit.note(
            *("model.changed", row.slug), actor=actor, brand=row.brand, before=before, after=after, address=address
        )
    model.refresh_from_db()
    return version


def set_route(
    *, model: Model, engine: Engine, name_there: str, actor: Actor, address: str | None = None
) -> ModelEngine:
    """Let `engine` serve `model` under `name_there`, from the next request on."""
    with transaction.atomic():
        _locked(engine)
        publication.record(publication.BRAND, model.brand_id)
        route = _route(model, engine, name_there)
        after = {"engine": engine.name, "name_there": name_there}
        audit.note("model.route_set", model.slug, actor=actor, brand=model.brand, after=after, address=address)
    return route


def remove_route(*, route: ModelEngine, actor: Actor, address: str | None = None) -> None:
    """The engine serves the model no more, from the next request on; running calls end."""
    with transaction.atomic():
        publication.record(publication.BRAND, route.model.brand_id)
        before = {"engine": route.engine.name, "name_there": route.name_there}
        model = route.model
        audit.note("model.route_removed", model.slug, actor=actor, brand=model.brand, before=before, address=address)
        route.delete()


def locked_by_name(names: Iterable[str]) -> dict[str, Engine]:
    """Those of these engines that there are, held until the transaction ends: for whoever sets many routes at once and
    must take engines before brands."""
    rows = Engine.objects.select_for_update(of=("self",), no_key=True).select_related("brand")
    return {engine.name: engine for engine in rows.filter(name__in=list(names)).order_by("name")}


def as_stored(capabilities: Capabilities) -> dict[str, Any]:
    """As Engine.capabilities holds them."""
    stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(capabilities))
    return stored


def free_name(base_url: str, kind: str) -> str:
    """A name for an engine that nobody has: its host, or its kind and a number."""
    host = slugify((urlsplit(base_url).hostname or kind).replace(".", "-"))[:40] or kind
    wanted = host if not host.replace("-", "").isdigit() else kind  # an address is no name
    taken = set(Engine.objects.filter(name__startswith=wanted).values_list("name", flat=True))
    numbered = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in numbered if name not in taken)


def _only(values: dict[str, Any], changeable: tuple[str, ...]) -> None:
    wrong = set(values) - set(changeable)
    if wrong:
        raise TypeError(f"not changeable: {', '.join(sorted(wrong))}")


def _locked(engine: Engine) -> Engine:
    return Engine.objects.select_for_update(of=("self",), no_key=True).select_related("brand").get(pk=engine.pk)


def _sealed(api_key: str) -> bytes | None:
    return sealing.seal_text(api_key).encode() if api_key else None


def _created(brand: Brand, slug: str, context_length: int, fields: dict[str, Any]) -> Model:
    drafted: dict[str, Any] = {
        "name": slug,
        "max_completion_tokens": context_length,
        "default_max_tokens": min(DEFAULT_MAX_TOKENS, fields.get("max_completion_tokens", context_length)),
    }
    model = Model(brand=brand, slug=slug, context_length=context_length, **(drafted | fields))
    _check_model(model)
    model.save(force_insert=True)
    return model


def _route(model: Model, engine: Engine, name_there: str) -> ModelEngine:
    if engine.brand_id not in (None, model.brand_id):
        raise ValidationError({"engine": f"Engine {engine} serves another brand only."})
    route = ModelEngine.objects.filter(model=model, engine=engine).first() or ModelEngine(model=model, engine=engine)
    route.name_there = name_there
    route.full_clean()
    route.save()
    return route


def _publish(models: Iterable[Model]) -> tuple[Version, ...]:
    """In the order of their ids, so that two changes never wait for each other in a circle."""
    brands = sorted({model.brand_id for model in models})
    return tuple(publication.record(publication.BRAND, brand_id) for brand_id in brands)


def _check(engine: Engine) -> None:
    engine.full_clean()
    wrong = problems(engine)
    if wrong:
        raise ValidationError(wrong)


def _check_model(model: Model) -> None:
    model.full_clean()
    wrong = model_problems(model)
    if wrong:
        raise ValidationError(wrong)
