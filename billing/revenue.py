"""What a brand earned and what that cost, by brand day, from rollups and postings alone.

Revenue is what was charged, on the brand day of the call. The cost of an engine's day (engine_costs.py) is divided
among the calls it served that day by their tokens, those of other brands too; by requests where it counted no token. A
day on which an engine of the brand served nothing is the brand's own cost: idle. An idle engine that every brand may
use belongs to none of them. So shares of an engine's day add up to what it cost.

Money is integer nanos; costs and margins are exact fractions of nanos. Costs in another currency than the brand's are
not added: what they belong to is not comparable, and has no margin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any, Literal

from django.db.models import F, Sum

from billing import engine_costs
from billing.engine_costs import Step
from billing.models import Engine, LedgerAccount, Model, Posting, PostingLine, UsageDay
from billing.upgrade_facts import moment_after
from keys.models import Brand, Organization

By = Literal["day", "model", "engine", "organization"]
COLUMNS = {"model": "model_id", "engine": "engine_id", "organization": "organization_id"}
TOKENS = F("uncached_input_tokens") + F("cache_read_tokens") + F("cache_write_tokens") + F("output_tokens")
Costs = Mapping[int, Mapping[str, Fraction]]
"""Engine id → currency → what its time cost."""
USAGE = (Posting.Kind.USAGE, Posting.Kind.CORRECTION)
PLANS, OF_PLANS = "plans", (Posting.Kind.SUBSCRIPTION, Posting.Kind.REFUND, Posting.Kind.DISPUTE)
"""Which entries move revenue for a paid plan: what goes back of a top-up moves the wallet instead."""


@dataclass(slots=True, kw_only=True)
class Line:
    """Sums of some calls of a brand. Of the four, what was not grouped by is None; `is_idle`: an engine's time without
    calls."""

    day: date | None = None
    model_id: int | None = None
    engine_id: int | None = None
    organization_id: int | None = None
    is_idle: bool = False
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    list_nanos: int = 0
    revenue_nanos: int = 0
    cost_nanos: Fraction = Fraction(0)
    is_comparable: bool = True

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def margin_nanos(self) -> Fraction | None:
        """None where a part of the cost is in another currency."""
        return self.revenue_nanos - self.cost_nanos if self.is_comparable else None

    @property
    def margin(self) -> Fraction | None:
        """Of the revenue; None where there was none, or no margin."""
        margin = self.margin_nanos
        return margin / self.revenue_nanos if self.revenue_nanos and margin is not None else None

    def add(self, other: Line) -> None:
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.list_nanos += other.list_nanos
        self.revenue_nanos += other.revenue_nanos
        self.is_comparable &= other.is_comparable
        if other.cost_nanos:
            self.cost_nanos += other.cost_nanos


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Entries of a period beside usage, by when they were posted: paid in less what was paid back, credit given away
    less what of it expired, paid plans less what of them went back, revenue that was neither call nor plan (paid credit
    that expired), adjustments in customers' favour."""

    received_nanos: int
    given_nanos: int
    plans_nanos: int
    other_revenue_nanos: int
    adjusted_nanos: int


def grouped(brand: Brand, *, by: By, first: date, last: date, now: datetime) -> list[Line]:
    """A line per day, model, engine or organization: days in order, the others by revenue. Idle time is a line of its
    own among models and organizations."""
    columns = [by] if by in ("model", "organization") else []
    found: dict[object, Line] = {}
    for line in lines(brand, first=first, last=last, now=now, by=columns):
        place = getattr(line, COLUMNS.get(by, by))
        if place not in found:
            is_idle = line.is_idle and place is None
            found[place] = Line(is_idle=is_idle, **{COLUMNS.get(by, by): place})
        found[place].add(line)
    if by == "day":
        return sorted(found.values(), key=lambda line: line.day or first)
    return sorted(found.values(), key=lambda line: (line.is_idle, -line.revenue_nanos, -line.cost_nanos))


def total(lines: Sequence[Line]) -> Line:
    found = Line()
    for line in lines:
        found.add(line)
    return found


def lines(
    brand: Brand, *, first: date, last: date, now: datetime, by: Sequence[str] = ("model", "organization")
) -> Iterator[Line]:
    """A line per day, engine and `by`, and one per idle day of an engine; read day by day."""
    histories = engine_costs.histories()
    own = set(Engine.objects.filter(brand=brand).values_list("pk", flat=True))
    day = first
    while day <= last:
        since, until = moment_after(day - timedelta(days=1), brand), min(moment_after(day, brand), now)
        costs = _costs(histories, since, until)
        loads = _loads(day, costs)
        for row in _sums(brand, day, by):
            yield _line(day, row, _share(brand, row["engine_id"], costs), loads)
        for engine_id in sorted(own & set(costs) - set(loads)):
            cost, is_comparable = _share(brand, engine_id, costs)
            yield Line(day=day, engine_id=engine_id, is_idle=True, cost_nanos=cost, is_comparable=is_comparable)
        day += timedelta(days=1)


def _share(brand: Brand, engine_id: int, costs: Costs) -> tuple[Fraction, bool]:
    """What the engine's time cost in the brand's currency, and whether that is all of it."""
    found = costs.get(engine_id, {})
    return found.get(brand.currency, Fraction(0)), not found.keys() - {brand.currency}


def _costs(histories: Mapping[int, Sequence[Step]], since: datetime, until: datetime) -> Costs:
    found = {engine_id: engine_costs.nanos_between(steps, since, until) for engine_id, steps in histories.items()}
    return {engine_id: cost for engine_id, cost in found.items() if cost}


def _loads(day: date, costs: Costs) -> dict[int, tuple[int, int]]:
    """Tokens and requests of the engines that cost something, of all brands' days of that date."""
    rows = UsageDay.objects.filter(day=day, engine_id__in=list(costs)).values("engine_id")
    found = rows.annotate(tokens=Sum(TOKENS), calls=Sum("requests"))
    return {row["engine_id"]: (int(row["tokens"]), int(row["calls"])) for row in found if row["tokens"] or row["calls"]}


def _sums(brand: Brand, day: date, by: Sequence[str]) -> Iterable[dict[str, Any]]:
    groups = dict.fromkeys(["engine_id", *(COLUMNS[name] for name in by)])
    rows = UsageDay.objects.filter(brand_id=brand.pk, day=day).values(*groups)
    sums = rows.annotate(
        calls=Sum("requests"),
        read=Sum(F("uncached_input_tokens") + F("cache_read_tokens") + F("cache_write_tokens")),
        written=Sum("output_tokens"),
        listed=Sum("list_cost_nanos"),
        charged=Sum("cost_nanos"),
    )
    found: Iterable[dict[str, Any]] = sums.order_by(*groups).iterator()
    return found


def _line(day: date, row: dict[str, Any], cost: tuple[Fraction, bool], loads: Mapping[int, tuple[int, int]]) -> Line:
    engine_id = row["engine_id"]
    line = Line(
        day=day,
        engine_id=engine_id,
        model_id=row.get("model_id"),
        organization_id=row.get("organization_id"),
        requests=int(row["calls"]),
        input_tokens=int(row["read"]),
        output_tokens=int(row["written"]),
        list_nanos=int(row["listed"]),
        revenue_nanos=int(row["charged"]),
        is_comparable=cost[1],
    )
    if engine_id in loads:
        tokens, calls = loads[engine_id]
        share = Fraction(line.tokens, tokens) if tokens else Fraction(line.requests, calls)
        line.cost_nanos = cost[0] * share
    return line


def names(brand: Brand, by: By, lines: Sequence[Line]) -> dict[int, str]:
    """Of the ids in those lines, what people call them. Engine 0 is none: the call ended before it was sent."""
    ids = {getattr(line, COLUMNS[by]) for line in lines} if by != "day" else set()
    if by == "model":
        return dict(Model.objects.filter(pk__in=ids).values_list("pk", "slug"))
    if by == "organization":
        return dict(Organization.objects.filter(pk__in=ids, brand=brand).values_list("pk", "name"))
    return dict(Engine.objects.filter(pk__in=ids).values_list("pk", "name")) | {0: "no engine"}


def moves(brand: Brand, *, first: date, last: date) -> Moves:
    """By the brand's days. Usage is left out: its postings are as many as there were batches."""
    since, until = moment_after(first - timedelta(days=1), brand), moment_after(last, brand)
    kinds = LedgerAccount.Kind
    rows = PostingLine.objects.filter(
        account__brand=brand,
        account__organization=None,
        posting__brand=brand,
        posting__posted_at__gte=since,
        posting__posted_at__lt=until,
    ).exclude(posting__kind__in=USAGE)
    sums: dict[str, int] = {}
    for account, posting, nanos in rows.values_list("account__kind", "posting__kind").annotate(Sum("amount_nanos")):
        name = PLANS if account == kinds.REVENUE and posting in OF_PLANS else account
        sums[name] = sums.get(name, 0) + int(nanos)
    return Moves(
        received_nanos=-sums.get(kinds.CASH, 0),
        given_nanos=-sums.get(kinds.PROMOTION, 0),
        plans_nanos=sums.get(PLANS, 0),
        other_revenue_nanos=sums.get(kinds.REVENUE, 0),
        adjusted_nanos=-sums.get(kinds.ADJUSTMENT, 0),
    )
