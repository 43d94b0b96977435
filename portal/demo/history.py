"""A customer with a long history of made-up calls, to see pages, jobs and reports under the weight of a busy account.

The calls are booked by the journal's own code, so that rollups, postings and balances agree with them. The account is
new each time: Redis has not heard of it and takes its counters from PostgreSQL at the first real call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from random import Random
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import call_ids, catalogue, facts, ladder, ledger, partitions, pricing, recording
from billing.entries import Entry
from billing.events import End, Event
from billing.models import Grant, Tier
from billing.snapshot import ModelRecord, RateRecord
from billing.usage import Usage
from keys import issuing, organizations
from keys.caller import shard_of
from keys.models import Brand, Organization, Role, User

ACTOR = "seed_usage"
NAME = "Busy Company"
KEYS = ("web", "mobile", "batch", "search", "support", "research")
BATCH = 500
"""Calls booked in one transaction, with one posting."""
ENDS: tuple[tuple[End, int], ...] = (
    ("stop", 880),
    ("length", 60),
    ("tool_calls", 30),
    ("client_gone", 18),
    ("upstream_error", 8),
    ("timeout", 4),
)
AGENTS = ("OpenAI/Python 2.8.1", "OpenAI/JS 6.9.0", "curl/8.14.1", "python-httpx/0.28.1")
PROMPT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS_MAX = (20, 4_000), (1, 900), 3_000
DAYS_MAX = partitions.ADOPTED_DAYS_MAX

Progress = Callable[[int], None]
"""Told how many calls are booked."""


class NothingPriced(Exception):
    """The brand sells no model that has a price now: import a brand file or set prices first."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What all calls of the history share."""

    organization: Organization
    tier: Tier
    keys: Sequence[int]
    sold: Sequence[tuple[ModelRecord, RateRecord]]
    zone: ZoneInfo


def fill(
    brand: Brand,
    *,
    calls: int,
    days: int,
    owner: User,
    now: datetime,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Organization:
    """A new organization of `owner` with so many calls, spread over the days before now at today's prices, and credit
    that pays for them and as much again. The same seed draws the same calls. Raises NothingPriced."""
    place = _place(brand, owner, now)
    partitions.create_between((now - timedelta(days=days)).date(), now.date())
    booked = cost = 0
    events = _events(place, calls, days, now, Random(seed))  # noqa: S311 - no secret is drawn
    while batch := list(islice(events, BATCH)):
        with transaction.atomic(), connection.cursor() as cursor:
            recording.record(cursor, [Entry(shard_of(place.organization.pk), "0-0", False, e) for e in batch], {})
        booked += len(batch)
        cost += sum(event.cost_nanos for event in batch)
        progress(booked)
    _pay(place.organization, cost)
    return place.organization


def _place(brand: Brand, owner: User, now: datetime) -> _Place:
    now_ms = catalogue.milliseconds(now)
    rates = ((model, pricing.rate_for(model, 0, now_ms)) for model in catalogue.build(brand.pk).models)
    sold = [(model, rate) for model, rate in rates if rate is not None and pricing.complete(rate)]
    if not sold:
        raise NothingPriced(f"{brand.name} sells no model that has a price now.")
    number = Organization.objects.filter(brand=brand, slug__startswith="busy-").count() + 1
    organization = organizations.create(brand=brand, name=f"{NAME} {number}", slug=f"busy-{number}", actor=ACTOR)
    organizations.add_member(organization=organization, user=owner, role=Role.OWNER, actor=ACTOR)
    tier = Tier.objects.filter(brand=brand).order_by("-rank")[0]
    ladder.assign(organization=organization, tier=tier, reason="made-up history", actor=ACTOR)
    keys = [issuing.issue(organization=organization, name=name, actor=ACTOR).key.pk for name in KEYS]
    return _Place(organization, tier, keys, sold, ZoneInfo(brand.timezone))


def _events(place: _Place, calls: int, days: int, now: datetime, chance: Random) -> Iterator[Event]:
    """In the order in which they began; evenly spread, but each at its own distance."""
    end_ms = catalogue.milliseconds(now)
    step = days * 86_400_000 / calls
    for number in range(calls):
        yield _event(place, end_ms - round((calls - number - chance.random()) * step) - 1, chance)


def _event(place: _Place, started_at_ms: int, chance: Random) -> Event:
    model, rate = chance.choice(place.sold)
    (end,) = chance.choices([end for end, _ in ENDS], [weight for _, weight in ENDS])
    failed = end in ("upstream_error", "timeout")
    cached = chance.randrange(CACHED_TOKENS_MAX) if chance.random() < 0.4 else 0
    usage = Usage() if failed else Usage(chance.randint(*PROMPT_TOKENS), cached, 0, chance.randint(*OUTPUT_TOKENS))
    cost = 0 if failed else pricing.charge(rate, usage)
    first_token_ms = chance.randint(40, 900)
    duration_ms = first_token_ms + usage.output * chance.randint(4, 20)
    return Event(
        call_id=call_ids.mint(started_at_ms, chance.randbytes(10)),
        brand_id=place.organization.brand_id,
        organization_id=place.organization.pk,
        key_id=chance.choice(place.keys),
        model_id=model.id,
        engine_id=model.routes[0].engine_id if model.routes else None,
        tier_id=place.tier.pk,
        rate_id=rate.id,
        rates=facts.rates_of(rate),
        endpoint="chat",
        payer="prepaid",
        uncached_input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        credits=0 if failed else pricing.credits(rate, usage),
        list_cost_nanos=cost,
        cost_nanos=cost,
        held_nanos=2 * cost,
        prompt_tokens_max=usage.prompt_tokens,
        granted_tokens=OUTPUT_TOKENS[1],
        usage_source="none" if failed else "final",
        end_reason=end,
        http_status=502 if failed else 200,
        stream=chance.random() < 0.7,
        day=f"{datetime.fromtimestamp(started_at_ms / 1000, place.zone):%Y%m%d}",
        started_at_ms=started_at_ms,
        first_token_ms=None if failed else first_token_ms,
        duration_ms=duration_ms,
        settled_at_ms=started_at_ms + duration_ms,
        address=f"192.0.2.{chance.randrange(1, 255)}",
        agent=chance.choice(AGENTS),
        user=f"user-{chance.randrange(500)}" if chance.random() < 0.2 else "",
    )


def _pay(organization: Organization, cost_nanos: int) -> None:
    if cost_nanos:
        ledger.grant(
            organization=organization,
            amount_nanos=2 * cost_nanos,
            kind=Grant.Kind.PROMOTIONAL,
            reason="Pays for made-up calls",
            reference=f"{ACTOR}:{organization.public_id}",
            actor=ACTOR,
        )
