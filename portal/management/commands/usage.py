"""`manage.py usage`: settled calls, one JSON object per line, oldest settlement first; corrections are folded in.
The house's own calls (the canary's) only where its organization is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q

from billing import calls
from billing.calls import Call, Marks
from billing.models import Model
from keys.models import ApiKey, Brand, Organization
from portal.canary import accounts
from portal.checks import OF_SETTINGS

TOKENS = (
    "uncached_input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)


class Names:
    """Ids → what people call them, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], str] = {}

    def brand(self, brand_id: int) -> str:
        return self._name("brand", brand_id, Brand.objects.values_list("slug"))

    def organization(self, organization_id: int) -> str:
        return self._name("organization", organization_id, Organization.objects.values_list("slug"))

    def key_hint(self, key_id: int) -> str:
        return self._name("key", key_id, ApiKey.objects.values_list("hint"))

    def model(self, model_id: int) -> str:
        return self._name("model", model_id, Model.objects.values_list("slug"))

    def _name(self, kind: str, row_id: int, names: Any) -> str:
        if (kind, row_id) not in self._known:
            row = names.filter(pk=row_id).first()
            self._known[kind, row_id] = row[0] if row else ""
        return self._known[kind, row_id]


class Command(BaseCommand):
    help = "Prints settled calls as JSON lines; with --since those settled or corrected since then."
    requires_system_checks = OF_SETTINGS

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", type=_moment, help="ISO 8601, e.g. 2026-11-21T00:00:00Z; UTC where no zone is given"
        )
        parser.add_argument("--brand", help="a brand's slug")
        parser.add_argument("--organization", help="an organization's slug or public id (org_…)")
        parser.add_argument("--user", help="only calls that gave exactly this `user`")
        parser.add_argument(
            "--metadata",
            action="append",
            default=[],
            metavar="NAME[=VALUE]",
            help="only calls with this metadata; given again, with all of them",
        )
        parser.add_argument("--format", choices=["jsonl"], default="jsonl")

    def handle(self, *args: Any, **options: Any) -> None:
        names = Names()
        marks = Marks.read(options["user"], options["metadata"])
        for call in _calls(options["since"], options["brand"], options["organization"], marks):
            self.stdout.write(orjson.dumps(line(call, names)).decode())


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _calls(
    since: datetime | None, brand_slug: str | None, organization_name: str | None, marks: Marks
) -> Iterator[Call]:
    brand = Brand.objects.filter(slug=brand_slug).first() if brand_slug else None
    if brand_slug and brand is None:
        raise CommandError(f"There is no brand {brand_slug}.")
    ids: list[int] | None = None
    if organization_name:
        named = Organization.objects.filter(Q(slug=organization_name) | Q(public_id=organization_name))
        ids = list((named.filter(brand=brand) if brand else named).values_list("id", flat=True))
        if not ids:
            raise CommandError(f"There is no organization {organization_name}.")
    hidden = frozenset(accounts.ids()) if ids is None else frozenset[int]()
    found = calls.settled(since=since, brand_id=brand.id if brand else None, organization_ids=ids, marks=marks)
    return (call for call in found if call.event.organization_id not in hidden)


def line(call: Call, names: Names) -> dict[str, Any]:
    event = call.event
    return {
        "call_id": str(event.call_id),
        "brand": names.brand(event.brand_id),
        "organization": names.organization(event.organization_id),
        "key_hint": names.key_hint(event.key_id),
        "model": names.model(event.model_id),
        **{name: call.total(name) for name in TOKENS},
        "cost_nanos": call.cost_nanos,
        "usage_source": call.usage_source,
        "end_reason": event.end_reason,
        "started_at": _iso(event.started_at),
        "settled_at": _iso(call.settled_at),
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
