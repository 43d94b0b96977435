"""The one place that keeps a brand's staff to their brand on the operators' site.

The site puts `Scoped` over every page it registers, above whatever the page overrides. A page says with `brand_path`
how its rows lead to a brand; one that does not say is for superusers alone, so a forgotten line shows nobody anything.
Looking reaches the brands a person works for, a POST only those that they manage.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin import FieldListFilter, RelatedFieldListFilter
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model, Q, QuerySet
from django.db.models.constants import LOOKUP_SEP
from django.forms import ModelChoiceField
from django.http import HttpRequest

from keys import staff
from keys.models import Brand

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
EVERYTHING = frozenset({"view", "add", "change", "delete"})
LOOKING = frozenset({"view"})


def reach(request: HttpRequest) -> frozenset[int] | None:
    """Ids of the brands whose rows this request may touch; None: all."""
    return staff.brand_ids(request.user, to_change=request.method not in SAFE_METHODS)


def within(
    rows: QuerySet[Any], path: str | None, brand_ids: frozenset[int] | None, *, nulls: bool = False
) -> QuerySet[Any]:
    """Those of `rows` that `path` leads to one of the brands; none without a path."""
    if brand_ids is None:
        return rows
    if path is None:
        return rows.none()
    condition = Q(**{f"{path}__in": brand_ids})
    if nulls:
        condition |= Q(**{f"{path}__isnull": True})
    if _forks(rows.model._meta.label, path):  # a join would double rows
        return rows.filter(pk__in=rows.model._default_manager.filter(condition).values("pk"))
    return rows.filter(condition)


@cache
def _forks(label: str, path: str) -> bool:
    step: type[Model] | None = apps.get_model(label)
    for name in path.split(LOOKUP_SEP):
        try:
            field: Any = step._meta.get_field(name) if step is not None else None
        except FieldDoesNotExist:  # pk
            return False
        if field is None:
            return False
        if field.one_to_many or field.many_to_many:
            return True
        step = field.related_model if field.is_relation else None
    return False


def choices(site: admin.AdminSite, rows: QuerySet[Any], request: HttpRequest) -> QuerySet[Any]:
    """Those of `rows` that this request may name in a form or a filter. What has no page is nobody's choice."""
    page = site._registry.get(rows.model)
    return within(
        rows, getattr(page, "brand_path", None), reach(request), nulls=getattr(page, "brandless_for_all", False)
    )


if TYPE_CHECKING:  # what it is laid over
    _Page = admin.ModelAdmin[Any]
    _Rows = admin.TabularInline[Any, Any]
    _Related = RelatedFieldListFilter
else:
    _Page, _Rows, _Related = object, object, RelatedFieldListFilter


class _Choosing:
    """Fields that choose a row offer, and take, only rows within reach."""

    admin_site: admin.AdminSite

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        if isinstance(field, ModelChoiceField):
            self._narrow(field, request)
        return field

    def _narrow(self, field: ModelChoiceField[Any], request: HttpRequest) -> None:
        if field.queryset is None or reach(request) is None:
            return
        field.queryset = choices(self.admin_site, field.queryset, request)
        if field.queryset.model is Brand:
            field.required = True  # empty would mean every brand's


class Scoped(_Choosing, _Page):
    """Laid over every page of the site by `OperationsSite.register`. What it asks of a page, and what silence means:"""

    brand_path: str | None
    """From the row to its brand, as a look-up: "organization__brand", "brand_id", "pk". Silence: superusers only."""
    staff_may: frozenset[str]
    """What those who are no superusers may do at most. Silence: everything."""
    brandless_for_all: bool
    """Rows of no brand belong to all: every brand's forms may name them (their own page stays closed)."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return within(super().get_queryset(request), self.brand_path, reach(request))

    def get_ordering(self, request: HttpRequest) -> Any:
        return super().get_ordering(request) or ("-pk",)  # completions are paged, so in some order

    def _open(self, request: HttpRequest, act: str, obj: Model | None = None) -> bool:
        ids = staff.brand_ids(request.user, to_change=act != "view")
        if ids is None:
            return True
        if self.brand_path is None or act not in self.staff_may or not ids:
            return False
        if obj is None or act == "view" or obj.pk is None:
            return True
        return within(self.model._default_manager.filter(pk=obj.pk), self.brand_path, ids).exists()

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._open(request, "view", obj) and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return self._open(request, "add") and super().has_add_permission(request, *args)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._open(request, "change", obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self._open(request, "delete", obj) and super().has_delete_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._open(request, "view") and super().has_module_permission(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        if staff.brand_ids(request.user, to_change=True) == frozenset():
            return {}
        return super().get_actions(request)

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        inlines = super().get_inlines(request, obj)
        if reach(request) is None:
            return inlines
        pages = self.admin_site._registry
        return [
            scoped_rows(inline)
            for inline in inlines
            if getattr(inline, "brand_path", None) or getattr(pages.get(inline.model), "brand_path", None)
        ]

    def get_form(self, request: HttpRequest, obj: Any = None, *args: Any, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, *args, **kwargs)
        for name in form.declared_fields:  # the others came through formfield_for_dbfield
            field = form.base_fields.get(name)
            if isinstance(field, ModelChoiceField):
                own = form.base_fields[name] = deepcopy(field)
                self._narrow(own, request)
        return form


class ScopedRows(_Choosing, _Rows):
    """Rows within another row's page: its brand's, and for looking where the person only looks."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        page = self.admin_site._registry.get(self.model)
        path = getattr(self, "brand_path", None) or getattr(page, "brand_path", None)
        return within(super().get_queryset(request), path, reach(request))


@cache
def scoped_rows(inline: Any) -> Any:
    return type(inline.__name__, (ScopedRows, inline), {"__module__": inline.__module__})


class ScopedRelatedFilter(_Related):
    """The filters beside a list name rows as well."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        site, target = model_admin.admin_site, field.remote_field.model
        rows = choices(site, target._default_manager.all(), request)
        named_by = getattr(site._registry.get(target), "list_select_related", ())
        if named_by and isinstance(named_by, tuple | list):  # their names may name others
            rows = rows.select_related(*named_by)
        ordering = self.field_admin_ordering(field, request, model_admin)
        return [(getattr(row, field.target_field.attname), str(row)) for row in rows.order_by(*ordering)]


FieldListFilter.register(lambda field: bool(field.remote_field), ScopedRelatedFilter, take_priority=True)


_SILENCE = {"brand_path": None, "staff_may": EVERYTHING, "brandless_for_all": False}


@cache
def scoped(page: Any) -> Any:
    """`page` (a ModelAdmin class) under the scope."""
    if issubclass(page, Scoped):
        return page
    said = {name: getattr(page, name, silence) for name, silence in _SILENCE.items()}
    return type(page.__name__, (Scoped, page), {"__module__": page.__module__, "__doc__": page.__doc__, **said})
