"""What the account used: by time, model, key or how calls ended, narrowed to a model or key. Read from sums; never from
single calls."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.http import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import reports
from billing.models import Model
from keys.models import ApiKey, Brand, Organization
from portal import request_filter, savings, spreadsheets, usage_chart
from portal.middleware import MemberRequest
from portal.pages import of_organization, page
from proxy.sandbox import calls as test_calls

PERIODS = {"1": "Today", "7": "7 days", "30": "30 days", "90": "90 days"}
GROUPS: dict[str, tuple[str, reports.By]] = {
    "day": ("Day", "day"),
    "model": ("Model", "model_id"),
    "key": ("Key", "key_id"),
    "end": ("Ended", "end_reason"),
}
COST, REQUESTS = "cost", "requests"
"""What the chart shows unasked: what was paid or, where nothing was, how much was called."""
GROUPED = {"day": "", "model": "by model", "key": "by key", "end": "by how calls ended"}
HEAD = (
    *("day", "model", "key", "ended", "requests", "uncached_input_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "images", "credits", "cost_nanos"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    label: str
    query: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for. `measure` "": none. `model` and `key` narrow to one of the account's own, `first` and
    `last` are days of the brand; `day` is both of them, where one was asked for instead of a period."""

    period: str
    group: str
    measure: str
    model: Model | None
    key: ApiKey | None
    day: date | None
    first: date
    last: date

    def query(self, **changes: str) -> str:
        kept = {"days": self.period, "by": self.group}
        if self.measure:
            kept["measure"] = self.measure
        if self.day:
            kept |= {"days": "", "day": self.day.isoformat()}
        if self.model:
            kept["model"] = self.model.slug
        if self.key:
            kept["key"] = self.key.public_id
        return "?" + urlencode({name: value for name, value in {**kept, **changes}.items() if value})


def today(brand: Brand, now: datetime) -> date:
    return now.astimezone(ZoneInfo(brand.timezone)).date()


@of_organization()
@require_safe
def usage(request: MemberRequest, organization: Organization) -> HttpResponseBase:
    now = timezone.now()
    asked = _asked(request, organization, now)
    if request.GET.get("format") == "csv":
        name = f"usage-{organization.slug}-{asked.first}-{asked.last}.csv"
        return spreadsheets.Download(name, HEAD, _lines(organization, asked))
    of_period = reports.usage(organization.pk, first=asked.first, last=asked.last, by=["model_id", "key_id"])
    own = [row for row in of_period if _is_asked(row, asked)]
    label, by = GROUPS[asked.group]
    rows = reports.added(own, [by]) if by in ("model_id", "key_id") else _sums(organization, asked, by)
    (total,) = reports.added(own)
    measure = asked.measure or (COST if total.cost_nanos else REQUESTS)
    (timed,) = _sums(organization, asked, timed=True, without=request_filter.FAILED)
    context = {
        "asked": asked,
        "rows": [(row, _deeper(row, asked), _requests(asked, row)) for row in _ordered(rows, asked)],
        "total": total,
        "test_calls": sum(test_calls.by_key(organization.pk).values()),
        "counted_max": test_calls.COUNTED_MAX,
        "failed": total.requests - timed.requests,
        "places": places([row.cost_nanos for row in rows]),
        "label": label,
        "first_token": (timed.first_token_ms(500), timed.first_token_ms(950)),
        "duration": (timed.duration_ms(500), timed.duration_ms(950)),
        "speed": timed.tokens_per_second(500),
        "saved_nanos": savings.of_cache_reads(organization, reports.added(own, ["model_id"]), now),
        "requests_of": _requests(asked),
        "requests_failed": _requests(asked, end="failed"),
        "by_end": asked.query(by="end"),
        "all": asked.query(model="", key=""),
        "file": asked.query(format="csv"),
        "chart": usage_chart.of(
            organization, _narrowed(asked), group=by, measure=measure, by_day=rows if by == "day" else None
        ),
        "measure": usage_chart.MEASURES[measure],
        "grouped": _parts(asked.group, measure),
        **_choices(asked, measure, of_period),
    }
    return page(request, organization, "usage", "portal/usage.html", context)


def _asked(request: MemberRequest, organization: Organization, now: datetime) -> Asked:
    """What is not offered is not asked for."""
    day = _day(request)
    period = "" if day else _chosen(request, "days", PERIODS, "30")
    last = day or today(organization.brand, now)
    return Asked(
        day=day,
        period=period,
        group=_chosen(request, "by", GROUPS, "day"),
        measure=_chosen(request, "measure", usage_chart.MEASURES, ""),
        model=Model.objects.filter(brand=organization.brand, slug=_text(request, "model")).first(),
        key=organization.keys.filter(manages_as="", public_id=_text(request, "key")).first(),
        first=last - timedelta(days=int(period or 1) - 1),
        last=last,
    )


def _sums(
    organization: Organization,
    asked: Asked,
    *by: reports.By,
    timed: bool = False,
    without: Collection[str] = (),
) -> list[reports.Usage]:
    """One row per group, within what was asked for; without groups the total."""
    return reports.usage(organization.pk, by=by, timed=timed, without=without, **_narrowed(asked))


def _parts(group: str, measure: str) -> str:
    """What the chart's parts are, in words."""
    if measure in usage_chart.TIMES:
        return "of calls that did not fail"
    alone = {"tokens": "by kind", "errors": GROUPED["end"]}.get(measure, "")
    return GROUPED[group] or alone


def _narrowed(asked: Asked) -> usage_chart.Narrowed:
    return {
        "first": asked.first,
        "last": asked.last,
        "key_id": asked.key.pk if asked.key else None,
        "model_id": asked.model.pk if asked.model else None,
    }


def _deeper(row: reports.Usage, asked: Asked) -> str:
    """Where a row is looked into: a day by model, a model or key by day. "" where there is nothing below it."""
    if asked.group == "day" and row.day and not asked.day:
        return asked.query(day=row.day.isoformat(), days="", by="model")
    if asked.group == "model" and row.model and not asked.model:
        return asked.query(model=row.model, by="key")
    if asked.group == "key" and row.key_public_id and not asked.key:
        return asked.query(key=row.key_public_id, by="model")
    return ""


def _requests(asked: Asked, row: reports.Usage | None = None, *, end: str = "") -> str:
    """Where the calls behind a number are listed: all that was asked for, or those of a row. "" where the log cannot
    name them: a model or key that is gone."""
    words: dict[str, object] = {
        "model": asked.model.slug if asked.model else "",
        "key": asked.key.public_id if asked.key else "",
        "end": end,
        "since": asked.first,
        "until": asked.last,
    }
    if row is not None:
        by_group: dict[str, dict[str, object]] = {
            "day": {"since": row.day, "until": row.day},
            "model": {"model": row.model},
            "key": {"key": row.key_public_id},
            "end": {"end": row.end_reason},
        }
        of_row = by_group[asked.group]
        if not all(of_row.values()):
            return ""
        words |= of_row
    return request_filter.query(**words)


def _is_asked(row: reports.Usage, asked: Asked) -> bool:
    return (asked.model is None or row.model_id == asked.model.pk) and (asked.key is None or row.key_id == asked.key.pk)


def _choices(asked: Asked, measure: str, of_period: list[reports.Usage]) -> dict[str, list[Choice]]:
    """Models and keys that were used in the period, whatever it is narrowed to."""
    models = {row.model for row in of_period if row.model}
    keys = [row for row in reports.added(of_period, ["key_id"]) if row.key_public_id]
    keys.sort(key=lambda row: (row.key_name, row.key_id))
    chosen_model, chosen_key = asked.model.slug if asked.model else "", asked.key.public_id if asked.key else ""
    return {
        "periods": [
            Choice(text, asked.query(day="", days=value), value == asked.period) for value, text in PERIODS.items()
        ],
        "measures": [
            Choice(text, asked.query(measure=value), value == measure) for value, text in usage_chart.MEASURES.items()
        ],
        "groups": [Choice(text, asked.query(by=value), value == asked.group) for value, (text, _) in GROUPS.items()],
        "models": [Choice(slug, slug, slug == chosen_model) for slug in sorted(models | {chosen_model} - {""})],
        "keys": [
            Choice(f"{row.key_name} {row.key_hint}", row.key_public_id, row.key_public_id == chosen_key) for row in keys
        ],
    }


def _ordered(rows: list[reports.Usage], asked: Asked) -> list[reports.Usage]:
    if asked.group == "day":
        return sorted(rows, key=lambda row: row.day or asked.first, reverse=True)
    return sorted(rows, key=lambda row: (row.list_cost_nanos, row.total_tokens, row.requests), reverse=True)


def _lines(organization: Organization, asked: Asked) -> Iterator[tuple[Any, ...]]:
    """A day at a time, so that a long period costs no memory."""
    day = asked.first
    while day <= asked.last:
        for row in _sums(organization, replace(asked, first=day, last=day), "day", "model_id", "key_id", "end_reason"):
            yield (
                *(row.day, row.model, row.key_hint, row.end_reason, row.requests, row.uncached_input_tokens),
                *(row.cache_read_tokens, row.cache_write_tokens, row.output_tokens, row.reasoning_tokens),
                *(row.images, row.credits, row.cost_nanos),
            )
        day += timedelta(days=1)


def places(costs: Iterable[int]) -> int:
    """Decimals of a money column: as many as its amounts need to be exact, at least two."""
    known = list(costs)
    return next((decimals for decimals in range(2, 9) if not any(cost % 10 ** (9 - decimals) for cost in known)), 9)


def _chosen(request: MemberRequest, name: str, known: Container[str], default: str) -> str:
    given = request.GET.get(name, default)
    return given if given in known else default


def _day(request: MemberRequest) -> date | None:
    """From 2000 to 9000: beyond, what is reckoned around a day leaves the calendar."""
    try:
        day = date.fromisoformat(_text(request, "day"))
    except ValueError:
        return None
    return day if 2000 <= day.year <= 9000 else None


def _text(request: MemberRequest, name: str) -> str:
    return request.GET.get(name, "")
