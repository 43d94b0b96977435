"""What an operator looks at first: does everything run, and what did the brands take and give today. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import redis
from django.db import DatabaseError
from django.db.models import QuerySet, Sum
from django.utils import timezone

from billing import engine_counters, journal, reconcile, revenue
from billing.models import Engine, Model, ModelEngine, UsageDay
from billing.payment_models import StripeEvent
from billing.upgrade_facts import moment_after
from keys.connections import redis_client
from keys.models import Brand, Organization
from portal import doctor
from portal.canary.accounts import SLUG as CANARY
from portal.doctor import Finding

WATCHED = (
    doctor.nothing_waits_too_long,
    doctor.calls_reach_the_books,
    doctor.no_rebuild_waits,
    doctor.workers_left_nothing_behind,
    doctor.models_have_prices,
)
RECONCILED_WITHIN = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Day:
    """Of one brand, by its own day: sums in nanos, organizations that signed up."""

    brand: Brand
    on: date
    revenue_nanos: int
    requests: int
    failures: int
    received_nanos: int
    new: int

    @property
    def failed_percent(self) -> str:
        return f"{self.failures * 100 / self.requests:.1f}" if self.requests else ""


def findings() -> list[Finding]:
    """What is wrong with the installation just now, worst first; nothing is good news."""
    found: list[Finding] = []
    for look in (*WATCHED, _books_agree, _engines_are_live, _models_are_served, _stripe_is_heard):
        try:
            found += look()
        except (DatabaseError, redis.RedisError, OSError) as error:
            subject = look.__name__.strip("_").replace("_", " ")
            found.append(doctor.problem(f"Could not see whether {subject}: {error}", "See that the stores answer."))
    return sorted(found, key=lambda finding: finding.level is not doctor.Level.PROBLEM)


def _books_agree() -> doctor.Findings:
    last, look = reconcile.last(redis_client()), "See Reconcile, and Jobs whether the books are compared every hour."
    if last is None:
        yield doctor.warning("The books were never compared with the counters.", look)
        return
    at = datetime.fromtimestamp(last.at_ms / 1000, UTC)
    if last.differences:
        yield doctor.problem(f"The books did not agree at {at:%Y-%m-%d %H:%M}: {last.differences} differences.", look)
    if timezone.now() - at > RECONCILED_WITHIN:
        yield doctor.warning(f"The books were last compared at {at:%Y-%m-%d %H:%M}.", look)
    unresolved = sum(1 for _ in engine_counters.unresolved())
    if unresolved:
        text = f"{unresolved} findings about engines' own counters are open."
        yield doctor.warning(text, "See Engine findings.")


def _engines_are_live() -> doctor.Findings:
    for engine in Engine.objects.exclude(state=Engine.State.LIVE).order_by("name"):
        text = f"Engine {engine.name} is {engine.get_state_display().lower()}."
        yield doctor.warning(text, "Bring it live under Engines.")


def _models_are_served() -> doctor.Findings:
    served = ModelEngine.objects.filter(engine__state=Engine.State.LIVE).values("model")
    for model in Model.objects.filter(state=Model.State.LIVE).exclude(pk__in=served).select_related("brand"):
        text = f"Model {model.slug} of {model.brand.slug} has no live engine: its calls are refused."
        yield doctor.problem(text, "Route it under Models.")


def _stripe_is_heard() -> doctor.Findings:
    stuck = StripeEvent.objects.exclude(error="").filter(due_at__isnull=False).count()
    if stuck:
        text = f"{stuck} events of Stripe could not be worked on yet."
        yield doctor.warning(text, "See Stripe events; they can be tried again there.")


def waiting_entries() -> int | None:
    """Settled calls not booked yet; None when Redis cannot be asked."""
    try:
        return journal.lag(redis_client()).entries
    except redis.RedisError:
        return None


def days(brands: QuerySet[Brand], now: datetime) -> Sequence[Day]:
    return [_day(brand, now) for brand in brands]


def _day(brand: Brand, now: datetime) -> Day:
    on = now.astimezone(ZoneInfo(brand.timezone)).date()
    sums = UsageDay.objects.filter(brand_id=brand.pk, day=on).aggregate(
        nanos=Sum("cost_nanos", default=0), requests=Sum("requests", default=0), failures=Sum("failures", default=0)
    )
    begin = moment_after(on - timedelta(days=1), brand)
    return Day(
        brand=brand,
        on=on,
        revenue_nanos=sums["nanos"],
        requests=sums["requests"],
        failures=sums["failures"],
        received_nanos=revenue.moves(brand, first=on, last=on).received_nanos,
        new=Organization.objects.filter(brand=brand, created_at__gte=begin).exclude(slug=CANARY).count(),
    )
