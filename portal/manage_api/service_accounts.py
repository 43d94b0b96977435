"""Service accounts: members that are programs, to whom keys belong."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from keys import access, service_accounts
from keys.models import Role, ServiceAccount
from portal.manage_api.fields import Choice, EmptyWish, Shape, Text, Wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first

TAG = "Service accounts"


class ServiceAccountShape(Shape):
    id = serializers.CharField()
    name = serializers.CharField()
    role = serializers.ChoiceField(Role.choices, help_text="The most that a management key of it may do")
    state = serializers.ChoiceField(["live", "disabled"])
    created_at = utc()
    created_by = serializers.CharField(allow_null=True)
    disabled_at = utc(allow_null=True)
    EXAMPLE = {
        "id": "svc_22222222222222222222",
        "name": "nightly import",
        "role": "developer",
        "state": "live",
        "created_at": "2026-11-21T09:00:00Z",
        "created_by": "ada@example.com",
        "disabled_at": None,
    }


class ServiceAccountWish(Wish):
    name = Text(max_length=100)
    role = Choice(Role.choices)
    EXAMPLE = {"name": "nightly import", "role": "developer"}


class ServiceAccountChangeWish(Wish):
    role = Choice(Role.choices)
    EXAMPLE = {"role": "viewer"}


class ServiceAccounts(Endpoint):
    @operation(
        "List service accounts",
        name="list_service_accounts",
        tag=TAG,
        role=Role.VIEWER,
        query=Paged,
        gives=ServiceAccountShape,
    )
    def get(self, call: Call) -> Page[Any]:
        rows = call.organization.service_accounts.select_related("created_by")
        page = newest_first(rows, Place.of(call.query, f"service accounts {call.organization.pk}"))
        return Page([shown(row) for row in page.rows], page.next_cursor)

    @operation(
        "Create a service account",
        name="create_service_account",
        tag=TAG,
        role=Role.ADMIN,
        takes=ServiceAccountWish,
        gives=ServiceAccountShape,
        status=201,
        counted="keys",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Nobody signs in as one. Keys are made to belong to it by their `service_account`."""
        access.require_assignment(call.key.manages_as, None, call.data["role"])
        return shown(
            service_accounts.create(
                organization=call.organization, name=call.data["name"], role=Role(call.data["role"]), **call.by
            )
        )


class OneServiceAccount(Endpoint):
    @operation(
        "Read a service account", name="read_service_account", tag=TAG, role=Role.VIEWER, gives=ServiceAccountShape
    )
    def get(self, call: Call, service_account: str) -> dict[str, Any]:
        return shown(access.service_account_of(call.organization, service_account))

    @operation(
        "Change the role of a service account",
        name="change_service_account",
        tag=TAG,
        role=Role.ADMIN,
        takes=ServiceAccountChangeWish,
        gives=ServiceAccountShape,
    )
    def patch(self, call: Call, service_account: str) -> dict[str, Any]:
        """It is the most that its keys may do; one that does more is revoked first."""
        row = access.service_account_of(call.organization, service_account)
        access.require_assignment(call.key.manages_as, row.role, call.data["role"])
        service_accounts.set_role(account=row, role=Role(call.data["role"]), **call.by)
        return shown(row)


class ServiceAccountEnd(Endpoint):
    @operation(
        "Disable a service account",
        name="disable_service_account",
        tag=TAG,
        role=Role.ADMIN,
        takes=EmptyWish,
        gives=ServiceAccountShape,
    )
    def post(self, call: Call, service_account: str) -> dict[str, Any]:
        """For good, and all its keys with it: the next request with one is refused. Disabling it again changes
        nothing."""
        row = access.service_account_of(call.organization, service_account)
        access.require_assignment(call.key.manages_as, row.role, None)
        service_accounts.disable(account=row, **call.by)
        return shown(row)


def shown(row: ServiceAccount) -> dict[str, Any]:
    return {
        "id": row.public_id,
        "name": row.name,
        "role": row.role,
        "state": "live" if row.disabled_at is None else "disabled",
        "created_at": row.created_at,
        "created_by": row.created_by.email if row.created_by and not row.created_by.is_staff else None,
        "disabled_at": row.disabled_at,
    }
