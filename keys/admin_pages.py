"""What the operators' pages of all rooms have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest

from keys.as_seen import AsSeen
from keys.publication import Version


def by(request: HttpRequest) -> dict[str, Any]:
    """Who acts, and from where: what every writer asks for."""
    address = getattr(request, "client_address", None) or request.META.get("REMOTE_ADDR")
    return {"actor": request.user, "address": address or None}


class Kept:
    """Rows that are never deleted: others name them for ever."""

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ReadOnly(Kept):
    """Rows that only machines write."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


if TYPE_CHECKING:  # generic for the type checker only
    _Admin = admin.ModelAdmin[Any]
    Tabular = admin.TabularInline[Any, Any]
    Form = ModelForm[Any]
else:
    _Admin, Tabular, Form = admin.ModelAdmin, admin.TabularInline, ModelForm


class Page(AsSeen, _Admin):
    list_per_page = 50
    show_full_result_count = False

    def done(self, request: HttpRequest, what: str, changes: Iterable[Version | None]) -> None:
        """Tell how many rows changed, and whether Redis has it: an operator who revokes wants to know."""
        versions = [version for version in changes if version is not None]
        if all(version.applied for version in versions):
            self.message_user(request, f"{what}: {len(versions)}, in force on the next request.", messages.SUCCESS)
        else:
            self.message_user(
                request, f"{what}: {len(versions)}. Redis is away; in force when it is back.", messages.WARNING
            )
