"""Management keys: the ones that manage. A key makes none that may more than itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from rest_framework import serializers

from keys import access, issuing
from keys.models import ApiKey, Organization, Role
from portal.manage_api.fields import Ahead, Choice, EmptyWish, Shape, Text, Wish, utc
from portal.manage_api.keys import UseShape, state_of
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first

TAG = "Management keys"


class ManagementKeyShape(Shape):
    id = serializers.CharField()
    name = serializers.CharField()
    hint = serializers.CharField(help_text="What of the secret may be seen")
    role = serializers.ChoiceField(Role.choices)
    state = serializers.ChoiceField(["live", "expired", "revoked"])
    organization = serializers.CharField()
    networks = serializers.ListField(child=serializers.CharField())
    service_account = serializers.CharField(allow_null=True, help_text="Id of the service account it belongs to")
    created_at = utc()
    expires_at = utc(allow_null=True)
    revoked_at = utc(allow_null=True)
    last_use = UseShape(allow_null=True)
    EXAMPLE: dict[str, Any] = {
        "id": "key_22222222222222222222",
        "name": "terraform",
        "hint": "ak-…Ab3d",
        "role": "admin",
        "state": "live",
        "organization": "org_22222222222222222222",
        "networks": [],
        "service_account": None,
        "created_at": "2026-11-21T09:00:00Z",
        "expires_at": None,
        "revoked_at": None,
        "last_use": None,
    }


class IssuedManagementKeyShape(ManagementKeyShape):
    secret = serializers.CharField(help_text="Shown this once, and kept nowhere")
    EXAMPLE = ManagementKeyShape.EXAMPLE | {"secret": "ak-" + "0" * 27 + "1aAb3d"}


class ManagementKeyWish(Wish):
    name = Text(max_length=100)
    role = Choice(Role.choices)
    networks = serializers.ListField(child=Text(max_length=50), max_length=issuing.CIDRS_MAX, required=False)
    expires_at = Ahead(allow_null=True, required=False)
    service_account = Text(max_length=40, required=False, help_text="Id of the service account that it is to belong to")
    EXAMPLE = {"name": "terraform", "role": "developer", "networks": ["203.0.113.0/24"]}


class OwnKey(Endpoint):
    @operation(
        "Read the management key that asks",
        name="read_own_key",
        tag=TAG,
        role=Role.VIEWER,
        gives=ManagementKeyShape,
    )
    def get(self, call: Call) -> dict[str, Any]:
        return shown(call.key)


class ManagementKeys(Endpoint):
    @operation(
        "List management keys",
        name="list_management_keys",
        tag=TAG,
        role=Role.ADMIN,
        query=Paged,
        gives=ManagementKeyShape,
    )
    def get(self, call: Call) -> Page[Any]:
        rows = call.organization.keys.exclude(manages_as="").select_related("use", "service_account", "organization")
        page = newest_first(rows, Place.of(call.query, f"management keys {call.organization.pk}"))
        return Page([shown(row) for row in page.rows], page.next_cursor)

    @operation(
        "Create a management key",
        name="create_management_key",
        tag=TAG,
        role=Role.ADMIN,
        takes=ManagementKeyWish,
        gives=IssuedManagementKeyShape,
        status=201,
        counted="keys",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Its secret is in this answer only. Only an owner's key makes keys that manage as an owner."""
        access.require_assignment(call.key.manages_as, None, call.data["role"])
        values = _values(call.organization, call.data)
        issued = issuing.issue_for_management(organization=call.organization, **values, **call.by)
        return shown(issued.key) | {"secret": issued.secret}


class ManagementKeyRevocation(Endpoint):
    @operation(
        "Revoke a management key",
        name="revoke_management_key",
        tag=TAG,
        role=Role.ADMIN,
        takes=EmptyWish,
        gives=ManagementKeyShape,
    )
    def post(self, call: Call, management_key: str) -> dict[str, Any]:
        """For good, also the one that asks: its next request is refused. Revoking it again changes nothing."""
        row = access.management_key_of(call.organization, management_key)
        access.require_assignment(call.key.manages_as, row.manages_as, None)
        issuing.revoke(key=row, **call.by)
        return shown(row)


def shown(row: ApiKey) -> dict[str, Any]:
    use = getattr(row, "use", None)
    return {
        "id": row.public_id,
        "name": row.name,
        "hint": row.hint,
        "role": row.manages_as,
        "state": state_of(row),
        "organization": row.organization.public_id,
        "networks": row.cidrs,
        "service_account": row.service_account.public_id if row.service_account else None,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_use": use and {"at": use.last_used_at, "address": use.address, "agent": use.agent},
    }


def _values(organization: Organization, data: Mapping[str, Any]) -> dict[str, Any]:
    """As issuing takes them. What the domain refuses is told under the name it came with."""
    values = {"name": data["name"], "cidrs": data.get("networks", []), "expires_at": data.get("expires_at")}
    try:
        issuing.checked(values)
    except ValidationError as error:
        told = {"networks" if name == "cidrs" else name: texts for name, texts in error.message_dict.items()}
        raise ValidationError(told) from None
    account = None
    if "service_account" in data:
        account = organization.service_accounts.filter(public_id=data["service_account"]).first()
        if account is None:
            raise ValidationError({"service_account": "There is no such service account."})
    return values | {"role": Role(data["role"]), "service_account": account}
