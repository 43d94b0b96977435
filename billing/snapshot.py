"""The immutable records proxy workers hold: one Snapshot per brand, published by catalogue.py. Values only.

msgspec structs, so that a snapshot is one JSON text in Redis. Money: nanos; rates: picos per token; times: Unix ms.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Capabilities(Record, frozen=True, kw_only=True):
    """What an engine was found to do (proxy.probe), so that the meter never guesses."""

    reports_usage: bool = True
    reports_cached: bool = False
    running_usage: str = ""  # "", "continuous_usage_stats" or "timings_per_token"
    counts_every_choice: bool = True  # False: usage counts only the first of n choices
    tokenize: str = ""  # "", "vllm" (/tokenize takes messages) or "llamacpp" (/apply-template, then /tokenize)
    stops_on_close: bool = False  # a whole call is stopped when its connection closes
    sends_done: bool = True
    cache_salt: bool = False
    priority: bool = False
    extra_fields: tuple[str, ...] = ()


class EngineRecord(Record, frozen=True, kw_only=True):
    id: int
    name: str
    kind: str
    base_url: str
    api_key: str = ""  # sealed text; keys.sealing.open_text
    headers: dict[str, str] = {}
    verify_tls: bool = True
    max_in_flight: int = 256
    weight: int = 1
    state: str = "live"
    capabilities: Capabilities = Capabilities()


class Route(Record, frozen=True, kw_only=True):
    engine_id: int
    name_there: str


class RateRecord(Record, frozen=True, kw_only=True):
    id: int
    organization_id: int | None = None
    from_ms: int
    until_ms: int | None = None
    input_picos: int | None = None
    output_picos: int | None = None
    cache_read_picos: int | None = None
    cache_write_picos: int | None = None
    reasoning_picos: int | None = None
    request_nanos: int = 0
    image_nanos: int = 0
    credits_per_request: int = 0
    credits_per_1000_tokens: int = 0
    is_free: bool = False


class ModelRecord(Record, frozen=True, kw_only=True, dict=True):
    id: int
    slug: str
    aliases: tuple[str, ...] = ()
    name: str = ""
    description: str = ""
    created: int = 0  # Unix seconds
    owned_by: str = ""
    context_length: int
    default_max_tokens: int = 4096
    max_completion_tokens: int
    modalities: dict[str, int] = {}
    tokens_per_message: int = 16
    tokens_per_call: int = 64
    modality: str = "text->text"
    images_per_call_max: int = 0
    is_moderated: bool = False
    is_reasoning: bool = False
    features: tuple[str, ...] = ()
    extra_fields: tuple[str, ...] = ()
    state: str = "live"
    maintenance_message: str = ""
    connect_ms: int = 5_000
    first_byte_ms: int = 120_000
    idle_ms: int = 60_000
    total_ms: int = 900_000
    routes: tuple[Route, ...] = ()
    rates: tuple[RateRecord, ...] = ()

    @cached_property
    def rates_by_organization(self) -> dict[int | None, tuple[RateRecord, ...]]:
        """None holds everybody's rates."""
        found: dict[int | None, list[RateRecord]] = {}
        for rate in self.rates:
            found.setdefault(rate.organization_id, []).append(rate)
        return {organization: tuple(rates) for organization, rates in found.items()}


class LimitRecord(Record, frozen=True, kw_only=True):
    """`model_id` None with scope "model" means each model by itself."""

    unit: str
    window: str
    scope: str
    amount: int
    model_id: int | None = None
    is_allotment: bool = False
    is_shadow: bool = False


class TierRecord(Record, frozen=True, kw_only=True):
    id: int
    rank: int
    slug: str
    name: str
    payer: str
    models: tuple[str, ...] | None = None
    priority: int = 0
    is_default: bool = False
    is_listed: bool = True
    is_sold: bool = False
    limits: tuple[LimitRecord, ...] = ()


class BrandRecord(Record, frozen=True, kw_only=True):
    id: int
    slug: str
    name: str
    hosts: tuple[str, ...] = ()
    base_paths: tuple[str, ...] = ()
    dialect: str = "openai"
    schemes: tuple[str, ...] = ()
    key_prefix: str = ""
    legacy_key_patterns: tuple[str, ...] = ()
    id_prefix: str = "chatcmpl-"
    default_model: str = ""
    currency: str = "USD"
    timezone: str = "UTC"
    state: str = "active"
    cors_origins: tuple[str, ...] = ()
    money_refusal_status: int = 429
    support_email: str = ""
    support_url: str = ""
    response_id_prefix: str = "resp_"
    parameters: dict[str, dict[str, Any]] = {}  # field → {"min", "max", "default", "values"}
    is_catalogue_public: bool = False
    lists_gated_models: bool = False
    is_plain_chat: bool = False
    splits_reasoning: bool = False
    conversation_days: int = 0
    conversation_bytes_max: int = 1_048_576


class Snapshot(Record, frozen=True, kw_only=True, dict=True):
    version: int
    brand: BrandRecord
    models: tuple[ModelRecord, ...] = ()
    tiers: tuple[TierRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    extras: dict[str, Any] = {}

    @cached_property
    def models_by_name(self) -> dict[str, ModelRecord]:
        """Slugs and aliases; a slug wins over another model's alias."""
        aliases = {alias: model for model in self.models for alias in model.aliases}
        return aliases | {model.slug: model for model in self.models}

    @cached_property
    def tiers_by_id(self) -> dict[int, TierRecord]:
        return {tier.id: tier for tier in self.tiers}

    @cached_property
    def default_tier(self) -> TierRecord | None:
        return next((tier for tier in self.tiers if tier.is_default), None)

    @cached_property
    def listed_tiers(self) -> tuple[TierRecord, ...]:
        """The ladder that customers are told of, lowest first."""
        return tuple(sorted((tier for tier in self.tiers if tier.is_listed), key=lambda tier: tier.rank))

    @cached_property
    def engines_by_id(self) -> dict[int, EngineRecord]:
        return {engine.id: engine for engine in self.engines}
