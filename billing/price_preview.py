"""The last days at other prices, before they go live: from the rollups by customer and model. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Q, Sum

from billing import prices
from billing.models import RATE_PICOS_FIELDS, Rate, UsageDay
from billing.rerating import Sums, rerated
from billing.snapshot import RateRecord
from billing.usage import Usage
from keys.models import Brand, Organization

DAYS_MAX = 90
MOST_AFFECTED = 10
_SUMMED = (
    *("requests", "failures", "uncached_input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens"),
    *("reasoning_tokens", "images", "list_cost_nanos", "cost_nanos"),
)


@dataclass(slots=True)
class Effect:
    """What the balances of one customer, or of all, paid, and would have paid."""

    before_nanos: int = 0
    after_nanos: int = 0
    rounding_nanos_max: int = 0
    shared_nanos: int = 0
    """Of `after_nanos`, what rests on the part a plan paid of the old price."""
    was_free_nanos: int = 0
    """Of `after_nanos`, what is asked for calls that were free."""

    @property
    def moved_nanos(self) -> int:
        return self.after_nanos - self.before_nanos

    def add(self, other: Effect) -> None:
        self.before_nanos += other.before_nanos
        self.after_nanos += other.after_nanos
        self.rounding_nanos_max += other.rounding_nanos_max
        self.shared_nanos += other.shared_nanos
        self.was_free_nanos += other.was_free_nanos


@dataclass(frozen=True, slots=True)
class Preview:
    """`most` are the customers whose bill moves most, either way; `moved` how many moved at all, of `customers` that
    called in these days. `own` of them keep a price of their own, which the book leaves alone."""

    first: date
    last: date
    total: Effect
    most: list[tuple[Organization, Effect]]
    moved: int
    customers: int
    own: int


def scheduled(brand: Brand, now: datetime) -> dict[int, Rate]:
    """Everybody's prices that are to begin, by model; the first of each."""
    rates = Rate.objects.filter(model__brand=brand, organization=None, effective_from__gt=now)
    return {rate.model_id: rate for rate in rates.select_related("model__brand").order_by("-effective_from")}


def preview(brand: Brand, book: Mapping[int, Rate], *, days: int, now: datetime) -> Preview:
    """The last `days` whole days of the brand, at `book`: everybody's price by model id (rows need not be saved).
    Models that it does not name, and customers who have a price of their own for one now, stay as they were."""
    last = now.astimezone(ZoneInfo(brand.timezone)).date() - timedelta(days=1)
    first = last - timedelta(days=days - 1)
    records = {model_id: record(rate) for model_id, rate in book.items()}
    own_rates = prices.in_force(Rate.objects.filter(model_id__in=records, organization__isnull=False), now)
    own = set(own_rates.values_list("organization_id", "model_id"))
    total, effects, keep = Effect(), dict[int, Effect](), set[int]()
    rows = UsageDay.objects.filter(brand_id=brand.pk, day__range=(first, last)).order_by()
    sums = rows.values("organization_id", "model_id").annotate(**{f"sum_{name}": Sum(name) for name in _SUMMED})
    for row in sums.iterator():
        whose = row["organization_id"], row["model_id"]
        keep |= {row["organization_id"]} if whose in own else set()
        effect = _effect(_sums_of(row), None if whose in own else records.get(row["model_id"]))
        effects.setdefault(row["organization_id"], Effect()).add(effect)
        total.add(effect)
    moved = [(id, effect) for id, effect in effects.items() if effect.moved_nanos]
    moved.sort(key=lambda found: (-abs(found[1].moved_nanos), found[0]))
    most = moved[:MOST_AFFECTED]
    named = Organization.objects.in_bulk([id for id, _ in most])
    shown = [(named[id], effect) for id, effect in most if id in named]
    return Preview(first, last, total, shown, len(moved), len(effects), len(keep))


def models_without_use(brand: Brand, book: Mapping[int, Rate], found: Preview) -> list[str]:
    """Slugs of the book's models that nobody called in these days: of them nothing can be said."""
    used = UsageDay.objects.filter(Q(brand_id=brand.pk), day__range=(found.first, found.last), model_id__in=book)
    seen = set(used.values_list("model_id", flat=True).distinct())
    return sorted(rate.model.slug for model_id, rate in book.items() if model_id not in seen)


def record(rate: Rate) -> RateRecord:
    amounts: dict[str, Any] = {name: getattr(rate, name) for name in (*RATE_PICOS_FIELDS, "request_nanos")}
    return RateRecord(id=0, from_ms=0, image_nanos=rate.image_nanos, is_free=rate.is_free, **amounts)


def _sums_of(row: Mapping[str, Any]) -> Sums:
    return Sums(
        calls=row["sum_requests"] - row["sum_failures"],
        usage=Usage(
            input=row["sum_uncached_input_tokens"],
            cache_read=row["sum_cache_read_tokens"],
            cache_write=row["sum_cache_write_tokens"],
            output=row["sum_output_tokens"],
            reasoning=row["sum_reasoning_tokens"],
            images=row["sum_images"],
        ),
        listed_nanos=int(row["sum_list_cost_nanos"]),
        paid_nanos=int(row["sum_cost_nanos"]),
    )


def _effect(sums: Sums, rate: RateRecord | None) -> Effect:
    if rate is None:
        return Effect(before_nanos=sums.paid_nanos, after_nanos=sums.paid_nanos)
    after = rerated(sums, rate)
    return Effect(
        before_nanos=sums.paid_nanos,
        after_nanos=after.nanos,
        rounding_nanos_max=after.rounding_nanos_max,
        shared_nanos=after.nanos if after.is_shared else 0,
        was_free_nanos=after.nanos if after.was_free else 0,
    )
