"""Webhook endpoints, their log, and sending again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import Http404
from rest_framework import serializers

from billing import webhook_deliveries, webhook_endpoints, webhook_sending
from billing.webhook_models import WebhookDelivery, WebhookEndpoint, WebhookEvent
from keys.models import Role
from portal.manage_api.fields import Choice, EmptyWish, Shape, Text, Truth, Whole, Wish, nanos, nanos_wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first
from portal.manage_api.problems import Problem

TAG = "Webhooks"
LOW_NANOS = 5 * 10**9
"""As the form of the dashboard proposes: at nought nothing would ever be low."""
OVERLAP_HOURS_MAX = webhook_endpoints.OVERLAPS_MAX.days * 24


class WebhookShape(Shape):
    id = serializers.CharField()
    url = serializers.CharField()
    events = serializers.ListField(child=serializers.ChoiceField(WebhookEvent.choices))
    low_balance_nanos = nanos()
    is_enabled = serializers.BooleanField()
    disabled_because = serializers.CharField(allow_null=True)
    failing_since = utc(allow_null=True)
    previous_secret_until = utc(allow_null=True)
    created_at = utc()
    EXAMPLE: dict[str, Any] = {
        "id": "hook_22222222222222222222",
        "url": "https://example.com/hooks",
        "events": ["key.revoked"],
        "low_balance_nanos": 5_000_000_000,
        "is_enabled": True,
        "disabled_because": None,
        "failing_since": None,
        "previous_secret_until": None,
        "created_at": "2026-11-21T09:00:00Z",
    }


class NewWebhookShape(WebhookShape):
    secret = serializers.CharField(help_text="Signs what is sent there; shown this once")
    EXAMPLE: dict[str, Any] = WebhookShape.EXAMPLE | {"secret": "whsec_bm90IGEgc2VjcmV0LCBhbiBleGFtcGxlIG9mIG9uZQ=="}


class WebhookChangeWish(Wish):
    url = Text(max_length=webhook_sending.URL_MAX, required=False)
    events = serializers.ListField(
        child=Choice(WebhookEvent.choices), min_length=1, max_length=len(WebhookEvent) * 2, required=False
    )
    low_balance_nanos = nanos_wish(required=False)
    is_enabled = Truth(required=False)
    EXAMPLE: dict[str, Any] = {"events": ["key.revoked", "balance.low"], "is_enabled": True}


class WebhookWish(Wish):
    url = Text(max_length=webhook_sending.URL_MAX)
    events = serializers.ListField(child=Choice(WebhookEvent.choices), min_length=1, max_length=len(WebhookEvent) * 2)
    low_balance_nanos = nanos_wish(required=False)
    EXAMPLE = {"url": "https://example.com/hooks", "events": ["key.revoked"], "low_balance_nanos": 5_000_000_000}


class SecretWish(Wish):
    overlap_hours = Whole(
        min_value=0,
        max_value=OVERLAP_HOURS_MAX,
        required=False,
        help_text="How long the old one signs too; 24 unless said",
    )
    EXAMPLE = {"overlap_hours": 24}


class DeliveryShape(Shape):
    event_id = serializers.CharField()
    event = serializers.CharField()
    state = serializers.ChoiceField(WebhookDelivery.State.choices)
    attempts = serializers.IntegerField()
    next_at = utc(allow_null=True)
    answer_status = serializers.IntegerField(allow_null=True)
    answer = serializers.CharField(allow_blank=True)
    created_at = utc()
    ended_at = utc(allow_null=True)
    EXAMPLE = {
        "event_id": "evt_22222222222222222222",
        "event": "key.revoked",
        "state": "delivered",
        "attempts": 1,
        "next_at": None,
        "answer_status": 204,
        "answer": "",
        "created_at": "2026-11-21T09:00:00Z",
        "ended_at": "2026-11-21T09:00:05Z",
    }


class Webhooks(Endpoint):
    @operation("List endpoints", name="list_webhooks", tag=TAG, role=Role.ADMIN, query=Paged, gives=WebhookShape)
    def get(self, call: Call) -> Page[Any]:
        rows = call.organization.webhook_endpoints.all()
        page = newest_first(rows, Place.of(call.query, f"webhooks {call.organization.pk}"))
        return Page([shown(row) for row in page.rows], page.next_cursor)

    @operation(
        "Add an endpoint",
        name="add_webhook",
        tag=TAG,
        role=Role.ADMIN,
        takes=WebhookWish,
        gives=NewWebhookShape,
        status=201,
        counted="webhooks",
    )
    def post(self, call: Call) -> dict[str, Any]:
        """Without `low_balance_nanos`, a balance is low below 5 units of the currency."""
        values = {"low_balance_nanos": LOW_NANOS, **call.data}
        row, secret = webhook_endpoints.add(organization=call.organization, **values, **call.by)
        row.refresh_from_db()
        return shown(row) | {"secret": secret}


class Webhook(Endpoint):
    @operation("Read an endpoint", name="read_webhook", tag=TAG, role=Role.ADMIN, gives=WebhookShape)
    def get(self, call: Call, endpoint: str) -> dict[str, Any]:
        return shown(_endpoint(call, endpoint))

    @operation(
        "Change an endpoint",
        name="change_webhook",
        tag=TAG,
        role=Role.ADMIN,
        takes=WebhookChangeWish,
        gives=WebhookShape,
    )
    def patch(self, call: Call, endpoint: str) -> dict[str, Any]:
        """What is left out stays. Off, nothing new is recorded for it; on again, what waits is sent."""
        row = _endpoint(call, endpoint)
        values = {name: call.data.get(name, getattr(row, name)) for name in ("url", "events", "low_balance_nanos")}
        if values.keys() & call.data.keys():
            webhook_endpoints.change(endpoint=row, **values, **call.by)
        if "is_enabled" in call.data:
            webhook_endpoints.turn(endpoint=row, on=call.data["is_enabled"], **call.by)
        return shown(_endpoint(call, endpoint))

    @operation("Remove an endpoint", name="remove_webhook", tag=TAG, role=Role.ADMIN)
    def delete(self, call: Call, endpoint: str) -> None:
        """With its log."""
        webhook_endpoints.remove(endpoint=_endpoint(call, endpoint), **call.by)


class WebhookSecret(Endpoint):
    @operation(
        "Replace an endpoint's secret",
        name="rotate_webhook_secret",
        tag=TAG,
        role=Role.ADMIN,
        takes=SecretWish,
        gives=NewWebhookShape,
        status=201,
        counted="webhooks",
    )
    def post(self, call: Call, endpoint: str) -> dict[str, Any]:
        row = _endpoint(call, endpoint)
        overlap = timedelta(hours=call.data.get("overlap_hours", 24))
        secret = webhook_endpoints.rotate(endpoint=row, overlap=overlap, **call.by)
        return shown(_endpoint(call, endpoint)) | {"secret": secret}


class WebhookTest(Endpoint):
    @operation(
        "Send a test",
        name="test_webhook",
        tag=TAG,
        role=Role.ADMIN,
        takes=EmptyWish,
        gives=DeliveryShape,
        status=202,
        counted="webhooks",
    )
    def post(self, call: Call, endpoint: str) -> dict[str, Any]:
        """Sent in a few seconds; its delivery says what came back."""
        row = webhook_deliveries.send_test(_endpoint(call, endpoint), **call.by)
        row.refresh_from_db()
        return _delivery(row)


class Deliveries(Endpoint):
    @operation("List deliveries", name="list_deliveries", tag=TAG, role=Role.ADMIN, query=Paged, gives=DeliveryShape)
    def get(self, call: Call, endpoint: str) -> Page[Any]:
        row = _endpoint(call, endpoint)
        page = newest_first(row.deliveries.all(), Place.of(call.query, f"deliveries {row.pk}"))
        return Page([_delivery(one) for one in page.rows], page.next_cursor)


class DeliveryReplay(Endpoint):
    @operation(
        "Send an event again",
        name="replay_delivery",
        tag=TAG,
        role=Role.ADMIN,
        takes=EmptyWish,
        gives=DeliveryShape,
        status=202,
        counted="webhooks",
    )
    def post(self, call: Call, endpoint: str, event_id: str) -> dict[str, Any]:
        """The same event, id and body, with a new signature and all its tries."""
        row = _endpoint(call, endpoint).deliveries.filter(event_id=event_id).first()
        if row is None:
            raise Http404
        if not webhook_deliveries.send_again(row, **call.by):
            raise Problem(409, "delivery_running", "It is being sent just now.", headers={"Retry-After": "5"})
        row.refresh_from_db()
        return _delivery(row)


def shown(row: WebhookEndpoint) -> dict[str, Any]:
    names = ("url", "events", "low_balance_nanos", "is_enabled", "failing_since", "previous_secret_until", "created_at")
    return {
        "id": row.public_id,
        **{name: getattr(row, name) for name in names},
        "disabled_because": row.disabled_because or None,
    }


def _delivery(row: WebhookDelivery) -> dict[str, Any]:
    names = ("event_id", "event", "state", "attempts", "answer_status", "answer", "created_at", "ended_at")
    waits = row.state == WebhookDelivery.State.WAITING
    return {**{name: getattr(row, name) for name in names}, "next_at": row.next_at if waits else None}


def _endpoint(call: Call, public_id: str) -> WebhookEndpoint:
    row = call.organization.webhook_endpoints.filter(public_id=public_id).first()
    if row is None:
        raise Http404
    row.organization = call.organization
    return row
