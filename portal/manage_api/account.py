"""The account itself."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from billing import ladder
from keys import organizations
from keys.models import Organization, Role
from portal.manage_api.fields import Shape, Text, Wish, utc
from portal.manage_api.operation import Call, Endpoint, operation

TAG = "Account"


class AccountShape(Shape):
    id = serializers.CharField()
    name = serializers.CharField()
    slug = serializers.CharField()
    state = serializers.ChoiceField(["active", "suspended"])
    suspended_reason = serializers.CharField(allow_null=True)
    tier = serializers.CharField(allow_null=True, help_text="Slug of the tier it stands on")
    currency = serializers.CharField(help_text="Of every amount here")
    timezone = serializers.CharField(help_text="Of days and months")
    created_at = utc()
    EXAMPLE = {
        "id": "org_22222222222222222222",
        "name": "Acme",
        "slug": "acme",
        "state": "active",
        "suspended_reason": None,
        "tier": "free",
        "currency": "USD",
        "timezone": "UTC",
        "created_at": "2026-11-21T09:00:00Z",
    }


class AccountWish(Wish):
    name = Text(max_length=100)
    EXAMPLE = {"name": "Acme"}


def account(organization: Organization) -> dict[str, Any]:
    tier, _since = ladder.standing_of(organization)
    brand = organization.brand
    return {
        "id": organization.public_id,
        "name": organization.name,
        "slug": organization.slug,
        "state": organization.state,
        "suspended_reason": organization.suspended_reason or None,
        "tier": tier.slug if tier else None,
        "currency": brand.currency,
        "timezone": brand.timezone,
        "created_at": organization.created_at,
    }


class Account(Endpoint):
    @operation("Read the account", name="read_account", tag=TAG, role=Role.VIEWER, gives=AccountShape)
    def get(self, call: Call) -> dict[str, Any]:
        return account(call.organization)

    @operation(
        *("Change the account",), name="change_account", tag=TAG, role=Role.ADMIN, takes=AccountWish, gives=AccountShape
    )
    def patch(self, call: Call) -> dict[str, Any]:
        organizations.change(organization=call.organization, **call.data, **call.by)
        return account(call.organization)
