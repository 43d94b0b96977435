"""The operator's pages over this room. Every change goes through the room's writers, so it is audited and published
like any other; what only machines write is read-only, and no page shows a digest or can reveal a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UserChangeForm
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from keys import brands, invitations, issuing, organizations, staff
from keys.admin_pages import Form, Kept, Page, ReadOnly, Tabular, by
from keys.as_seen import AsSeen
from keys.brand_scope import LOOKING
from keys.models import (
    ApiKey,
    AuditEvent,
    Brand,
    BrandStaff,
    Invitation,
    KeyUse,
    Membership,
    Publication,
    ServiceAccount,
    User,
)
from keys.organization_admin import OrganizationAdmin

__all__ = ["Form", "Kept", "OrganizationAdmin", "Page", "ReadOnly", "Tabular", "by"]


RIGHTS = frozenset({"is_staff", "is_superuser", "staff_of", "groups", "user_permissions", "password"})


class _PersonForm(AdminUserCreationForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = ("email",)


class _PersonChangeForm(UserChangeForm):  # type: ignore[type-arg]
    class Meta:
        model = User
        fields = "__all__"


@admin.register(User)
class UserAdmin(Kept, AsSeen, DjangoUserAdmin):  # type: ignore[type-arg]
    """People are deactivated, not deleted: keys and the trail name them."""

    brand_path = "memberships__organization__brand"
    staff_may = LOOKING
    form = _PersonChangeForm
    add_form = _PersonForm
    ordering = ("email",)
    list_display = ("email", "name", "is_active", "is_staff", "joined_at", "last_login")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "mailbox", "name")
    readonly_fields = ("mailbox", "joined_at", "last_login")
    fieldsets = (
        (None, {"fields": ("email", "mailbox", "name", "password")}),
        ("Rights", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Times", {"fields": ("joined_at", "last_login")}),
    )
    add_fieldsets = ((None, {"fields": ("email", "usable_password", "password1", "password2")}),)
    as_staff_see = ((None, {"fields": ("email", "name", "is_active", "joined_at", "last_login")}),)
    """Without rights: those are the installation's."""

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if request.user.is_superuser else self.as_staff_see

    def get_list_display(self, request: HttpRequest) -> Any:
        return self._without_rights(request, self.list_display)

    def get_list_filter(self, request: HttpRequest) -> Any:
        return self._without_rights(request, self.list_filter)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        asked = lookup.partition("__")[0]
        return bool(self._without_rights(request, (asked,))) and super().lookup_allowed(lookup, value, request)

    def _without_rights(self, request: HttpRequest, names: tuple[str, ...]) -> tuple[str, ...]:
        """Who works for which brand, or for all, other brands' staff are not told."""
        return names if request.user.is_superuser else tuple(name for name in names if name not in RIGHTS)


class _BrandForm(Form):
    support_url = forms.URLField(required=False, assume_scheme="https")
    terms_url = forms.URLField(required=False, assume_scheme="https")
    privacy_url = forms.URLField(required=False, assume_scheme="https")
    imprint_url = forms.URLField(required=False, assume_scheme="https")

    class Meta:
        model = Brand
        exclude = ("state",)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        for path, problem in brands.problems(self.instance).items():
            name, _, inside = path.partition(".")
            self.add_error(name if name in self.fields else None, f"{inside}: {problem}" if inside else problem)


@admin.register(Brand)
class BrandAdmin(Kept, Page):
    brand_path = "pk"
    staff_may = frozenset({"view", "change"})
    form = _BrandForm
    list_display = ("name", "slug", "state", "dialect", "key_prefix", "sign_up", "currency", "version")
    list_filter = ("state", "sign_up")
    search_fields = ("name", "slug", "hosts")
    ordering = ("name",)
    actions = ("pause", "resume")
    where_it_answers = ("hosts", "base_paths", "dialect", "schemes", "key_prefix", "legacy_key_patterns")
    """The installation's to say: brands stand beside each other there."""

    def get_readonly_fields(self, request: HttpRequest, obj: Brand | None = None) -> tuple[str, ...]:
        fixed = ("state", "version", "created_at", *(("slug", "currency") if obj else ()))
        return fixed if request.user.is_superuser else (*fixed, *self.where_it_answers)

    def save_model(self, request: HttpRequest, obj: Brand, form: ModelForm[Brand], change: bool) -> None:
        if change:
            brands.change(brand=obj, **by(request), **{name: form.cleaned_data[name] for name in form.changed_data})
        else:
            made = brands.create(**by(request), **form.cleaned_data)
            obj.pk, obj.version = made.pk, made.version

    @admin.action(description="Pause: refuse every call from the next request on")
    def pause(self, request: HttpRequest, queryset: QuerySet[Brand]) -> None:
        self.done(request, "Paused", [brands.pause(brand=brand, **by(request)) for brand in queryset])

    @admin.action(description="Resume")
    def resume(self, request: HttpRequest, queryset: QuerySet[Brand]) -> None:
        self.done(request, "Resumed", [brands.resume(brand=brand, **by(request)) for brand in queryset])


@admin.register(BrandStaff)
class BrandStaffAdmin(Page):
    """Who works for which brand. Whoever works for one sees that brand only."""

    brand_path = "brand"
    staff_may = LOOKING
    list_display = ("user", "brand", "role", "created_at")
    list_filter = ("brand", "role")
    list_select_related = ("user", "brand")
    search_fields = ("user__email", "brand__name")
    autocomplete_fields = ("user",)
    fields = ("user", "brand", "role")
    ordering = ("brand__name", "user__email")

    def get_readonly_fields(self, request: HttpRequest, obj: BrandStaff | None = None) -> tuple[str, ...]:
        return ("user", "brand") if obj else ()

    def save_model(self, request: HttpRequest, obj: BrandStaff, form: ModelForm[BrandStaff], change: bool) -> None:
        obj.pk = staff.appoint(user=obj.user, brand=obj.brand, role=obj.role, **by(request)).pk

    def delete_model(self, request: HttpRequest, obj: BrandStaff) -> None:
        staff.dismiss(obj, **by(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[BrandStaff]) -> None:
        for row in queryset.select_related("user", "brand"):
            staff.dismiss(row, **by(request))


@admin.register(Membership)
class MembershipAdmin(Page):
    brand_path = "organization__brand"
    list_display = ("user", "organization", "role", "created_at")
    list_filter = ("role", "organization__brand")
    list_select_related = ("user", "organization")
    search_fields = ("user__email", "organization__name", "organization__public_id")
    autocomplete_fields = ("user", "organization")

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> tuple[str, ...]:
        return ("user", "organization", "created_at") if obj else ("created_at",)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # would pass the writers by
        return actions

    def save_model(self, request: HttpRequest, obj: Membership, form: ModelForm[Membership], change: bool) -> None:
        if change:
            organizations.set_role(membership=obj, role=form.cleaned_data["role"], **by(request))
        else:
            obj.pk = organizations.add_member(**by(request), **form.cleaned_data).pk

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        organizations.remove_member(membership=obj, **by(request))

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._keeping_an_owner(request, super().changeform_view, *args, **kwargs)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._keeping_an_owner(request, super().delete_view, *args, **kwargs)

    def _keeping_an_owner(
        self, request: HttpRequest, view: Callable[..., HttpResponse], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except organizations.LastOwner:  # the view's transaction is rolled back, its log entry too
            self.message_user(request, "Not changed: an organization keeps at least one owner.", messages.ERROR)
            return redirect("admin:keys_membership_changelist")


@admin.register(Invitation)
class InvitationAdmin(ReadOnly, Page):
    brand_path = "organization__brand"
    list_display = ("email", "organization", "role", "invited_by", "created_at", "expires_at", "accepted_at")
    list_filter = ("organization__brand",)
    list_select_related = ("organization", "invited_by")
    search_fields = ("email", "organization__name")
    exclude = ("token_digest",)
    actions = ("revoke",)

    @admin.action(description="Revoke", permissions=["view"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Invitation]) -> None:
        for invitation in queryset:
            invitations.revoke(invitation=invitation, **by(request))
        self.message_user(request, "Revoked: their links open nothing any more.", messages.SUCCESS)


class _KeyForm(Form):
    scopes = forms.MultipleChoiceField(choices=[(name, name) for name in issuing.SCOPES])

    class Meta:
        model = ApiKey
        fields = issuing.CHANGEABLE

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        given = {name: cleaned[name] for name in issuing.CHANGEABLE if name in cleaned}
        return {**cleaned, **issuing.checked(given, self.instance.organization.brand)}


@admin.register(ApiKey)
class ApiKeyAdmin(Kept, Page):
    """Keys are made on the customer's page or by `manage.py issue_key`, where the secret can be shown once."""

    brand_path = "organization__brand"
    form = _KeyForm
    list_display = (
        "name",
        "hint",
        "mode",
        "organization",
        "is_live",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used",
    )
    list_filter = ("organization__brand", "mode", ("revoked_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization", "use")
    ordering = ("-created_at", "-id")
    search_fields = ("public_id", "name", "hint", "organization__name", "organization__public_id")
    actions = ("revoke",)
    readonly_fields = (
        *("organization", "public_id", "hint", "mode", "service_account", "created_by", "created_at"),
        *("revoked_at", "rotated_from", "last_used", "version"),
    )
    fields = ("organization", "public_id", "hint", *issuing.CHANGEABLE, *readonly_fields[3:])

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: ModelForm[ApiKey], change: bool) -> None:
        values = {name: form.cleaned_data[name] for name in form.changed_data}
        issuing.change(key=obj, **by(request), **values)

    @admin.action(description="Revoke for good, from the next request on")
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        self.done(request, "Revoked", [issuing.revoke(key=key, **by(request)) for key in queryset])

    @admin.display(boolean=True, description="Live")
    def is_live(self, key: ApiKey) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > timezone.now())

    @admin.display(description="Last used")
    def last_used(self, key: ApiKey) -> str:
        use = getattr(key, "use", None)
        return f"{use.last_used_at:%Y-%m-%d %H:%M} UTC" if use else "never"


@admin.register(ServiceAccount)
class ServiceAccountAdmin(ReadOnly, Page):
    """Customers make them and end them on their pages; here their keys can be revoked one by one."""

    brand_path = "organization__brand"
    list_display = ("name", "public_id", "role", "organization", "created_at", "disabled_at")
    list_filter = ("organization__brand", "role", ("disabled_at", admin.EmptyFieldListFilter))
    list_select_related = ("organization",)
    search_fields = ("public_id", "name", "organization__name", "organization__public_id")
    ordering = ("-created_at", "-id")


@admin.register(KeyUse)
class KeyUseAdmin(ReadOnly, Page):
    brand_path = "key__organization__brand"
    list_display = ("key", "last_used_at", "address", "agent")
    list_select_related = ("key",)
    search_fields = ("key__public_id", "key__name", "address")
    ordering = ("-last_used_at",)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly, Page):
    brand_path = "brand"
    list_display = ("at", "action", "subject", "actor_name", "organization", "brand", "address")
    list_filter = ("brand", "action")
    list_select_related = ("organization", "brand")
    search_fields = ("subject", "actor_name", "organization__public_id", "organization__name", "address")
    date_hierarchy = "at"
    ordering = ("-at", "-id")
    exclude = ("actor",)  # the person may be gone; the name stays


@admin.register(Publication)
class PublicationAdmin(ReadOnly, Page):
    list_display = ("version", "subject", "subject_id", "created_at", "applied_at")
    list_filter = ("subject", ("applied_at", admin.EmptyFieldListFilter))
    ordering = ("-version",)
