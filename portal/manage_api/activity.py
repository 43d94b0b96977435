"""Who changed what in the account, and from where."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from keys.models import Role
from portal import trail
from portal.manage_api.fields import Day, Shape, Word, utc
from portal.manage_api.operation import Call, Endpoint, operation
from portal.manage_api.paging import Page, Paged, Place, newest_first


class ChangeShape(Shape):
    name = serializers.CharField()
    before = serializers.CharField(allow_blank=True)
    after = serializers.CharField(allow_blank=True)


class EventShape(Shape):
    at = utc()
    who = serializers.CharField()
    action = serializers.CharField()
    words = serializers.CharField()
    subject = serializers.CharField(help_text="Id of what was changed")
    changes = ChangeShape(many=True)
    address = serializers.CharField(allow_null=True)
    EXAMPLE = {
        "at": "2026-11-21T09:00:00Z",
        "who": "ada@example.com",
        "action": "key.changed",
        "words": "changed a key",
        "subject": "key_22222222222222222222",
        "address": "203.0.113.7",
        "changes": [{"name": "name", "before": "server", "after": "production server"}],
    }


class ActivityAsked(Paged):
    about = serializers.ChoiceField(list(trail.SUBJECTS), required=False)
    who = Word(max_length=254, help_text="Part of an address or of a key's name")
    since = Day(required=False, help_text="First day, of the account")
    until = Day(required=False, help_text="Last day, included")


class Activity(Endpoint):
    @operation(
        "List activity", name="list_activity", tag="Activity", role=Role.ADMIN, query=ActivityAsked, gives=EventShape
    )
    def get(self, call: Call) -> Page[Any]:
        names = ("about", "who", "since", "until")
        chosen = trail.Filter.read({name: str(call.query[name]) for name in names if name in call.query})
        place = Place.of(call.query, f"activity {call.organization.pk} {sorted(chosen.query.items())}")
        page = newest_first(trail.events(call.organization, chosen), place)
        return Page([_shown(line) for line in trail.lines(list(page.rows), call.organization)], page.next_cursor)


def _shown(line: trail.Line) -> dict[str, Any]:
    return {
        **{name: getattr(line, name) for name in ("at", "who", "action", "subject", "address")},
        "words": line.what,
        "changes": [{name: getattr(one, name) for name in ("name", "before", "after")} for one in line.changes],
    }
