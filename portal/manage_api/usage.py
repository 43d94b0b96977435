"""What the account used, from sums: by day or hour, grouped by model, key or how calls ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone
from rest_framework import serializers

from billing import reports
from billing.models import Model
from keys.models import Role
from portal.manage_api.fields import Shape, Word, nanos, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, cut
from portal.manage_api.problems import Problem

TAG = "Usage"
DAYS_MAX = {"day": 400, "hour": 31, "none": 400}
DAYS = 30
GROUPS: dict[str, reports.By] = {"model": "model_id", "key": "key_id", "end_reason": "end_reason"}
COUNTED = (
    *("requests", "failures", "uncached_input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"),
    *("reasoning_tokens", "images", "credits", "list_cost_nanos", "cost_nanos"),
)


class SpreadShape(Shape):
    p50 = serializers.IntegerField(allow_null=True)
    p95 = serializers.IntegerField(allow_null=True)


class UsageShape(Shape):
    starts_at = utc(allow_null=True, help_text="Of the day (the account's) or the hour; null without an interval")
    model = serializers.CharField(allow_null=True)
    key = serializers.CharField(allow_null=True, help_text="Id of the key")
    end_reason = serializers.CharField(allow_null=True)
    requests = serializers.IntegerField()
    failures = serializers.IntegerField()
    uncached_input_tokens = serializers.IntegerField()
    cache_read_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField(help_text="Part of output_tokens")
    images = serializers.IntegerField()
    credits = serializers.IntegerField()
    list_cost_nanos = nanos()
    cost_nanos = nanos()
    first_token_ms = SpreadShape()
    duration_ms = SpreadShape()
    EXAMPLE = {
        "starts_at": "2026-11-21T00:00:00Z",
        "model": "aion-v3",
        "key": None,
        "end_reason": None,
        **dict.fromkeys(COUNTED, 0),
        "requests": 12,
        "uncached_input_tokens": 4_800,
        "output_tokens": 960,
        "cost_nanos": 1_536_000,
        "list_cost_nanos": 1_536_000,
        "first_token_ms": {"p50": 180, "p95": 420},
        "duration_ms": {"p50": 900, "p95": 2_400},
    }


class UsageAsked(Paged):
    since = serializers.DateField(
        required=False, help_text="First day, of the account; 29 days before `until` unless said"
    )
    until = serializers.DateField(required=False, help_text="Last day, included; today unless said")
    interval = serializers.ChoiceField(["day", "hour", "none"], default="day")
    group_by = serializers.ChoiceField(list(GROUPS), required=False)
    model = Word(max_length=120, help_text="Only of this model")
    key = Word(max_length=40, help_text="Only of the key with this id")


class Usage(Endpoint):
    @operation("Read usage", name="read_usage", tag=TAG, role=Role.VIEWER, query=UsageAsked, gives=UsageShape)
    def get(self, call: Call) -> Page[Any]:
        """Oldest first. Periods without a call are left out. At most 400 days, 31 by the hour."""
        query = call.query
        first, last = _days(call)
        by: list[reports.By] = [GROUPS[query["group_by"]]] if "group_by" in query else []
        narrowed = _narrowed(call)
        if narrowed is None:
            rows: list[reports.Usage] = []
        elif query["interval"] == "hour":
            zone = ZoneInfo(call.organization.brand.timezone)
            since, until = (datetime.combine(day, time.min, zone) for day in (first, last + timedelta(days=1)))
            rows = reports.hours(call.organization.pk, since=since, until=until, by=by, **narrowed)
        else:
            groups: list[reports.By] = ["day", *by] if query["interval"] == "day" else by
            rows = reports.usage(call.organization.pk, first=first, last=last, by=groups, timed=True, **narrowed)
        return _paged(call, rows)


def _days(call: Call) -> tuple[date, date]:
    zone = ZoneInfo(call.organization.brand.timezone)
    last = call.query.get("until") or timezone.now().astimezone(zone).date()
    first = call.query.get("since")
    if first is None:
        first = max(last, date.min + timedelta(days=DAYS)) - timedelta(days=DAYS - 1)
    days = (last - first).days + 1
    if not 2000 <= first.year <= last.year <= 9000 or not 1 <= days <= DAYS_MAX[call.query["interval"]]:
        most = DAYS_MAX[call.query["interval"]]
        wrong = {
            "pointer": "since",
            "detail": f"From `since` to `until` are 1 to {most} days, from the year 2000 to 9000.",
        }
        raise Problem(422, "refused", wrong["detail"], errors=[wrong])
    return first, last


def _narrowed(call: Call) -> dict[str, Any] | None:
    """None where what is named is not the account's: nothing was used."""
    found: dict[str, Any] = {}
    if "model" in call.query:
        found["model_id"] = Model.objects.filter(brand=call.organization.brand, slug=call.query["model"])
    if "key" in call.query:
        found["key_id"] = call.organization.keys.filter(public_id=call.query["key"])
    ids = {name: rows.values_list("pk", flat=True).first() for name, rows in found.items()}
    return None if None in ids.values() else ids


def _paged(call: Call, rows: Sequence[reports.Usage]) -> Page[Any]:
    """Sums are cheap to make and have no position in the database: read on by their place in the order."""
    asked = {name: str(value) for name, value in call.query.items() if name not in ("cursor", "limit")}
    place = Place.of(call.query, f"usage {call.organization.pk} {sorted(asked.items())}")
    ordered = sorted(rows, key=_position)
    later = [row for row in ordered if place.after is None or _position(row) > tuple(place.after)]
    page = cut(later, place, _position)
    zone = ZoneInfo(call.organization.brand.timezone)
    return Page([_shown(row, zone) for row in page.rows], page.next_cursor)


def _position(row: reports.Usage) -> tuple[str, int, int, str]:
    at = row.starts_at.isoformat() if row.starts_at else str(row.day or "")
    return at, row.model_id or 0, row.key_id or 0, row.end_reason or ""


def _shown(row: reports.Usage, zone: ZoneInfo) -> dict[str, Any]:
    starts_at = row.starts_at
    if starts_at is None and row.day is not None:
        starts_at = datetime.combine(row.day, time.min, zone)
    return {
        "starts_at": starts_at and starts_at.astimezone(ZoneInfo("UTC")),
        "model": row.model or None,
        "key": row.key_public_id or None,
        "end_reason": row.end_reason,
        **{name: getattr(row, name) for name in COUNTED},
        "first_token_ms": {"p50": row.first_token_ms(500), "p95": row.first_token_ms(950)},
        "duration_ms": {"p50": row.duration_ms(500), "p95": row.duration_ms(950)},
    }
