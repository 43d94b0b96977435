"""API keys: the ones that call models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils import timezone
from rest_framework import serializers

from billing import limits
from billing.models import Model
from keys import access, issuing
from keys.models import ApiKey, Organization, Role, Scope
from portal.manage_api.fields import Ahead, Choice, EmptyWish, Shape, Text, Whole, Wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first
from portal.manage_api.problems import Problem

TAG = "API keys"
AT_ONCE_MAX = 100
OVERLAP_HOURS_MAX = 30 * 24
UNITS = (*limits.UNIT_FIELDS, limits.CONCURRENT)


class LimitShape(Shape):
    unit = serializers.ChoiceField(UNITS, help_text="nanos is a budget: what may be charged")
    window = serializers.ChoiceField(limits.WINDOWS)
    amount = serializers.IntegerField()


class UseShape(Shape):
    at = utc()
    address = serializers.CharField(allow_null=True)
    agent = serializers.CharField(allow_blank=True)


class KeyShape(Shape):
    id = serializers.CharField()
    name = serializers.CharField()
    hint = serializers.CharField(help_text="What of the secret may be seen")
    state = serializers.ChoiceField(["live", "expired", "revoked"])
    mode = serializers.ChoiceField(ApiKey.Mode.values, help_text="test: reaches no model and costs nothing")
    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices))
    models = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="null: every one")
    networks = serializers.ListField(child=serializers.CharField())
    limits = LimitShape(many=True)
    created_at = utc()
    created_by = serializers.CharField(allow_null=True)
    service_account = serializers.CharField(allow_null=True, help_text="Id of the service account it belongs to")
    expires_at = utc(allow_null=True)
    revoked_at = utc(allow_null=True)
    rotated_from = serializers.CharField(allow_null=True)
    last_use = UseShape(allow_null=True)
    EXAMPLE = {
        "id": "key_22222222222222222222",
        "name": "production server",
        "hint": "ak-…Ab3d",
        "state": "live",
        "mode": "live",
        "scopes": ["chat", "models"],
        "models": None,
        "networks": ["203.0.113.0/24"],
        "limits": [{"unit": "nanos", "window": "month", "amount": 50_000_000_000}],
        "created_at": "2026-11-21T09:00:00Z",
        "created_by": "ada@example.com",
        "service_account": None,
        "expires_at": None,
        "revoked_at": None,
        "rotated_from": None,
        "last_use": {"at": "2026-11-21T09:30:00Z", "address": "203.0.113.7", "agent": "OpenAI/Python 3.52.0"},
    }


class IssuedKeyShape(KeyShape):
    secret = serializers.CharField(help_text="Shown this once, and kept nowhere")
    EXAMPLE = KeyShape.EXAMPLE | {"last_use": None, "secret": "ak-" + "0" * 27 + "1aAb3d"}


class LimitWish(Wish):
    unit = Choice(UNITS)
    window = Choice(limits.WINDOWS)
    amount = Whole(min_value=0, max_value=limits.AMOUNT_MAX)


class KeyChangeWish(Wish):
    name = Text(max_length=100, required=False)
    scopes = serializers.ListField(child=Choice(Scope.choices), min_length=1, max_length=20, required=False)
    models = serializers.ListField(
        child=Text(max_length=120), min_length=1, max_length=500, allow_null=True, required=False
    )
    networks = serializers.ListField(
        child=Text(max_length=50), max_length=issuing.CIDRS_MAX, required=False, help_text="Addresses or networks"
    )
    limits = LimitWish(many=True, required=False)
    expires_at = Ahead(allow_null=True, required=False)
    EXAMPLE = {"name": "production server", "limits": [{"unit": "tokens", "window": "day", "amount": 1_000_000}]}


class KeyWish(KeyChangeWish):
    name = Text(max_length=100)
    mode = Choice(ApiKey.Mode.values, required=False, help_text="live unless said; never changes")
    service_account = Text(max_length=40, required=False, help_text="Id of the service account that it is to belong to")
    EXAMPLE = {
        "name": "production server",
        "scopes": ["chat", "models"],
        "networks": ["203.0.113.0/24"],
        "limits": [{"unit": "nanos", "window": "month", "amount": 50_000_000_000}],
    }


class RotationWish(Wish):
    overlap_hours = Whole(
        min_value=0,
        max_value=OVERLAP_HOURS_MAX,
        required=False,
        help_text="How long the old key goes on; 24 unless said",
    )
    EXAMPLE = {"overlap_hours": 24}


class KeysWish(Wish):
    ids = serializers.ListField(child=Text(max_length=40), min_length=1, max_length=AT_ONCE_MAX)
    EXAMPLE = {"ids": ["key_22222222222222222222"]}


class KeysShape(Shape):
    data = KeyShape(many=True)  # type: ignore[assignment]
    EXAMPLE = {"data": [KeyShape.EXAMPLE | {"state": "revoked", "revoked_at": "2026-11-21T10:00:00Z"}]}


class KeysAsked(Paged):
    state = serializers.ChoiceField(["live", "expired", "revoked"], required=False)


class Keys(Endpoint):
    @operation("List API keys", name="list_keys", tag=TAG, role=Role.VIEWER, query=KeysAsked, gives=KeyShape)
    def get(self, call: Call) -> Page[Any]:
        rows = _in_state(
            call.organization.keys.filter(manages_as="", purpose=ApiKey.Purpose.PROGRAM), call.query.get("state")
        )
        rows = rows.select_related("use", "created_by", "rotated_from", "service_account")
        scope = f"keys {call.organization.pk} {call.query.get('state', '')}"
        page = newest_first(rows, Place.of(call.query, scope))
        return Page([shown(row) for row in page.rows], page.next_cursor)

    @operation(
        "Create an API key",
        name="create_key",
        tag=TAG,
        role=Role.DEVELOPER,
        takes=KeyWish,
        gives=IssuedKeyShape,
        status=201,
        counted="keys",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Its secret is in this answer only. Without `scopes` it may do all that keys may, without `models` use all. In
        mode `test` it gets made-up answers in the form of real ones, for nothing, at most 60 a minute."""
        issued = issuing.issue(organization=call.organization, **_values(call.organization, call.data), **call.by)
        return shown(issued.key) | {"secret": issued.secret}


class Key(Endpoint):
    @operation("Read an API key", name="read_key", tag=TAG, role=Role.VIEWER, gives=KeyShape)
    def get(self, call: Call, key: str) -> dict[str, Any]:
        return shown(access.key_of(call.organization, key))

    @operation(
        "Change an API key", name="change_key", tag=TAG, role=Role.DEVELOPER, takes=KeyChangeWish, gives=KeyShape
    )
    def patch(self, call: Call, key: str) -> dict[str, Any]:
        """What is left out stays. It holds on the key's next request."""
        row = access.key_of(call.organization, key)
        if row.revoked_at is not None:
            raise Problem(409, "key_not_live", "The key is revoked, for good; create a new one.")
        _check_limits(row, call.data)
        issuing.change(key=row, **_values(call.organization, call.data), **call.by)
        return shown(access.key_of(call.organization, key))


class KeyRotation(Endpoint):
    @operation(
        "Rotate an API key",
        name="rotate_key",
        tag=TAG,
        role=Role.DEVELOPER,
        takes=RotationWish,
        gives=IssuedKeyShape,
        status=201,
        counted="keys",
    )
    def post(self, call: Call, key: str) -> dict[str, Any]:
        """A new key like the old one, which goes on for the overlap; its secret is in this answer only."""
        row = access.key_of(call.organization, key)
        overlap = timedelta(hours=call.data.get("overlap_hours", 24))
        try:
            issued = issuing.rotate(key=row, overlap=overlap, **call.by)
        except issuing.KeyNotLive:
            raise Problem(409, "key_not_live", "The key is revoked or expired; create a new one.") from None
        return shown(issued.key) | {"secret": issued.secret}


class KeyRevocation(Endpoint):
    @operation("Revoke an API key", name="revoke_key", tag=TAG, role=Role.DEVELOPER, takes=EmptyWish, gives=KeyShape)
    def post(self, call: Call, key: str) -> dict[str, Any]:
        """For good: its next request is refused. Revoking it again changes nothing."""
        row = access.key_of(call.organization, key)
        issuing.revoke(key=row, **call.by)
        return shown(row)


class KeysRevocation(Endpoint):
    @operation(
        "Revoke several API keys", name="revoke_keys", tag=TAG, role=Role.DEVELOPER, takes=KeysWish, gives=KeysShape
    )
    def post(self, call: Call) -> dict[str, Any]:
        """All of them or, where one is not the account's, none."""
        rows = [access.key_of(call.organization, public_id) for public_id in dict.fromkeys(call.data["ids"])]
        issuing.revoke_all(keys=rows, **call.by)
        return {"data": [shown(row) for row in rows]}


def shown(row: ApiKey) -> dict[str, Any]:
    use = getattr(row, "use", None)
    return {
        "id": row.public_id,
        "name": row.name,
        "hint": row.hint,
        "state": state_of(row),
        "mode": row.mode,
        "scopes": row.scopes,
        "models": row.model_slugs,
        "networks": row.cidrs,
        "limits": row.limits,
        "created_at": row.created_at,
        "created_by": row.created_by.email if row.created_by and not row.created_by.is_staff else None,
        "service_account": row.service_account.public_id if row.service_account else None,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "rotated_from": row.rotated_from.public_id if row.rotated_from else None,
        "last_use": use and {"at": use.last_used_at, "address": use.address, "agent": use.agent},
    }


def state_of(row: ApiKey) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= timezone.now() else "live"


def _in_state(rows: QuerySet[ApiKey], state: str | None) -> QuerySet[ApiKey]:
    now = timezone.now()
    if state == "revoked":
        return rows.exclude(revoked_at=None)
    if state == "expired":
        return rows.filter(revoked_at=None, expires_at__lte=now)
    if state == "live":
        return rows.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
    return rows


def _check_limits(row: ApiKey, data: Mapping[str, Any]) -> None:
    issuing.checked({"limits": data.get("limits", [])}, row.organization.brand, ApiKey.Mode(row.mode))


NAMES = {"models": "model_slugs", "networks": "cidrs"}
"""What is called otherwise inside."""


def _values(organization: Organization, data: Mapping[str, Any]) -> dict[str, Any]:
    """As issuing takes them. What the domain refuses is told under the name it came with."""
    values = {NAMES.get(name, name): value for name, value in data.items()}
    if "limits" in values:
        try:
            values["limits"] = limits.normalised_key_limits([dict(limit) for limit in values["limits"]])
        except limits.LimitInvalid as error:
            raise ValidationError({"limits": str(error)}) from None
    if "service_account" in values:
        rows = organization.service_accounts.filter(public_id=values["service_account"], disabled_at=None)
        values["service_account"] = rows.first()
        if values["service_account"] is None:
            raise ValidationError({"service_account": "There is no such service account, or it is disabled."})
    if values.get("model_slugs"):
        known = Model.objects.filter(brand=organization.brand, slug__in=values["model_slugs"])
        unknown = set(values["model_slugs"]) - set(known.values_list("slug", flat=True))
        if unknown:
            raise ValidationError({"models": f"No such model: {', '.join(sorted(unknown))[:200]}"})
    try:
        mode = ApiKey.Mode(values.get("mode", ApiKey.Mode.LIVE))
        issuing.checked(
            {name: values[name] for name in values.keys() & set(issuing.CHANGEABLE)}, organization.brand, mode
        )
    except ValidationError as error:
        outside = {inner: name for name, inner in NAMES.items()}
        raise ValidationError({outside.get(k, k): v for k, v in error.message_dict.items()}) from None
    return values
