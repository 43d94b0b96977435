"""Calls and refusals, newest first, and one of them explained. Bodies are not stored."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from rest_framework import serializers

from billing import calls, explaining
from keys.models import Role
from portal import remedies, request_filter, request_list
from portal.manage_api.fields import Shape, Word, nanos, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place
from proxy.models import RefusalRecord, TestCall
from proxy.sandbox import calls as test_calls

TAG = "Requests"
TOKENS = (
    *(
        "uncached_input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "output_tokens",
        "reasoning_tokens",
        "images",
    ),
)


class RefusedShape(Shape):
    reason = serializers.CharField()
    message = serializers.CharField(allow_blank=True)
    limit = serializers.CharField(allow_null=True)
    remedy = serializers.CharField(help_text="What to do about it")


class SettledShape(Shape):
    """Of a call that ran."""

    endpoint = serializers.CharField()
    stream = serializers.BooleanField()
    end_reason = serializers.CharField()
    usage_source = serializers.CharField()
    payer = serializers.CharField()
    uncached_input_tokens = serializers.IntegerField()
    cache_read_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    images = serializers.IntegerField()
    list_cost_nanos = nanos()
    cost_nanos = nanos()
    first_token_ms = serializers.IntegerField(allow_null=True)
    duration_ms = serializers.IntegerField(allow_null=True)
    settled_at = utc()
    user = serializers.CharField(allow_null=True)
    metadata = serializers.DictField(allow_null=True)


SETTLED = {
    "endpoint": "chat",
    "stream": True,
    "end_reason": "stop",
    "usage_source": "final",
    "payer": "prepaid",
    "uncached_input_tokens": 400,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 80,
    "reasoning_tokens": 0,
    "images": 0,
    "list_cost_nanos": 128_000,
    "cost_nanos": 128_000,
    "first_token_ms": 180,
    "duration_ms": 900,
    "settled_at": "2026-11-21T09:00:01Z",
    "user": None,
    "metadata": {},
}


class RequestShape(Shape):
    id = serializers.CharField(help_text="As in the header x-request-id")
    at = utc()
    mode = serializers.ChoiceField(["live", "test"], help_text="test: made by a test key, and part of no sum")
    status = serializers.IntegerField()
    model = serializers.CharField(allow_null=True)
    key = serializers.CharField(allow_null=True, help_text="Hint of the key")
    key_id = serializers.CharField(allow_null=True, help_text="Id of the key, to ask for its requests")
    key_name = serializers.CharField(allow_null=True)
    call = SettledShape(allow_null=True, help_text="null for what was refused before it ran")
    refusal = RefusedShape(allow_null=True)
    EXAMPLE: dict[str, Any] = {
        "id": "019aa5c0-0000-7000-8000-000000000000",
        "at": "2026-11-21T09:00:00Z",
        "mode": "live",
        "status": 200,
        "model": "aion-v3",
        "key": "ak-…Ab3d",
        "key_id": "key_7Qd2",
        "key_name": "server",
        "call": SETTLED,
        "refusal": None,
    }


class LineShape(Shape):
    name = serializers.CharField()
    quantity = serializers.IntegerField()
    unit = serializers.CharField()
    price_picos = serializers.IntegerField(help_text="Of `per` of them; picos: 10⁻¹² of the currency unit")
    per = serializers.IntegerField()
    amount_picos = serializers.IntegerField()
    note = serializers.CharField(allow_blank=True)


class ExplanationShape(Shape):
    """The lines add up to `sum_picos`; rounded up once, that is `rounded_nanos`; `cost_nanos` is what was charged."""

    lines = LineShape(many=True)
    sum_picos = serializers.IntegerField()
    rounded_nanos = nanos()
    list_cost_nanos = nanos()
    cost_nanos = nanos()
    words = serializers.ListField(child=serializers.CharField())


class ExplainedShape(RequestShape):
    explanation = ExplanationShape(allow_null=True)
    EXAMPLE: dict[str, Any] = RequestShape.EXAMPLE | {
        "explanation": {
            "lines": [
                {
                    "name": "input",
                    "quantity": 400,
                    "unit": "tokens",
                    "price_picos": 200_000_000_000,
                    "per": 1_000_000,
                    "amount_picos": 80_000_000,
                    "note": "",
                },
                {
                    "name": "output",
                    "quantity": 80,
                    "unit": "tokens",
                    "price_picos": 600_000_000_000,
                    "per": 1_000_000,
                    "amount_picos": 48_000_000,
                    "note": "",
                },
            ],
            "sum_picos": 128_000_000,
            "rounded_nanos": 128_000,
            "list_cost_nanos": 128_000,
            "cost_nanos": 128_000,
            "words": ["The model finished its answer."],
        }
    }


class RequestsAsked(Paged):
    show = serializers.ChoiceField(["served", "refused", "test"], required=False)
    key = Word(max_length=40, help_text="Only of the key with this id")
    model = Word(max_length=120, help_text="Only of this model")
    end = serializers.ChoiceField(
        list(request_filter.ENDS), required=False, help_text="How calls ended, or a group of ends"
    )
    since = serializers.DateField(required=False, help_text="First day, of the account")
    until = serializers.DateField(required=False, help_text="Last day, included")
    user = Word(max_length=200, help_text="What calls gave as `user`")
    metadata = Word(max_length=600, help_text="A name, or name=value, of `metadata`")


class Requests(Endpoint):
    @operation(
        "List requests", name="list_requests", tag=TAG, role=Role.VIEWER, query=RequestsAsked, gives=RequestShape
    )
    def get(self, call: Call) -> Page[Any]:
        """A search by `end`, `user` or `metadata` lists calls only. A page of one by these, `key` or `model` looks at
        10,000 requests, and may be short or empty with a cursor to go on. Refusals are kept for a week, and so are
        test calls, which are listed where `show` asks for them only."""
        query = call.query
        marks = calls.Marks.read(query.get("user"), [query["metadata"]] if "metadata" in query else [])
        words: dict[str, str] = {
            name: str(query[name]) for name in ("key", "model", "end", "since", "until") if name in query
        }
        only = request_filter.read(call.organization, words, marks)
        asked = [query.get(name, "") for name in ("show", "user", "metadata")] + ([words] if words else [])
        place = Place.of(query, f"requests {call.organization.pk} {asked}")
        if ("key" in words and only.key is None) or ("model" in words and only.model is None):
            return Page([], None)
        found = request_list.listed(
            call.organization.pk,
            show=query.get("show", ""),
            before=UUID(place.after) if place.after else None,
            only=only,
            limit=place.limit,
        )
        rows = [_shown(row) for row in request_list.named(found.rows)]
        return Page(rows, place.next(str(found.older)) if found.older else None)


class OneRequest(Endpoint):
    @operation("Explain a request", name="explain_request", tag=TAG, role=Role.VIEWER, gives=ExplainedShape)
    def get(self, call: Call, request_id: UUID) -> dict[str, Any]:
        """What it cost, line by line, and why; or why it was refused. The books have it a second after its end."""
        settled = calls.call_of(request_id, organization_id=call.organization.pk)
        refusal = RefusalRecord.objects.filter(call_id=request_id, organization_id=call.organization.pk).first()
        test = None if settled else test_calls.of_id(request_id, organization_id=call.organization.pk)
        if settled is None and refusal is None and test is None:
            raise Http404
        (row,) = request_list.named([request_list.Row(request_id, settled, refusal, test)])
        return _shown(row) | {"explanation": _explained(settled) if settled else None}


def _shown(row: request_list.Row) -> dict[str, Any]:
    return {
        "id": str(row.call_id),
        "at": row.at,
        "mode": "test" if row.is_test else "live",
        "status": row.status,
        "model": row.model or None,
        "key": row.key or None,
        "key_id": row.api_key.public_id if row.api_key else None,
        "key_name": row.api_key.name if row.api_key else None,
        "call": _settled(row.call) if row.call else _tried(row.test) if row.test else None,
        "refusal": _refused(row.refusal) if row.refusal else None,
    }


def _settled(call: calls.Call) -> dict[str, Any]:
    event = call.event
    return {
        **{name: getattr(event, name) for name in ("endpoint", "stream", "end_reason", "payer", "metadata")},
        **{name: call.total(name) or 0 for name in (*TOKENS, "list_cost_nanos")},
        "usage_source": call.usage_source,
        "cost_nanos": call.cost_nanos,
        "first_token_ms": event.first_token_ms,
        "duration_ms": event.duration_ms,
        "settled_at": call.settled_at,
        "user": event.user or None,
    }


def _tried(test: TestCall) -> dict[str, Any]:
    same = ("endpoint", "stream", "end_reason", "first_token_ms", "duration_ms", "settled_at")
    return {
        **{name: getattr(test, name) for name in same},
        **{name: test.total(name) or 0 for name in TOKENS},
        "usage_source": "final",
        "payer": "test",
        "list_cost_nanos": 0,
        "cost_nanos": 0,
        "user": None,
        "metadata": {},
    }


def _refused(record: RefusalRecord) -> dict[str, Any]:
    return {
        "reason": record.reason,
        "message": record.message,
        "limit": record.limit or None,
        "remedy": remedies.remedy(record.reason),
    }


def _explained(call: calls.Call) -> dict[str, Any]:
    bill = explaining.bill(call)
    words = [explaining.ended(call), *explaining.flags_in_words(call.event.flags), bill.note]
    return {
        "lines": [
            {
                **{name: getattr(line, name) for name in ("name", "quantity", "unit", "price_picos", "per", "note")},
                "amount_picos": line.picos,
            }
            for line in bill.lines
        ],
        "sum_picos": bill.picos,
        **{name: getattr(bill, name) for name in ("rounded_nanos", "list_cost_nanos", "cost_nanos")},
        "words": [text for text in words if text],
    }
