"""The only writers of Engine, Model and ModelEngine. A change is published before they return, to every brand it
touches: draining an engine, maintenance on a model and a new route hold on the next request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.text import slugify

from billing.models import Engine, Model, ModelEngine
from billing.snapshot import Capabilities
from keys import audit, publication, sealing
from keys.audit import Actor
from keys.models import Brand

DEFAULT_MAX_TOKENS = 4096
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "authorization", "connection"})
"""Headers the engine client writes itself."""


def register(
    *,
    name: str,
    kind: str,
    base_url: str,
    actor: Actor,
    brand: Brand | None = None,
    api_key: str = "",
    capabilities: Capabilities | None = None,
    **fields: Any,
) -> Engine:
    """A new engine; `brand` None lets every brand's models use it. `api_key` is plain and kept sealed. `fields` as
    Engine has them. ValidationError names the field that is wrong."""
    engine = Engine(name=name, kind=kind, base_url=base_url.rstrip("/"), brand=brand, **fields)
    engine.capabilities = as_stored(capabilities or Capabilities())
    engine.api_key_sealed = sealing.seal_text(api_key).encode() if api_key else None
    _check(engine)
    with transaction.atomic():
        engine.save(force_insert=True)
        after = {"name": name, "kind": kind, "base_url": engine.base_url}
        audit.note("engine.registered", name, actor=actor, brand=brand, after=after)
    return engine


def change(*, engine: Engine, actor: Actor, api_key: str | None = None, **values: Any) -> None:
    """Change any field; `state="draining"` lets running calls end and sends no new ones. `api_key` "" removes it."""
    with transaction.atomic():
        row = Engine.objects.select_for_update().get(pk=engine.pk)
        before, after = audit.assign(row, values)
        if api_key is not None:
            row.api_key_sealed = sealing.seal_text(api_key).encode() if api_key else None
            after["api_key"] = "changed"
        if not after:
            return
        _check(row)
        row.save()
        _publish(Model.objects.filter(routes__engine=row))
        audit.note("engine.changed", row.name, actor=actor, brand=row.brand, before=before, after=after)
    engine.refresh_from_db()


def draft_model(
    *,
    brand: Brand,
    slug: str,
    engine: Engine,
    name_there: str,
    context_length: int,
    actor: Actor,
    **fields: Any,
) -> tuple[Model, bool]:
    """The brand's model `slug`, served by `engine` under `name_there`, and whether it is new. One that exists keeps its
    facts and gains the route. It refuses calls until it has a price."""
    with transaction.atomic():
        publication.record(publication.BRAND, brand.id)  # locks the brand: two drafts cannot make one slug twice
        model = Model.objects.filter(brand=brand, slug=slug).first()
        is_new = model is None
        if model is None:
            model = Model(
                brand=brand, slug=slug, context_length=context_length, **_drafted(slug, context_length, fields)
            )
            model.full_clean()
            _check_names(model)
            model.save(force_insert=True)
        _route(model, engine, name_there)
        action = "model.drafted" if is_new else "model.route_added"
        after = {"engine": engine.name, "name_there": name_there}
        audit.note(action, slug, actor=actor, brand=brand, after=after)
    return model, is_new


def change_model(*, model: Model, actor: Actor, **values: Any) -> None:
    """Change any field but the brand; state, maintenance message and deadlines hold on the next request."""
    with transaction.atomic():
        publication.record(publication.BRAND, model.brand_id)
        row = Model.objects.select_for_update().get(pk=model.pk)
        before, after = audit.assign(row, values)
        if not after:
            return
        row.full_clean()
        _check_names(row)
        row.save()
        audit.note("model.changed", row.slug, actor=actor, brand=row.brand, before=before, after=after)
    model.refresh_from_db()


def set_route(*, model: Model, engine: Engine, name_there: str, actor: Actor) -> ModelEngine:
    """Let `engine` serve `model` under `name_there`, from the next request on."""
    with transaction.atomic():
        publication.record(publication.BRAND, model.brand_id)
        route = _route(model, engine, name_there)
        after = {"engine": engine.name, "name_there": name_there}
        audit.note("model.route_set", model.slug, actor=actor, brand=model.brand, after=after)
    return route


def remove_route(*, route: ModelEngine, actor: Actor) -> None:
    with transaction.atomic():
        publication.record(publication.BRAND, route.model.brand_id)
        before = {"engine": route.engine.name, "name_there": route.name_there}
        audit.note("model.route_removed", route.model.slug, actor=actor, brand=route.model.brand, before=before)
        route.delete()


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


def _route(model: Model, engine: Engine, name_there: str) -> ModelEngine:
    if engine.brand_id not in (None, model.brand_id):
        raise ValidationError({"engine": f"Engine {engine} serves another brand only."})
    route, _ = ModelEngine.objects.update_or_create(model=model, engine=engine, defaults={"name_there": name_there})
    return route


def _drafted(slug: str, context_length: int, fields: dict[str, Any]) -> dict[str, Any]:
    drafted: dict[str, Any] = {
        "name": slug,
        "max_completion_tokens": context_length,
        "default_max_tokens": min(DEFAULT_MAX_TOKENS, context_length),
    }
    return drafted | fields


def _publish(models: Iterable[Model]) -> None:
    """In the order of their ids, so that two changes never wait for each other in a circle."""
    for brand_id in sorted({model.brand_id for model in models}):
        publication.record(publication.BRAND, brand_id)


def _check(engine: Engine) -> None:
    engine.full_clean()
    url = urlsplit(engine.base_url)
    wrong = {}
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
        wrong["base_url"] = "An http(s) address without user, query or fragment, as an SDK takes it."
    headers = engine.headers
    if not isinstance(headers, dict) or not all(map(_is_header, headers.items())):
        wrong["headers"] = "An object of header names and printable values; not those that the client writes itself."
    try:
        msgspec.convert(engine.capabilities, Capabilities)
    except msgspec.ValidationError as error:
        wrong["capabilities"] = f"Not what the catalogue reads: {error}"
    if wrong:
        raise ValidationError(wrong)


def _is_header(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    return (
        isinstance(name, str)
        and _HEADER_NAME.fullmatch(name) is not None
        and name.lower() not in _OURS
        and isinstance(value, str)
        and value.isascii()
        and value.isprintable()
    )


def _check_names(model: Model) -> None:
    """A name means one model: neither its slug nor an alias is another's."""
    mine = {model.slug, *model.aliases}
    for other in Model.objects.filter(brand=model.brand).exclude(pk=model.pk):
        shared = mine & {other.slug, *other.aliases}
        if shared:
            raise ValidationError({"aliases": f"{', '.join(sorted(shared))} is {other.slug}'s already."})
