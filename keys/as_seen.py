"""A row's page on the operators' site carries how the row stood when it was shown. Who saves over what somebody else
changed since, is told what that was, and changes nothing: a form sends every field, the untouched ones too, so an old
page would bring a drained engine back to life."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

FIELD = "_as_seen"

if TYPE_CHECKING:  # what it is laid over
    _Page = admin.ModelAdmin[Any]
else:
    _Page = object


class AsSeen(_Page):
    """Before a page's own writers. Nobody's program is asked for it: what does not say how the row stood is saved."""

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj is not None and kwargs.get("change"):
            context[FIELD.strip("_")] = request.POST.get(FIELD) or json.dumps(self._standing(request, obj))
        answer: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return answer

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        seen = request.POST.get(FIELD)
        if object_id is not None and seen is not None:
            obj = self.get_object(request, unquote(object_id))
            changed = self._changed(request, obj, seen) if obj is not None else []
            if changed:
                said = f"Not saved. Since you opened this page somebody else changed: {', '.join(changed)}."
                self.message_user(request, f"{said} This is how it stands now: look again.", messages.ERROR)
                return redirect(request.get_full_path())
        answer: HttpResponse = super().changeform_view(request, object_id, *args, **kwargs)
        return answer

    def _changed(self, request: HttpRequest, obj: Model, seen: str) -> list[str]:
        """What differs, by the names that people read."""
        try:
            then = json.loads(seen)
        except ValueError:
            then = {}
        now = self._standing(request, obj)
        return [name for name, digest in now.items() if not isinstance(then, dict) or then.get(name) != digest]

    def _standing(self, request: HttpRequest, obj: Model) -> dict[str, str]:
        """A digest of each field that the page lets one change, and of each table of rows below."""
        form = self.get_form(request, obj, change=True)(instance=obj)
        found = {
            str(field.label or name).lower(): _digest(form.initial[name])
            for name, field in form.fields.items()
            if name in form.initial and not field.disabled
        }
        for formset, inline in self.get_formsets_with_inlines(request, obj):
            if inline.has_change_permission(request, obj):
                rows = formset(instance=obj, queryset=inline.get_queryset(request)).initial_forms
                stood = [(row.instance.pk, row.initial) for row in rows]
                found[str(inline.opts.verbose_name_plural)] = _digest(stood)
        return found


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
