"""What each engine earned, cost and did over some time, of all brands it served; from quarters of an hour.

What it earned and what it cost are told by currency. There is a margin to tell where all of it is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from django.db.models import Count, F, Q, QuerySet, Sum

from billing import engine_costs, histograms
from billing.models import Engine, UsageQuarter
from billing.reports import SumHistograms
from keys.models import Brand

QUARTER = timedelta(minutes=15)
MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True, kw_only=True)
class Return:
    """`span` is how long the engine was there in the period, in microseconds; `quarters` are those with a call of
    `quarters_max`; `busy_ms` is about how long its calls took, together."""

    engine: Engine
    span: int
    quarters_max: int
    per_hour_nanos: int
    costs: dict[str, Fraction]
    revenue: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    quarters: int = 0
    busy_ms: int = 0

    @property
    def currency(self) -> str | None:
        """That of all it earned; None where there are several."""
        return next(iter(self.revenue)) if len(self.revenue) == 1 else None

    @property
    def revenue_nanos(self) -> int | None:
        return self.revenue[self.currency] if self.currency else None

    @property
    def cost_currency(self) -> str | None:
        """Where nothing was said to cost anything, that of what it earned; None where there are several."""
        return self.currency if not self.costs else next(iter(self.costs)) if len(self.costs) == 1 else None

    @property
    def cost_nanos(self) -> Fraction | None:
        return None if len(self.costs) > 1 else sum(self.costs.values(), Fraction(0))

    @property
    def margin_nanos(self) -> Fraction | None:
        """None where currencies differ."""
        if self.revenue_nanos is None or self.cost_nanos is None or self.cost_currency != self.currency:
            return None
        return self.revenue_nanos - self.cost_nanos

    @property
    def margin(self) -> Fraction | None:
        return self.margin_nanos / self.revenue_nanos if self.revenue_nanos and self.margin_nanos is not None else None

    @property
    def tokens_per_second(self) -> Fraction:
        """Output, over all its time."""
        return Fraction(self.output_tokens * 1_000_000, self.span) if self.span else Fraction(0)

    @property
    def tokens_per_second_used(self) -> Fraction | None:
        """Output, over the quarters of an hour that had a call."""
        return Fraction(self.output_tokens, self.quarters * 900) if self.quarters else None

    @property
    def used(self) -> Fraction:
        """Of its quarters of an hour, those with a call."""
        return Fraction(self.quarters, self.quarters_max) if self.quarters_max else Fraction(0)

    @property
    def load(self) -> Fraction:
        """Of the calls it may have at once, how many it had on average; from histograms, so about."""
        return Fraction(self.busy_ms * 1_000, self.span * self.engine.max_in_flight) if self.span else Fraction(0)


def returns(*, since: datetime, until: datetime, brand: Brand | None = None) -> list[Return]:
    """One per engine, by name; with `brand` those that are its own or served it, still with what all brands used.
    `since` is a full quarter of an hour."""
    rows = UsageQuarter.objects.filter(starts_at__gte=since, starts_at__lt=until, engine_id__gt=0)
    engines = Engine.objects.select_related("brand").order_by("name")
    if brand is not None:
        served = rows.filter(brand_id=brand.pk).values_list("engine_id", flat=True).distinct()
        engines = engines.filter(Q(brand=brand) | Q(pk__in=list(served)))
    currencies = dict(Brand.objects.values_list("pk", "currency"))
    histories = engine_costs.histories()
    found = {}
    for engine in engines:
        begun = max(since, min(engine.created_at, until))
        steps = histories.get(engine.pk, ())
        found[engine.pk] = Return(
            engine=engine,
            span=(until - begun) // MICROSECOND,
            quarters_max=-(-(until - _quarter_of(begun, since)) // QUARTER),
            per_hour_nanos=engine.cost_per_hour_nanos,
            costs=engine_costs.nanos_between(steps, since, until),
            revenue={currencies[engine.brand_id]: 0} if engine.brand_id else {},
        )
    _add_usage(found, rows.filter(engine_id__in=list(found)), currencies)
    return list(found.values())


def _quarter_of(at: datetime, since: datetime) -> datetime:
    return at - (at - since) % QUARTER


def _add_usage(found: Mapping[int, Return], rows: QuerySet[UsageQuarter], currencies: Mapping[int, str]) -> None:
    used = rows.values("engine_id").annotate(quarters=Count("starts_at", distinct=True))
    for each in used:
        found[each["engine_id"]].quarters = each["quarters"]
    sums = rows.values("engine_id", "brand_id").annotate(
        calls=Sum("requests"),
        read=Sum(F("uncached_input_tokens") + F("cache_read_tokens") + F("cache_write_tokens")),
        written=Sum("output_tokens"),
        charged=Sum("cost_nanos"),
        durations=SumHistograms("duration_histogram", histograms.MILLISECONDS),
    )
    for row in sums:
        engine, currency = found[row["engine_id"]], currencies[row["brand_id"]]
        engine.revenue[currency] = engine.revenue.get(currency, 0) + int(row["charged"])
        engine.requests += int(row["calls"])
        engine.input_tokens += int(row["read"])
        engine.output_tokens += int(row["written"])
        engine.busy_ms += histograms.estimated_sum(row["durations"], histograms.MILLISECONDS)
