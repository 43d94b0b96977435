"""What an organization used, and how a brand's models served all of them, from the rollups alone: no page ever counts
events.

Days are the brand's; quarters of an hour are UTC. Costs are nanos, times milliseconds, speed tokens per second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, Literal

from django.contrib.postgres.fields import ArrayField
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Aggregate, BigIntegerField, QuerySet, Sum
from django.db.models.functions import TruncHour
from django.db.models.sql.compiler import SQLCompiler

from billing import histograms
from billing.models import Model, UsageDay, UsageQuarter
from billing.rollups import HISTOGRAMS, SUMS
from keys.models import ApiKey

By = Literal["day", "model_id", "key_id", "end_reason"]
_NAMES = {"model_id": ("model_id", "model"), "key_id": ("key_id", "key_public_id", "key_hint", "key_name")}


class SumHistograms(Aggregate):
    """Bucket by bucket: a sum for each of them is far cheaper than an aggregate over arrays."""

    output_field = ArrayField(BigIntegerField())

    def __init__(self, name: str, bounds: Sequence[int], **more: Any) -> None:
        super().__init__(name, **more)
        self.buckets = len(bounds) + 1

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, *_: Any, **__: Any
    ) -> tuple[str, tuple[str | int, ...]]:
        column, parameters = compiler.compile(self.get_source_expressions()[0])
        sums = (f"COALESCE(sum({column}[{bucket}]), 0)::bigint" for bucket in range(1, self.buckets + 1))
        return f"ARRAY[{', '.join(sums)}]", (*parameters,) * self.buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Sums of some calls; None for what was not grouped by. `model` and `key_hint` name the ids ("" when gone).
    Histograms are empty where times were not asked for."""

    day: date | None = None
    starts_at: datetime | None = None
    hour: datetime | None = None
    model_id: int | None = None
    model: str = ""
    key_id: int | None = None
    key_public_id: str = ""
    key_hint: str = ""
    key_name: str = ""
    end_reason: str | None = None
    requests: int
    failures: int
    uncached_input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    images: int
    credits: int
    list_cost_nanos: int
    cost_nanos: int
    first_token_histogram: tuple[int, ...] = ()
    duration_histogram: tuple[int, ...] = ()
    speed_histogram: tuple[int, ...] = ()

    @property
    def input_tokens(self) -> int:
        return self.uncached_input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def first_token_ms(self, per_mille: int) -> int | None:
        return histograms.percentile(self.first_token_histogram, histograms.MILLISECONDS, per_mille)

    def duration_ms(self, per_mille: int) -> int | None:
        return histograms.percentile(self.duration_histogram, histograms.MILLISECONDS, per_mille)

    def tokens_per_second(self, per_mille: int) -> int | None:
        return histograms.percentile(self.speed_histogram, histograms.TOKENS_PER_SECOND, per_mille)


def usage(
    organization_id: int,
    *,
    first: date,
    last: date,
    by: Sequence[By] = ("day",),
    key_id: int | None = None,
    model_id: int | None = None,
    timed: bool = False,
    without: Collection[str] = (),
) -> list[Usage]:
    """One row per group over the brand days first…last, in the groups' order. Without groups: one row, the total.
    `timed`: with histograms, which take longer to add up than all the rest. `without`: ends that do not count."""
    days = UsageDay.objects.filter(organization_id=organization_id, day__range=(first, last))
    return _grouped(_narrowed(days, key_id, model_id, without), by, timed)


def total(organization_id: int, *, first: date, last: date, timed: bool = False) -> Usage:
    return usage(organization_id, first=first, last=last, by=(), timed=timed)[0]


def added(rows: Iterable[Usage], by: Sequence[By] = ()) -> list[Usage]:
    """The same sums by fewer groups, without a question to the books; without groups one row, the total. Histograms are
    not added."""
    groups: dict[tuple[object, ...], list[Usage]] = {} if by else {(): []}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in by), []).append(row)
    kept = [name for each in by for name in _NAMES.get(each, (each,))]
    return [
        Usage(
            **{name: getattr(its[0], name) for name in kept},
            **{name: sum(getattr(row, name) for row in its) for name in SUMS},
        )
        for its in groups.values()
    ]


def quarters(
    organization_id: int,
    *,
    since: datetime,
    until: datetime,
    by: Sequence[By] = (),
    key_id: int | None = None,
    model_id: int | None = None,
    timed: bool = False,
    without: Collection[str] = (),
) -> list[Usage]:
    """One row per quarter of an hour and group that saw a call, `until` exclusive."""
    rows = UsageQuarter.objects.filter(organization_id=organization_id, starts_at__gte=since, starts_at__lt=until)
    return _grouped(_narrowed(rows, key_id, model_id, without), ("starts_at", *by), timed)


def hours(
    organization_id: int,
    *,
    since: datetime,
    until: datetime,
    by: Sequence[By] = (),
    key_id: int | None = None,
    model_id: int | None = None,
) -> list[Usage]:
    """One row per UTC hour and group that saw a call, `until` exclusive; `starts_at` is the hour's."""
    rows = UsageQuarter.objects.filter(organization_id=organization_id, starts_at__gte=since, starts_at__lt=until)
    hour = TruncHour("starts_at", tzinfo=UTC)
    found = _grouped(_narrowed(rows, key_id, model_id).annotate(hour=hour), ("hour", *by), timed=True)
    return [replace(row, starts_at=row.hour) for row in found]


def models_by_quarter(brand_id: int, *, since: datetime, without: Collection[int] = ()) -> list[Usage]:
    """One row per model of a brand, all its organizations together but those `without`, from quarters since then."""
    rows = UsageQuarter.objects.filter(brand_id=brand_id, starts_at__gte=since)
    return _grouped(rows.exclude(organization_id__in=without), ("model_id",), timed=True)


def models_by_day(brand_id: int, *, first: date, without: Collection[int] = ()) -> list[Usage]:
    """The same, from brand days."""
    rows = UsageDay.objects.filter(brand_id=brand_id, day__gte=first)
    return _grouped(rows.exclude(organization_id__in=without), ("model_id",), timed=True)


def _narrowed(
    rows: QuerySet[Any], key_id: int | None, model_id: int | None, without: Collection[str] = ()
) -> QuerySet[Any]:
    if without:
        rows = rows.exclude(end_reason__in=without)
    if key_id is not None:
        rows = rows.filter(key_id=key_id)
    if model_id is not None:
        rows = rows.filter(model_id=model_id)
    return rows


def _grouped(rows: QuerySet[Any], by: Sequence[str], timed: bool) -> list[Usage]:
    sums: dict[str, Any] = {f"sum_{name}": Sum(name, default=0) for name in SUMS}
    if timed:
        sums |= {f"sum_{name}": SumHistograms(name, bounds) for name, bounds in HISTOGRAMS.items()}
    found = list(rows.values(*by).annotate(**sums).order_by(*by)) if by else [rows.aggregate(**sums)]
    models = Model.objects.in_bulk({row["model_id"] for row in found if "model_id" in row})
    keys = ApiKey.objects.in_bulk({row["key_id"] for row in found if "key_id" in row})
    return [_usage(row, models.get(row.get("model_id")), keys.get(row.get("key_id"))) for row in found]


def _usage(row: dict[str, Any], model: Model | None, key: ApiKey | None) -> Usage:
    values = {name.removeprefix("sum_"): value for name, value in row.items()}
    values |= {name: tuple(values[name]) for name in HISTOGRAMS if name in values}
    return Usage(
        model=model.slug if model else "",
        key_public_id=key.public_id if key else "",
        key_hint=key.hint if key else "",
        key_name=key.name if key else "",
        **values,
    )
