"""Thirty days of the canary's checks, as pages show them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from django.core.cache import cache
from django.db.models import Count
from django.db.models.functions import TruncDate
from redis.exceptions import RedisError

from billing.models import Model
from keys.models import Brand
from portal.models import CanaryCheck

DAYS = 30
KEPT_SECONDS = 30
Outcome = CanaryCheck.Outcome


class Day(NamedTuple):
    """A bar: its place, and the heights of what passed, was wrong and failed, in hundredths of the whole."""

    day: date
    x: int
    asked: int
    passed: int
    wrong: int
    failed: int

    @property
    def passed_y(self) -> int:
        """Failures stand on top, where they are seen."""
        return 100 - self.passed


class History(NamedTuple):
    """One model's. Shares in hundredths of a per cent, None where it was not asked."""

    slug: str
    days: Sequence[Day]
    day_share: int | None
    month_share: int | None
    first_token_ms: int | None
    last_at: datetime | None
    last_outcome: str
    last_code: str


def of(brand: Brand, now: datetime) -> list[History]:
    name = f"docs:quality:{brand.pk}"
    try:
        kept = cache.get(name)
        if kept is None:
            kept = [_plain(each) for each in _read(brand, now)]
            cache.set(name, kept, KEPT_SECONDS)
    except RedisError:
        return _read(brand, now)
    return [History(slug, [Day(*day) for day in days], *rest) for slug, days, *rest in kept]


def _plain(history: History) -> list[Any]:
    return [history.slug, [tuple(day) for day in history.days], *history[2:]]


def _read(brand: Brand, now: datetime) -> list[History]:
    models = Model.objects.filter(brand=brand).exclude(state=Model.State.RETIRED).order_by("position", "slug")
    checks = CanaryCheck.objects.filter(model__brand=brand).exclude(outcome=Outcome.RUNNING)
    lately = checks.filter(slot_at__gt=now - timedelta(hours=24))
    days: dict[int, dict[date, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    since = now - timedelta(days=DAYS)
    grouped = checks.filter(slot_at__gt=since).annotate(day=TruncDate("slot_at")).values("model_id", "day", "outcome")
    for row in grouped.annotate(number=Count("pk")).order_by():
        days[row["model_id"]][row["day"]][row["outcome"]] += row["number"]
    recent: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for each in lately.order_by("slot_at").values("model_id", "slot_at", "outcome", "code", "first_token_ms"):
        recent[each["model_id"]].append(dict(each))
    return [_history(model, days[model.pk], recent[model.pk], now.date()) for model in models if model.pk in days]


def _history(model: Model, days: dict[date, Counter[str]], lately: list[dict[str, Any]], today: date) -> History:
    firsts = [row["first_token_ms"] for row in lately if row["first_token_ms"] is not None]
    last = lately[-1] if lately else None
    return History(
        slug=model.slug,
        days=[_day(today - timedelta(days=DAYS - 1 - place), place, days) for place in range(DAYS)],
        day_share=_share(Counter(row["outcome"] for row in lately)),
        month_share=_share(sum(days.values(), Counter())),
        first_token_ms=round(median(firsts)) if firsts else None,
        last_at=last["slot_at"] if last else None,
        last_outcome=last["outcome"] if last else "",
        last_code=last["code"] if last else "",
    )


def _day(day: date, place: int, days: dict[date, Counter[str]]) -> Day:
    """What is not perfect is never rounded away."""
    counts = days.get(day, Counter())
    asked = sum(counts.values())
    if not asked:
        return Day(day, place * 10, 0, 0, 0, 0)
    failed = -(-counts[Outcome.FAILED] * 100 // asked)
    wrong = min(100 - failed, -(-counts[Outcome.WRONG] * 100 // asked))
    return Day(day, place * 10, asked, 100 - failed - wrong, wrong, failed)


def _share(counts: Counter[str]) -> int | None:
    asked = sum(counts.values())
    return counts[Outcome.PASSED] * 10_000 // asked if asked else None
