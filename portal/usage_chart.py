"""The chart of the Usage page: one measure by day or hour, in parts by model, key or end. Read from sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from typing import TypedDict
from zoneinfo import ZoneInfo

from billing import histograms, money, reports
from billing.histograms import MILLISECONDS
from keys.models import Organization
from portal import stacks
from portal.request_filter import FAILED
from portal.templatetags.portal import duration

MEASURES = {
    "cost": "Cost",
    "requests": "Requests",
    "tokens": "Tokens",
    "errors": "Failed",
    "first": "First token",
    "duration": "Whole answer",
}
TIMES = {"first": "first_token_histogram", "duration": "duration_histogram"}
PERCENTILES = {"half within": 500, "95 of 100 within": 950}
BUCKETS = {
    "input": "uncached_input_tokens",
    "input from cache": "cache_read_tokens",
    "input into cache": "cache_write_tokens",
    "output": "output_tokens",
}


class Narrowed(TypedDict):
    """Days of the brand, and what they are narrowed to, as reports take it."""

    first: date
    last: date
    key_id: int | None
    model_id: int | None


def of(
    organization: Organization,
    narrowed: Narrowed,
    *,
    group: reports.By,
    measure: str,
    by_day: Sequence[reports.Usage] | None = None,
) -> stacks.Stack:
    """`group` "day" is no group: then tokens are in parts by bucket, and failed calls by how they ended. `by_day`: the
    sums by day where they are known, so that they need not be read again."""
    by: list[reports.By] = [] if group == "day" else [group]
    if measure in TIMES:
        by = []
    elif measure == "errors" and group != "end_reason":
        by.append("end_reason")
    first, last = narrowed["first"], narrowed["last"]
    zone = ZoneInfo(organization.brand.timezone)
    since, until = (datetime.combine(day, time.min, zone) for day in (first, last + timedelta(days=1)))
    timed, without = measure in TIMES, FAILED if measure in TIMES else ()
    if first == last:
        of_model = {"key_id": narrowed["key_id"], "model_id": narrowed["model_id"]}
        rows = reports.quarters(
            organization.pk, since=since, until=until, by=by, timed=timed, without=without, **of_model
        )
        steps: list[date] = list(hours(since, until))
        start = since.timestamp()
        numbered = [(int(row.starts_at.timestamp() - start) // 3600, row) for row in rows if row.starts_at]
    else:
        known = None if by or timed else by_day
        rows = (
            list(known)
            if known is not None
            else reports.usage(organization.pk, by=["day", *by], timed=timed, without=without, **narrowed)
        )
        steps = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        numbered = [((row.day - first).days, row) for row in rows if row.day]
    if timed:
        return stacks.lined(steps, _spread(len(steps), numbered, TIMES[measure]), duration)
    write = _writer(measure, organization.brand.currency)
    return stacks.stacked(steps, _amounts(numbered, group, measure), write)


def hours(since: datetime, until: datetime) -> Sequence[datetime]:
    """Of a day of the brand, which has 23 or 25 of them where clocks change; both are midnights in its zone."""
    start, end = since.timestamp(), until.timestamp()
    return [datetime.fromtimestamp(start + n * 3600, since.tzinfo) for n in range(round((end - start) / 3600))]


def _amounts(
    numbered: Iterable[tuple[int, reports.Usage]], group: reports.By, measure: str
) -> Counter[tuple[int, str]]:
    found: Counter[tuple[int, str]] = Counter()
    for step, row in numbered:
        if measure == "tokens" and group == "day":
            for name, column in BUCKETS.items():
                found[step, name] += getattr(row, column)
        elif measure != "errors":
            found[step, name_of(row, group)] += _amount(row, measure)
        elif row.end_reason in FAILED:
            found[step, name_of(row, "end_reason" if group == "day" else group)] += row.requests
    return found


def _amount(row: reports.Usage, measure: str) -> int:
    return {"cost": row.cost_nanos, "requests": row.requests, "tokens": row.total_tokens}[measure]


def name_of(row: reports.Usage, group: reports.By) -> str:
    if group == "model_id":
        return row.model or "a model that is gone"
    if group == "key_id":
        return f"{row.key_name} {row.key_hint}" if row.key_hint else "a key that is gone"
    return (row.end_reason or "").replace("_", " ") if group == "end_reason" else "all"


def _spread(steps: int, numbered: Iterable[tuple[int, reports.Usage]], column: str) -> dict[str, list[int | None]]:
    """Percentiles of each step, from the counts of all its rows."""
    sums: list[Counter[int]] = [Counter() for _ in range(steps)]
    for step, row in numbered:
        sums[step].update(dict(enumerate(getattr(row, column))))
    counts = [[found[bucket] for bucket in range(len(MILLISECONDS) + 1)] for found in sums]
    return {
        name: [histograms.percentile(each, MILLISECONDS, per_mille) for each in counts]
        for name, per_mille in PERCENTILES.items()
    }


def _writer(measure: str, currency: str) -> Callable[[int], str]:
    if measure == "cost":
        return lambda nanos: money.display(nanos, currency)
    return lambda number: f"{number:,}"
