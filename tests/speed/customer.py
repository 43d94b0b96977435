"""What is sold in a benchmark: one brand, two models (whole answers, streams) on two engines, one key on a tier of six
limits, prepaid. Written through the writers that people use."""

from __future__ import annotations

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
CAPABILITIES = Capabilities(reports_cached=True, running_usage="continuous_usage_stats", stops_on_close=True)
CREDIT = "1000000"


class Customer(NamedTuple):
    secret: str
    shard: int
    path: str
    """Where chat completions are asked for."""


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
    tier = ladder.save_tier(Tier(brand=brand, slug="all", name="All", rank=1, payer=Payer.PREPAID), actor=ACTOR)
    for limit in LIMITS:
        ladder.save_limit(TierLimit(tier=tier, **limit), actor=ACTOR)
    organization = organizations.create(brand=brand, name="Speed", slug="speed", actor=ACTOR)
    ladder.assign(organization=organization, tier=tier, reason="benchmark", actor=ACTOR)
    ledger.grant(
        organization=organization,
        amount_nanos=nanos(CREDIT),
        kind=Grant.Kind.PROMOTIONAL,
        reason="benchmark",
        reference="speed",
        actor=ACTOR,
    )
    issued = issuing.issue(organization=organization, name="benchmark", actor=ACTOR)
    return Customer(issued.secret, shard_of(organization.id), f"/{BRAND}/v1/chat/completions")


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
