"""The page of a customer: who belongs to it, its keys, what staff noted, and what higher rooms say of its money."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, ActionForm
from django.db.models import Model, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.http import HttpRequest
from django.template.response import TemplateResponse

from keys import notes, organizations
from keys.admin_pages import Kept, Page, ReadOnly, Tabular, by
from keys.models import ApiKey, Membership, Organization, OrganizationNote

OF_THE_HOUSE = "_"
"""How slugs begin of organizations that no customer has: theirs are made from letters and digits."""
NAMED_MAX = 20
REASON_CHARS_MAX = 200


class _Members(ReadOnly, Tabular):
    brand_path = "organization__brand"
    model = Membership
    extra = 0
    fields = ("user", "role", "created_at")
    readonly_fields = fields


class _Notes(Kept, Tabular):
    """What staff tell each other. Written once, never changed."""

    brand_path = "organization__brand"
    model = OrganizationNote
    verbose_name_plural = "notes of staff (customers never see them)"
    extra = 1
    fields = ("text", "by_whom")
    readonly_fields = ("by_whom",)
    ordering = ("-pk",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "text":
            kwargs["widget"] = forms.Textarea(attrs={"rows": 2, "cols": 60, "aria-label": "A note for staff"})
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @admin.display(description="Written by")
    def by_whom(self, note: OrganizationNote) -> str:
        return f"{note.written_by}, {note.written_at:%Y-%m-%d %H:%M} UTC" if note.pk else ""


class _ReasonedActionForm(ActionForm):
    """Suspending says why: the customer reads it."""

    reason = forms.CharField(
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "Why, to suspend", "size": 30, "maxlength": REASON_CHARS_MAX}),
    )
    """How long it may be, the action says: of an error here Django tells that no action was selected."""


class _Keys(ReadOnly, Tabular):
    brand_path = "organization__brand"
    model = ApiKey
    extra = 0
    fields = ("name", "hint", "public_id", "created_at", "expires_at", "revoked_at")
    readonly_fields = fields
    show_change_link = True


@admin.register(Organization)
class OrganizationAdmin(Kept, Page):
    brand_path = "brand"
    list_display = ("name", "slug", "brand", "state", "public_id", "created_at")
    list_filter = ("brand", "state", "is_further")
    list_select_related = ("brand",)
    search_fields = ("name", "slug", "public_id", "memberships__user__email")
    ordering = ("-created_at", "-id")
    inlines = (_Notes, _Members, _Keys)
    action_form = _ReasonedActionForm
    actions = ("suspend", "resume")
    facts = (
        *("brand", "name", "slug", "public_id", "state", "suspended_reason", "is_further", "month_anchor"),
        *("created_at", "version"),
    )
    more_about: tuple[Callable[[Organization], str], ...] = ()
    """What higher rooms say of a customer and where it is changed; they add their own."""

    def get_fields(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        return (*self.facts, *self.more_about) if obj else ("brand", "name", "slug", "is_further")

    def get_readonly_fields(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        fixed = ("public_id", "state", "suspended_reason", "month_anchor", "created_at", "version")
        return (*fixed, "brand", *self.more_about) if obj else fixed

    def save_model(self, request: HttpRequest, obj: Organization, form: ModelForm[Organization], change: bool) -> None:
        if change:
            values = {name: form.cleaned_data[name] for name in form.changed_data}
            organizations.change(organization=obj, **by(request), **values)
        else:
            made = organizations.create(**by(request), **form.cleaned_data)
            obj.pk, obj.public_id, obj.version = made.pk, made.public_id, made.version

    def save_formset(
        self,
        request: HttpRequest,
        form: ModelForm[Organization],
        formset: BaseInlineFormSet[Any, Any, Any],
        change: bool,
    ) -> None:
        if formset.model is not OrganizationNote:
            super().save_formset(request, form, formset, change)
            return
        for note in formset.save(commit=False):
            notes.write(organization=form.instance, text=note.text, **by(request))

    @admin.action(description="Suspend: refuse every call from the next request on")
    def suspend(self, request: HttpRequest, queryset: QuerySet[Organization]) -> TemplateResponse | None:
        """Of several it asks first, and names how many; the house's own, which watch over it, only alone."""
        reason = request.POST.get("reason", "").strip()
        if not reason:
            self.message_user(request, "Not suspended: say why, beside the action.", messages.ERROR)
            return None
        if len(reason) > REASON_CHARS_MAX:
            said = f"Not suspended: the reason has {len(reason)} characters, at most {REASON_CHARS_MAX} are kept."
            self.message_user(request, said, messages.ERROR)
            return None
        rows = queryset.select_related("brand")
        if queryset.count() > 1:
            rows = rows.exclude(slug__startswith=OF_THE_HOUSE)
            count = rows.count()
            if request.POST.get("sure") != str(count):
                context = {
                    **self.admin_site.each_context(request),
                    "title": f"Suspend {count} customers?",
                    "count": count,
                    "left_out": queryset.count() - count,
                    "named": rows.order_by("name")[:NAMED_MAX],
                    "reason": reason,
                    "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
                    "across": request.POST.get("select_across", "0"),
                }
                return TemplateResponse(request, "admin/suspend_several.html", context)
        versions = [organizations.suspend(organization=row, reason=reason, **by(request)) for row in rows]
        self.done(request, "Suspended", versions)
        return None

    @admin.action(description="Resume")
    def resume(self, request: HttpRequest, queryset: QuerySet[Organization]) -> None:
        rows = queryset.select_related("brand")
        self.done(request, "Resumed", [organizations.resume(organization=row, **by(request)) for row in rows])
