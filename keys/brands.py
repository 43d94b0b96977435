"""The only writers of Brand. A change is published before they return: pausing, key schemes, hosts and prefixes hold on
the next request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import transaction

from keys import audit, parameters, publication, tokens
from keys.audit import Actor
from keys.models import Brand, Scope
from keys.reserved import RESERVED_SLUGS

UNCHANGEABLE = frozenset({"id", "slug", "version", "created_at", "state", "currency"})
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_BASE_PATH = re.compile(r"(/[a-z0-9._-]+)+")
_CURRENCY = re.compile(r"[A-Z]{3}")
_PAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
SCOPES = frozenset(Scope.values)
THEME_COLOURS = ("accent",)
"""What a theme may say; portal.theme makes each readable."""


def create(*, slug: str, name: str, key_prefix: str, actor: Actor, address: str | None = None, **fields: Any) -> Brand:
    """A new brand. `fields` as Brand has them. ValidationError names the field that is wrong."""
    brand = Brand(slug=slug, name=name, key_prefix=key_prefix, **fields)
    _check(brand)
    with transaction.atomic():
        brand.save(force_insert=True)
        brand.version = publication.record(publication.BRAND, brand.id)
        after = {"slug": slug, "name": name, "key_prefix": key_prefix}
        audit.note("brand.created", slug, actor=actor, brand=brand, after=after, address=address)
    return brand


def change(*, brand: Brand, actor: Actor, address: str | None = None, **values: Any) -> publication.Version | None:
    """Change any field but those of UNCHANGEABLE. None when nothing differs."""
    wrong = set(values) & UNCHANGEABLE
    if wrong:
        raise TypeError(f"not changeable: {', '.join(sorted(wrong))}")
    return _changed(brand, values, "brand.changed", actor, address)


def pause(*, brand: Brand, actor: Actor, address: str | None = None) -> publication.Version | None:
    """Every call to the brand is refused from now on."""
    return _changed(brand, {"state": Brand.State.PAUSED}, "brand.paused", actor, address)


def resume(*, brand: Brand, actor: Actor, address: str | None = None) -> publication.Version | None:
    return _changed(brand, {"state": Brand.State.ACTIVE}, "brand.resumed", actor, address)


def _changed(
    brand: Brand, values: dict[str, Any], action: str, actor: Actor, address: str | None
) -> publication.Version | None:
    with transaction.atomic():
        row = Brand.objects.select_for_update().get(pk=brand.pk)
        before, after = audit.assign(row, values)
        if not after:
            return None
        _check(row)
        row.save(update_fields=list(after))
        version = publication.record(publication.BRAND, row.id)
        audit.note(action, row.slug, actor=actor, brand=row, before=before, after=after, address=address)
    for name, value in values.items():
        setattr(brand, name, value)
    brand.version = version
    return version


def problems(brand: Brand) -> dict[str, str]:
    """What is wrong with a brand beyond what its fields check themselves, by field name, or by the path of a key inside
    one ("parameters.temperature.default")."""
    taken = Brand.objects.filter(hosts__overlap=brand.hosts).exclude(pk=brand.pk).first() if brand.hosts else None
    found = {
        "slug": "This word is taken by the house." if brand.slug in RESERVED_SLUGS else None,
        "key_prefix": None if tokens.PREFIX.fullmatch(brand.key_prefix) else "Letters, digits, - and _ only.",
        "currency": None if _CURRENCY.fullmatch(brand.currency) else "Three capital letters, e.g. USD.",
        "month_anchor": None if 0 <= brand.month_anchor <= 31 else "A day of the month, or 0 for the account's own.",
        "timezone": None if brand.timezone in available_timezones() else "Not a time zone.",
        "legacy_key_patterns": next(filter(None, map(tokens.pattern_problem, brand.legacy_key_patterns)), None),
        "hosts": None if all(map(_HOST.fullmatch, brand.hosts)) else "Host names in lower case, without port.",
        "base_paths": None if all(map(_BASE_PATH.fullmatch, brand.base_paths)) else "Paths like /v1 or /api/v1.",
        "key_scopes": None
        if set(brand.key_scopes) <= set(Scope.values)
        else f"Choose from: {', '.join(Scope.values)}.",
        "model_id_pattern": _expression_problem(brand.model_id_pattern),
        "dialect": _dialect_problem(brand.dialect),
        "docs_pages": _pages_problem(brand.docs_pages),
        **_theme_problems(brand.theme),
        **{
            f"parameters.{path}".rstrip("."): problem for path, problem in parameters.problems(brand.parameters).items()
        },
    }
    if taken is not None:
        found["hosts"] = f"One of these hosts is {taken}'s."
    return {name: problem for name, problem in found.items() if problem}


def _check(brand: Brand) -> None:
    brand.full_clean()
    wrong = problems(brand)
    if wrong:
        raise ValidationError(wrong)


def _expression_problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"Not a regular expression: {error}."
    return None


_dialects: set[str] = set()


def register_dialects(names: Iterable[str]) -> None:
    """A higher room says which dialects there are; without that, any name will do."""
    _dialects.update(names)


def _dialect_problem(name: str) -> str | None:
    if _dialects and name not in _dialects:
        return f"There is no dialect {name!r}; there are {', '.join(sorted(_dialects))}."
    return None


_docs_pages: set[str] = set()


def register_docs_pages(names: Iterable[str]) -> None:
    """A higher room says which pages of documentation there are; without that, any well-formed name will do."""
    _docs_pages.update(names)


def _pages_problem(pages: list[str]) -> str | None:
    wrong = next((page for page in pages if not _PAGE.fullmatch(page)), None)
    if wrong is not None:
        return f"{wrong!r} is no page's name: small letters and digits with - between."
    unknown = next((page for page in pages if _docs_pages and page not in _docs_pages), None)
    if unknown is not None:
        return f"There is no page {unknown!r}; there are {', '.join(sorted(_docs_pages))}."
    return None if len(set(pages)) == len(pages) else "A page is named once."


def _theme_problems(theme: Any) -> dict[str, str]:
    if not isinstance(theme, dict):
        return {"theme": 'A table, e.g. {"accent": "#1e7f6e"}.'}
    unknown = {f"theme.{name}": f"Only {', '.join(THEME_COLOURS)}." for name in theme if name not in THEME_COLOURS}
    wrong = {
        f"theme.{name}": 'A colour like "#1e7f6e".'
        for name in THEME_COLOURS
        if name in theme and not (isinstance(theme[name], str) and _COLOUR.fullmatch(theme[name]))
    }
    return unknown | wrong
