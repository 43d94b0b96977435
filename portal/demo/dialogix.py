"""The demo brand: a catalogue, a ladder, customers and keys in every state that its surface knows. Data, and the calls
that make it so through the same writers that people use. Made once; what people changed later stays as they left it.
"""

from __future__ import annotations

from typing import Any

from billing import engines, ladder, ledger, prices
from billing.models import Engine, Grant, Model, Payer, Rate, Tier, TierAssignment, TierLimit
from billing.money import nanos
from billing.snapshot import Capabilities
from keys import brands, issuing, organizations, tokens
from keys.models import Brand, Organization, Role, Scheme
from portal.demo.inference import fit, real_engine
from portal.demo.people import person, secret_bytes

ACTOR = "demo"
SLUG = "dialogix"
KEY_PREFIX = "ak-"
FREE_TOKENS = 10_000

MODELS: dict[str, dict[str, Any]] = {
    "aion-v3": {"there": "demo-chat", "name": "AION v3", "description": "Standard inference (72B parameters)"},
    "aion-v3-tools": {
        "there": "demo-large",
        "name": "AION v3 Tools",
        "description": "Agentic mode with tool execution",
        "context_length": 131_072,
        "features": ["chat", "completions", "tools"],
    },
    "aion-v3-reasoning": {"there": "demo-reasoning", "name": "AION v3 Reasoning", "is_reasoning": True},
    "aion-embed": {"there": "demo-embed", "name": "AION Embed", "context_length": 8_192, "features": ["embeddings"]},
    "aion-v3-loading": {"there": "demo-loading", "name": "AION v3 (its engine is loading)"},
    "aion-v3-broken": {"there": "demo-broken", "name": "AION v3 (its engine fails)"},
    "aion-v3-misconfigured": {"there": "", "name": "AION v3 (no engine serves it)"},
}
REAL = ("aion-v3", "aion-v3-tools")
"""What DEMO_INFERENCE_URL puts a real engine behind."""
PRICES = {"input": "0.20", "output": "0.60", "cache_read": "0.05"}

TIERS: tuple[tuple[str, dict[str, Any], tuple[dict[str, Any], ...]], ...] = (
    (
        "free",
        {"name": "Free", "payer": Payer.INCLUDED, "is_default": True, "priority": 10},
        (
            {"unit": "tokens", "window": "lifetime", "amount": FREE_TOKENS},
            {"unit": "requests", "window": "minute", "amount": 60},
            {"unit": "concurrent", "window": "minute", "amount": 8},
        ),
    ),
    (
        "pro",
        {"name": "Pro", "payer": Payer.INCLUDED_THEN_PREPAID, "priority": 5},
        (
            {"unit": "tokens", "window": "month", "amount": 5_000_000, "is_allotment": True},
            {"unit": "requests", "window": "minute", "amount": 600},
            {"unit": "concurrent", "window": "minute", "amount": 64},
        ),
    ),
    (
        "enterprise",
        {"name": "Enterprise", "payer": Payer.PREPAID},
        (
            {"unit": "requests", "window": "minute", "amount": 1_000_000},
            {"unit": "tokens", "window": "minute", "amount": 10_000_000_000},
            {"unit": "requests", "window": "day", "amount": 100_000_000},
            {"unit": "tokens", "window": "day", "amount": 1_000_000_000_000},
            {"unit": "nanos", "window": "month", "amount": nanos("5000000")},
            {"unit": "concurrent", "window": "minute", "amount": 2_000},
        ),
    ),
)
ORGANIZATIONS = (
    ("demo", "Demo Company", "enterprise", "1000000.00"),
    ("other", "Other Company", "enterprise", "1000.00"),
    ("exhausted", "Exhausted Company", "free", ""),
    ("free", "Free Company", "free", ""),
    ("pro", "Pro Company", "pro", "100.00"),
)
KEYS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("api_key", "demo", {}),
    ("second", "demo", {}),
    ("other", "other", {}),
    ("revoked", "demo", {}),
    ("exhausted", "exhausted", {}),
    ("restricted", "demo", {"model_slugs": ["aion-v3-tools"]}),
    ("free", "free", {}),
    ("pro", "pro", {}),
)


def seed(*, base_url: str, engine_url: str) -> dict[str, Any]:
    """Make what is missing; returns the brand's entry of demo.json."""
    brand = _brand()
    _catalogue(brand, engine_url)
    _ladder(brand)
    customers = {slug: _organization(brand, slug, name, tier, credit) for slug, name, tier, credit in ORGANIZATIONS}
    email = f"demo@{SLUG}.example"
    owner = person(email, name="Demo Developer")
    organizations.add_member(organization=customers["demo"], user=owner.user, role=Role.OWNER, actor=ACTOR)
    keys = {name: _key(customers[slug], name, fields) for name, slug, fields in KEYS}
    return {
        "base_url": f"{base_url}/{SLUG}/v1",
        "host": f"{SLUG}.localhost",
        "email": email,
        "password": owner.password,
        "model": "aion-v3",
        "api_key": keys.pop("api_key"),
        "keys": keys,
        "models": {
            "loading": "aion-v3-loading",
            "broken": "aion-v3-broken",
            "misconfigured": "aion-v3-misconfigured",
            "reasoning": "aion-v3-reasoning",
        },
    }


def _brand() -> Brand:
    return Brand.objects.filter(slug=SLUG).first() or brands.create(
        slug=SLUG,
        name="Dialogix AION",
        key_prefix=KEY_PREFIX,
        actor=ACTOR,
        hosts=[f"{SLUG}.localhost"],
        base_paths=["/v1", "/api/v1"],
        schemes=[scheme.value for scheme in Scheme],
        default_model="aion-v3",
        cors_origins=["*"],
    )


def _catalogue(brand: Brand, engine_url: str) -> None:
    demo = _engine("demo", engine_url, Engine.Kind.VLLM, _demo_capabilities())
    real = real_engine(ACTOR)
    for position, (slug, facts) in enumerate(MODELS.items()):
        model = _model(brand, slug, position, facts, demo)
        chosen, there = demo, facts["there"]
        if real is not None and slug in REAL:
            chosen, there = real.engine, real.name_there or facts["there"]
            fit(model, real, ACTOR)
        _serve(model, chosen, there)
        if not Rate.objects.filter(model=model).exists():
            prices.set_price(model=model, actor=ACTOR, per_million=PRICES)


def _demo_capabilities() -> Capabilities:
    return Capabilities(
        reports_cached=True,
        running_usage="continuous_usage_stats",
        tokenize="vllm",
        stops_on_close=True,
        cache_salt=True,
        priority=True,
        extra_fields=("top_k", "min_p"),
    )


def _engine(name: str, base_url: str, kind: str, capabilities: Capabilities) -> Engine:
    """Its address is this start's: the demo engine's port may have changed."""
    engine = Engine.objects.filter(name=name).first()
    if engine is None:
        return engines.register(
            name=name, kind=kind, base_url=base_url, actor=ACTOR, capabilities=capabilities, max_in_flight=2_000
        )
    engines.change(engine=engine, actor=ACTOR, base_url=base_url)
    return engine


def _model(brand: Brand, slug: str, position: int, facts: dict[str, Any], engine: Engine) -> Model:
    model = Model.objects.filter(brand=brand, slug=slug).first()
    if model is not None:
        return model
    fields = {name: value for name, value in facts.items() if name not in ("there", "context_length")}
    length = facts.get("context_length", 32_768)
    model, _ = engines.draft_model(
        brand=brand,
        slug=slug,
        engine=engine,
        name_there=facts["there"] or slug,
        context_length=length,
        actor=ACTOR,
        **{
            "max_completion_tokens": min(16_384, length),
            "features": ["chat", "completions", "tools"],
            "extra_fields": ["top_k", "min_p"],
            "owned_by": SLUG,
            "position": position,
        }
        | fields,
    )
    return model


def _serve(model: Model, engine: Engine, there: str) -> None:
    """This engine and no other, under this name; none at all without a name."""
    for route in model.routes.select_related("engine", "model"):
        if route.engine_id != engine.id or not there:
            engines.remove_route(route=route, actor=ACTOR)
    if there and not model.routes.filter(engine=engine, name_there=there).exists():
        engines.set_route(model=model, engine=engine, name_there=there, actor=ACTOR)


def _ladder(brand: Brand) -> None:
    for rank, (slug, facts, found) in enumerate(TIERS, start=1):
        if Tier.objects.filter(brand=brand, slug=slug).exists():
            continue
        tier = ladder.save_tier(Tier(brand=brand, rank=rank, slug=slug, **facts), actor=ACTOR)
        for limit in found:
            ladder.save_limit(TierLimit(tier=tier, **limit), actor=ACTOR)


def _organization(brand: Brand, slug: str, name: str, tier: str, credit: str) -> Organization:
    organization = Organization.objects.filter(brand=brand, slug=slug).first()
    if organization is None:
        organization = organizations.create(brand=brand, name=name, slug=slug, actor=ACTOR)
    if not TierAssignment.objects.filter(organization=organization).exists():
        chosen = Tier.objects.get(brand=brand, slug=tier)
        ladder.assign(organization=organization, tier=chosen, reason="demo", actor=ACTOR)
    if credit:
        ledger.grant(
            organization=organization,
            amount_nanos=nanos(credit),
            kind=Grant.Kind.PROMOTIONAL,
            reason="Demo credit",
            reference=f"demo:{SLUG}:{slug}",
            actor=ACTOR,
        )
    return organization


def _key(organization: Organization, name: str, fields: dict[str, Any]) -> str:
    """A secret that is the same at every start. A key that should call and does not any more gets a successor."""
    generation = 0
    while True:
        secret = tokens.mint(KEY_PREFIX, secret_bytes(f"key:{SLUG}:{name}:{generation}")[: tokens.RANDOM_BYTES])
        key = issuing.existing(secret)
        if key is None:
            key = issuing.issue(
                organization=organization, name=f"Demo: {name}", actor=ACTOR, secret=secret, **fields
            ).key
        if name == "revoked":
            issuing.revoke(key=key, actor=ACTOR)
            return secret
        if key.revoked_at is None:
            return secret
        generation += 1
