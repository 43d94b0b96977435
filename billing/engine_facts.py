"""What may be said of an engine and of a model, beyond what their fields check themselves: a snapshot that workers
cannot read would hold up the whole brand, so nothing gets into a row that does not fit one. Reads, never writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from billing.models import Engine, Model, ModelEngine, Tier
from billing.snapshot import Capabilities
from keys.models import ApiKey

HIDDEN = "•••"
"""Stands where a header's value may be a secret."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "accept-encoding", "authorization", "connection"})
"""Headers the engine client writes itself."""

_DEADLINES = ("connect_ms", "first_byte_ms", "idle_ms", "total_ms")
_INT_MAX = 2**31 - 1


def problems(engine: Engine) -> dict[str, str]:
    """What is wrong with an engine, by field name."""
    found = {
        "base_url": _address_problem(engine.base_url),
        "headers": _headers_problem(engine.headers),
        "capabilities": _capabilities_problem(engine.capabilities),
        "brand": _brand_problem(engine),
        "cost_currency": None if re.fullmatch(r"([A-Z]{3})?", engine.cost_currency) else 'Three letters, like "EUR".',
    }
    return {name: problem for name, problem in found.items() if problem}


def model_problems(model: Model) -> dict[str, str]:
    """What is wrong with a model, by field name. Names and those who use them are looked up."""
    found = {
        "slug": _name_problem(model.slug) or _form_problem(model, [model.slug]) or _slug_in_use(model),
        "aliases": next(filter(None, map(_name_problem, model.aliases)), None)
        or _form_problem(model, model.aliases)
        or _names_taken(model),
        "modalities": None if _are_bounds(model.modalities) else 'Like {"image_url": 1600}: tokens per part, at most.',
        "default_max_tokens": None if model.default_max_tokens else "At least one.",
        **{name: None if getattr(model, name) else "Not zero: every call would fail." for name in _DEADLINES},
    }
    return {name: problem for name, problem in found.items() if problem}


def without_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Changed facts of an engine for the trail: the brand by its slug, headers by name."""
    said = dict(facts)
    if "headers" in said:
        said["headers"] = sorted(said["headers"])
    if said.get("brand") is not None:
        said["brand"] = said["brand"].slug
    return said


def headers_hidden(headers: Mapping[str, str]) -> dict[str, str]:
    """For a form: which headers there are, not what they say."""
    return dict.fromkeys(headers, HIDDEN)


def headers_restored(given: Any, kept: Mapping[str, str]) -> Any:
    """A form's headers with the values that were left hidden."""
    if not isinstance(given, dict):
        return given
    return {name: kept.get(name, value) if value == HIDDEN else value for name, value in given.items()}


def _address_problem(text: str) -> str | None:
    try:
        url = urlsplit(text)
        _ = url.port  # a ValueError where it is no number
    except ValueError:
        return "Not an address."
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or "@" in url.netloc:
        return "An http(s) address without user, query or fragment, as an SDK takes it."
    return None if text.isascii() and text.isprintable() and " " not in text else "Without blanks and accents."


def _headers_problem(headers: Any) -> str | None:
    if isinstance(headers, dict) and all(map(_is_header, headers.items())):
        return None
    return "An object of header names and printable values; not those that the client writes itself."


def _is_header(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    return (
        _HEADER_NAME.fullmatch(name) is not None
        and name.lower() not in _OURS
        and isinstance(value, str)
        and value.isascii()
        and value.isprintable()
    )


def _capabilities_problem(capabilities: Any) -> str | None:
    try:
        msgspec.convert(capabilities, Capabilities)
    except msgspec.ValidationError as error:
        return f"Not what workers read: {error}"
    return None


def _brand_problem(engine: Engine) -> str | None:
    if engine.pk is None or engine.brand_id is None:
        return None
    others = ModelEngine.objects.filter(engine=engine).exclude(model__brand_id=engine.brand_id)
    served = others.select_related("model__brand").first()
    return f"It serves {served.model} of {served.model.brand}; remove that route first." if served else None


def _name_problem(name: str) -> str | None:
    if name and name.isprintable() and not any(map(str.isspace, name)):
        return None
    return "A name has printable characters without blanks."


def _form_problem(model: Model, names: Sequence[str]) -> str | None:
    """All ids of a brand have one form where it says so, aliases too: customers send them alike."""
    pattern = model.brand.model_id_pattern
    wrong = next((name for name in names if pattern and not re.fullmatch(pattern, name)), None)
    return None if wrong is None else f"{wrong} is not of the form that ids of {model.brand} have: {pattern}"


def _names_taken(model: Model) -> str | None:
    """A name means one model: neither its slug nor an alias is another's."""
    mine = {model.slug, *model.aliases}
    for other in Model.objects.filter(brand_id=model.brand_id).exclude(pk=model.pk):
        shared = mine & {other.slug, *other.aliases}
        if shared:
            return f"{', '.join(sorted(shared))} is {other.slug}'s already."
    return None


def _slug_in_use(model: Model) -> str | None:
    """Who still says the slug that the model had: a new name would lock them out."""
    had = Model.objects.filter(pk=model.pk).values_list("slug", flat=True).first()
    if had is None or had == model.slug:
        return None
    tier = Tier.objects.filter(brand_id=model.brand_id, model_slugs__contains=[had]).first()
    if tier is not None:
        return f"Tier {tier.slug} names {had}; change it there first."
    keys = ApiKey.objects.filter(organization__brand_id=model.brand_id, revoked_at=None, model_slugs__contains=[had])
    if keys.exists():
        return f"{keys.count()} keys are for {had} only. Keep the slug and give the model an alias."
    if model.brand.default_model == had and had not in model.aliases:
        return f"It is the brand's default model as {had}; keep that as an alias."
    return None


def _are_bounds(modalities: Any) -> bool:
    return isinstance(modalities, dict) and all(
        type(bound) is int and 0 < bound <= _INT_MAX for bound in modalities.values()
    )
