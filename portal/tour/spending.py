"""Five hundred calls at once on a balance for exactly ten."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from asgiref.sync import sync_to_async
from django.db.models import Count, Sum

from billing import prices
from billing.models import LedgerAccount, Model, Payer, Tier, TierAssignment, UsageEvent
from keys import issuing
from keys.models import ApiKey, Organization
from portal.tour import NotHere, Proof
from portal.tour.customers import ACTOR, new_customer
from portal.tour.demo import Demo, eventually
from proxy.upstream import UpstreamFailure

CALLS = 500
AFFORDED = 10
TOKENS = 50
OUTPUT_PER_MILLION = "0.60"
CALL_NANOS = TOKENS * 600
REFUSED_BY_NAME = {"insufficient_quota", "quota_in_flight"}


async def a_balance_is_never_overspent(demo: Demo) -> Proof:
    organization, key = await sync_to_async(_customer)(demo)
    started = time.monotonic()
    words = Counter(await asyncio.gather(*(_one(demo, key, number) for number in range(CALLS))))
    seconds = time.monotonic() - started
    events = await eventually(lambda: _events(organization, words["served"]))
    left = await sync_to_async(_left)(organization)
    charged = events["charged"] if events else 0
    lines = [
        f"{CALLS} calls at once, each {CALL_NANOS} nanos, balance {AFFORDED * CALL_NANOS} nanos: {seconds:.1f} s",
        *(f"{count:>5} {word}" for word, count in sorted(words.items())),
        f"charged {charged} nanos, balance left {left}, overspent {max(0, -left)}",
    ]
    refused = sum(count for word, count in words.items() if word in REFUSED_BY_NAME)
    holds = (
        words["served"] == AFFORDED and refused == CALLS - AFFORDED and left == 0 and charged == AFFORDED * CALL_NANOS
    )
    return Proof(lines, holds)


async def _one(demo: Demo, key: str, number: int) -> str:
    try:
        answer = await demo.ask(f"{number} demo:fill demo:rate=100", key=key, max_tokens=TOKENS)
    except UpstreamFailure as failure:
        return type(failure).__name__
    return "served" if answer.status == 200 else answer.code or str(answer.status)


def _customer(demo: Demo) -> tuple[Organization, str]:
    """With its own price (input costs nothing) and credit for exactly ten calls. Raises NotHere."""
    _check_money_is_asked(demo)
    organization, key = new_customer(demo, AFFORDED * CALL_NANOS)
    prices.set_price(
        model=Model.objects.get(brand=organization.brand, slug=demo.model),
        organization=organization,
        actor=ACTOR,
        per_million={"input": "0", "output": OUTPUT_PER_MILLION},
        confirmed_reason="so that ten calls cost the same, to the nano",
    )
    return organization, key


def _check_money_is_asked(demo: Demo) -> None:
    own = issuing.existing(demo.brand["api_key"])
    assert isinstance(own, ApiKey)
    tier = TierAssignment.objects.get(organization=own.organization).tier
    if tier.payer != Payer.PREPAID:
        paying = Tier.objects.filter(payer=Payer.PREPAID, brand__slug__in=demo.brands).order_by("brand__slug")
        elsewhere = " or ".join(dict.fromkeys(paying.values_list("brand__slug", flat=True)))
        brand = own.organization.brand.slug
        raise NotHere(f"{brand}'s tier {tier.name} includes its calls: no balance is spent. Try --brand {elsewhere}.")


def _events(organization: Organization, wanted: int) -> dict[str, int] | None:
    """In one query: the journal may book more between two."""
    events = UsageEvent.objects.filter(organization_id=organization.id)
    found = events.aggregate(count=Count("call_id"), charged=Sum("cost_nanos"))
    return {"count": found["count"], "charged": found["charged"] or 0} if found["count"] >= wanted else None


def _left(organization: Organization) -> int:
    return LedgerAccount.objects.get(organization=organization, kind=LedgerAccount.Kind.WALLET).balance_nanos
