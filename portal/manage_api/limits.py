"""Limits and tier: what is used of each limit just now, the ladder, the way up, the way here; and alerts."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers

from billing import alerts, gauges, ladder
from billing.gauges import Gauge
from billing.limits import CONCURRENT, SCOPES, UNIT_FIELDS, WINDOWS
from billing.models import Payer, Tier, TierChange
from keys.models import Role
from portal import standing
from portal.manage_api.fields import Shape, Text, Whole, Wish, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first

TAG = "Limits"
UNITS = [*UNIT_FIELDS, CONCURRENT]
ALERTS_MAX = 100


class GaugeShape(Shape):
    name = serializers.CharField(help_text="As refusals name it")
    unit = serializers.ChoiceField(UNITS)
    window = serializers.ChoiceField(WINDOWS)
    scope = serializers.ChoiceField(SCOPES)
    key = serializers.CharField(allow_null=True, help_text="Id of the key it holds for")
    model = serializers.CharField(allow_null=True)
    limit = serializers.IntegerField()
    used = serializers.IntegerField()
    held = serializers.IntegerField(help_text="Set aside by running calls")
    left = serializers.IntegerField()
    resets_at = utc(allow_null=True)
    is_allotment = serializers.BooleanField(help_text="Past it, calls are paid from the balance")
    is_exception = serializers.BooleanField(help_text="Stands in place of the tier's own limit")


class LimitsShape(Shape):
    at = utc()
    is_live = serializers.BooleanField(help_text="false: running calls and the last seconds are not known just now")
    tier = serializers.CharField(allow_null=True)
    tier_since = utc(allow_null=True)
    payer = serializers.ChoiceField(Payer.choices)
    limits = GaugeShape(many=True)
    used_today = serializers.DictField(child=serializers.IntegerField(), help_text="By unit, limited or not")
    EXAMPLE = {
        "at": "2026-11-21T09:00:00Z",
        "is_live": True,
        "tier": "free",
        "tier_since": "2026-11-01T09:00:00Z",
        "payer": "included",
        "limits": [
            {
                "name": "organization.tokens.day",
                "unit": "tokens",
                "window": "day",
                "scope": "organization",
                "key": None,
                "model": None,
                "limit": 100_000,
                "used": 5_760,
                "held": 0,
                "left": 94_240,
                "resets_at": "2026-11-22T00:00:00Z",
                "is_allotment": False,
                "is_exception": False,
            }
        ],
        "used_today": {"requests": 12, "tokens": 5_760},
    }


class TierLimitShape(Shape):
    unit = serializers.ChoiceField(UNITS)
    window = serializers.ChoiceField(WINDOWS)
    scope = serializers.ChoiceField(SCOPES)
    model = serializers.CharField(allow_null=True)
    amount = serializers.IntegerField()
    is_allotment = serializers.BooleanField()


class TierShape(Shape):
    slug = serializers.CharField()
    name = serializers.CharField()
    rank = serializers.IntegerField()
    payer = serializers.ChoiceField(Payer.choices)
    is_own = serializers.BooleanField()
    how = serializers.CharField(help_text="How an account comes there")
    limits = TierLimitShape(many=True)


class ConditionShape(Shape):
    text = serializers.CharField()
    is_met = serializers.BooleanField()
    percent = serializers.IntegerField()
    missing = serializers.CharField(allow_blank=True)


class WayShape(Shape):
    tier = serializers.CharField()
    conditions = ConditionShape(many=True)
    moves_at = utc(allow_null=True, help_text="If all conditions hold then")


class LadderShape(Shape):
    tiers = TierShape(many=True)
    next = WayShape(allow_null=True)
    EXAMPLE = {
        "tiers": [
            {
                "slug": "free",
                "name": "Free",
                "rank": 0,
                "payer": "included",
                "is_own": True,
                "how": "Every account starts here",
                "limits": [],
            }
        ],
        "next": {
            "tier": "builder",
            "conditions": [
                {
                    "text": "5 days with a call",
                    "is_met": False,
                    "percent": 40,
                    "missing": "3 more days with at least one call",
                }
            ],
            "moves_at": "2026-11-22T00:05:00Z",
        },
    }


class TierChangeShape(Shape):
    at = utc()
    from_tier = serializers.CharField(allow_null=True)
    to_tier = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    EXAMPLE = {"at": "2026-11-01T09:00:00Z", "from_tier": None, "to_tier": "free", "reason": "sign-up"}


class AlertsShape(Shape):
    percents = serializers.ListField(child=serializers.IntegerField())
    limits = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="null: those of a month or a lifetime, of the account"
    )
    EXAMPLE = {"percents": [80, 100], "limits": ["organization.tokens.day"]}


class AlertsWish(Wish):
    percents = serializers.ListField(
        child=Whole(min_value=1, max_value=100), max_length=alerts.PERCENTS_MAX, help_text="Empty: never"
    )
    limits = serializers.ListField(child=Text(max_length=60), max_length=ALERTS_MAX, help_text="Names of limits")
    EXAMPLE = {"percents": [80, 100], "limits": ["organization.tokens.day"]}


class Limits(Endpoint):
    @operation("Read limits", name="read_limits", tag=TAG, role=Role.VIEWER, gives=LimitsShape)
    def get(self, call: Call) -> dict[str, Any]:
        """What the next call is judged by."""
        tier, since = ladder.standing_of(call.organization)
        reading = gauges.of(call.organization, tier, timezone.now())
        return {
            "at": reading.at,
            "is_live": reading.is_live,
            "tier": tier.slug if tier else None,
            "tier_since": since,
            "payer": ladder.payer_of(call.organization, tier),
            "limits": [_gauge(gauge) for gauge in reading.gauges],
            "used_today": reading.today,
        }


class Ladder(Endpoint):
    @operation("Read the ladder of tiers", name="read_ladder", tag=TAG, role=Role.VIEWER, gives=LadderShape)
    def get(self, call: Call) -> dict[str, Any]:
        """Lowest first; and what leads to the next one."""
        organization = call.organization
        tier, _since = ladder.standing_of(organization)
        tiers = standing.ladder_of(organization.brand)
        way = standing.way_up(organization, gauges.of(organization, tier, timezone.now()), tiers)
        return {
            "tiers": [_tier(rung) for rung in standing.rungs(tiers, tier, organization.brand)],
            "next": _way(way) if way else None,
        }


class TierChanges(Endpoint):
    @operation(
        "List changes of tier", name="list_tier_changes", tag=TAG, role=Role.VIEWER, query=Paged, gives=TierChangeShape
    )
    def get(self, call: Call) -> Page[Any]:
        rows = TierChange.objects.filter(organization=call.organization).select_related("from_tier", "to_tier")
        page = newest_first(rows, Place.of(call.query, f"tier changes {call.organization.pk}"))
        return Page([_change(row) for row in page.rows], page.next_cursor)


class Alerts(Endpoint):
    @operation("Read alerts", name="read_alerts", tag=TAG, role=Role.VIEWER, gives=AlertsShape)
    def get(self, call: Call) -> dict[str, Any]:
        """At which shares of which limits owners, admins and billing are written to."""
        chosen = alerts.thresholds_of([call.organization])[call.organization.pk]
        return {"percents": chosen.percents, "limits": None if chosen.limits is None else sorted(chosen.limits)}

    @operation("Choose alerts", name="put_alerts", tag=TAG, role=Role.ADMIN, takes=AlertsWish, gives=AlertsShape)
    def put(self, call: Call) -> dict[str, Any]:
        row = alerts.choose(organization=call.organization, **call.data, **call.by)
        return {"percents": row.percents, "limits": row.limits}


def _gauge(gauge: Gauge) -> dict[str, Any]:
    limit = gauge.limit
    return {
        **{name: getattr(gauge, name) for name in ("name", "used", "held", "left", "resets_at")},
        **{name: getattr(limit, name) for name in ("unit", "window", "scope", "is_allotment")},
        "key": gauge.key.public_id if gauge.key else None,
        "model": gauge.model.slug if gauge.model else None,
        "limit": limit.amount,
        "is_exception": gauge.override is not None,
    }


def _tier(rung: standing.Rung) -> dict[str, Any]:
    return {
        **{name: getattr(rung.tier, name) for name in ("slug", "name", "rank", "payer")},
        "is_own": rung.is_mine,
        "how": rung.how,
        "limits": [
            {
                **{name: getattr(limit, name) for name in ("unit", "window", "scope", "amount", "is_allotment")},
                "model": limit.model.slug if limit.model else None,
            }
            for limit in rung.limits
        ],
    }


def _way(way: standing.Way) -> dict[str, Any]:
    return {
        "tier": way.tier.slug,
        "conditions": [
            {"text": one.text, "is_met": one.is_met, "percent": one.share, "missing": one.missing}
            for one in way.conditions
        ],
        "moves_at": way.moves_at,
    }


def _change(row: TierChange) -> dict[str, Any]:
    before: Tier | None = row.from_tier
    return {
        "at": row.at,
        "from_tier": before.slug if before else None,
        "to_tier": row.to_tier.slug,
        "reason": row.reason,
    }
