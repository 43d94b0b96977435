"""What is sold in a benchmark: one brand, two models (whole answers, streams) on two engines, one key on a tier of six
limits, prepaid; and two more, on tiers of two and of ten. Written through the writers that people use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from billing import engines, ladder, ledger, prices, rebuild
from billing.models import Grant, Model, Payer, Tier, TierLimit
from billing.money import nanos
from billing.snapshot import Capabilities
from keys import brands, issuing, organizations
from keys.caller import shard_of
from keys.connections import redis_client
from keys.models import Brand, Scheme
from tests.speed.load import STREAMED, WHOLE

ACTOR = "speed"
BRAND = "speed"
PRICES = {"input": "0.20", "output": "0.60", "cache_read": "0.05"}
LIMITS: tuple[dict[str, Any], ...] = (
    {"unit": "requests", "window": "minute", "amount": 10**8},
    {"unit": "tokens", "window": "minute", "amount": 10**12},
    {"unit": "requests", "window": "day", "amount": 10**9},
    {"unit": "tokens", "window": "day", "scope": "key", "amount": 10**13},
    {"unit": "nanos", "window": "month", "amount": nanos("5000000")},
    {"unit": "concurrent", "window": "minute", "amount": 2_000},
)
"""No call meets them: what is measured is a call that each of them has judged and counted."""
FEW_LIMITS: tuple[dict[str, Any], ...] = (
    {"unit": "requests", "window": "minute", "amount": 10**8},
    {"unit": "tokens", "window": "day", "amount": 10**13},
)
MANY_LIMITS: tuple[dict[str, Any], ...] = (
    *LIMITS,
    *FEW_LIMITS[1:],
    {"unit": "requests", "window": "minute", "scope": "key", "amount": 10**8},
    {"unit": "output", "window": "day", "scope": "model", "amount": 10**13},
    {"unit": "tokens", "window": "month", "amount": 10**14},
)
"""Ten, of every window and scope: what eight more of them add to a call of FEW_LIMITS is measured."""
CAPABILITIES = Capabilities(reports_cached=True, running_usage="continuous_usage_stats", stops_on_close=True)
CREDIT = "1000000"


class Customer(NamedTuple):
    secret: str
    shard: int
    path: str
    """Where chat completions are asked for."""
    limits: int


class Customers(NamedTuple):
    usual: Customer
    few_limits: Customer
    many_limits: Customer


def customers(*, whole_url: str, streamed_url: str) -> Customers:
    usual = customer(whole_url=whole_url, streamed_url=streamed_url)
    few, many = (_buyer(slug, limits) for slug, limits in (("few", FEW_LIMITS), ("many", MANY_LIMITS)))
    return Customers(usual, few, many)


def customer(*, whole_url: str, streamed_url: str) -> Customer:
    """The engines' URLs are what an SDK takes as base_url."""
    rebuild.ensure_epochs(redis_client())
    brand = brands.create(
        slug=BRAND,
        name="Speed",
        key_prefix="sp-",
        actor=ACTOR,
        base_paths=["/v1"],
        schemes=[scheme.value for scheme in Scheme],
    )
    _model(brand, WHOLE, whole_url)
    _model(brand, STREAMED, streamed_url)
    return _buyer("usual", LIMITS)


def _buyer(slug: str, limits: Sequence[Mapping[str, Any]]) -> Customer:
    """An organization with a key, on a tier of these limits."""
    brand = Brand.objects.get(slug=BRAND)
    tier = ladder.save_tier(
        Tier(brand=brand, slug=slug, name=slug, rank=1 + brand.tiers.count(), payer=Payer.PREPAID), actor=ACTOR
    )
    for limit in limits:
        ladder.save_limit(TierLimit(tier=tier, **limit), actor=ACTOR)
    organization = organizations.create(brand=brand, name=slug, slug=slug, actor=ACTOR)
    ladder.assign(organization=organization, tier=tier, reason="benchmark", actor=ACTOR)
    ledger.grant(
        organization=organization,
        amount_nanos=nanos(CREDIT),
        kind=Grant.Kind.PROMOTIONAL,
        reason="benchmark",
        reference=slug,
        actor=ACTOR,
    )
    issued = issuing.issue(organization=organization, name="benchmark", actor=ACTOR)
    return Customer(issued.secret, shard_of(organization.id), f"/{BRAND}/v1/chat/completions", len(limits))


def _model(brand: Brand, slug: str, engine_url: str) -> Model:
    engine = engines.register(
        name=slug, kind="vllm", base_url=engine_url, actor=ACTOR, capabilities=CAPABILITIES, max_in_flight=4_000
    )
    model, _ = engines.draft_model(
        brand=brand,
        slug=slug,
        engine=engine,
        name_there=slug,
        actor=ACTOR,
        context_length=32_768,
        max_completion_tokens=8_192,
        features=["chat", "tools"],
    )
    prices.set_price(model=model, actor=ACTOR, per_million=PRICES)
    return model
