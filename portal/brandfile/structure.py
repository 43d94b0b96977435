"""What a brand file says: its keys, their types and what each is when it is left out.

Keys are the fields of Brand, Model, Tier and Engine; money is text in currency units ("9.90"), prices are per million
tokens. What is not here is not a brand's nature: whether it is paused, its customers and their own prices, prices that
are to begin later, and secrets (an engine's key and headers).
"""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

import msgspec

Money = Any
"""A decimal as text. Typed loosely, so that billing.money says what is wrong with another."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class EngineEntry(Section, frozen=True, kw_only=True):
    """How to make the engine where it is missing, and what it is to be where it is there. `only_here`: no other brand
    may use it. Its key is told with `manage.py engine add --key` or on the admin site."""

    kind: Literal["vllm", "sglang", "llamacpp", "tgi", "transformers", "openai"]
    base_url: str
    only_here: bool = False
    verify_tls: bool = True
    max_in_flight: int = 256
    weight: int = 1
    cost_per_hour: Money = "0"
    is_shared: bool = False
    capabilities: dict[str, Any] = {}


class RatesEntry(Section, frozen=True, kw_only=True):
    """Everybody's price from now on. Tokens per million; `request` and `image` each."""

    free: bool = False
    input: Money = None
    output: Money = None
    cache_read: Money = None
    cache_write: Money = None
    reasoning: Money = None
    request: Money = "0"
    image: Money = "0"
    credits_per_request: int = 0
    credits_per_1000_tokens: int = 0


class ModelEntry(Section, frozen=True, kw_only=True):
    """`id` is what customers send. `position` left out: its place in the file. `routes`: engine → the model's name
    there. No `rates`: no price, so every call is refused."""

    id: str
    name: str = ""
    description: str = ""
    aliases: list[str] = []
    released_on: date | None = None
    owned_by: str = ""
    context_length: int
    max_completion_tokens: int | None = None
    default_max_tokens: int | None = None
    modality: str = "text->text"
    modalities: dict[str, Any] = {}
    images_per_call_max: int = 0
    features: list[str] = []
    extra_fields: list[str] = []
    is_reasoning: bool = False
    is_moderated: bool = False
    state: Literal["live", "maintenance", "retired"] = "live"
    maintenance_message: str = ""
    weights: str = ""
    weights_revision: str = ""
    quantization: str = ""
    tokens_per_message: int = 16
    tokens_per_call: int = 64
    connect_ms: int = 5_000
    first_byte_ms: int = 120_000
    idle_ms: int = 60_000
    total_ms: int = 900_000
    position: int | None = None
    rates: RatesEntry | None = None
    routes: dict[str, str] = {}


class LimitEntry(Section, frozen=True, kw_only=True):
    """`amount`: a whole number; of nanos (spend), text in currency units. `window` of running calls (concurrent) means
    nothing. `model`: an id, with scope model."""

    unit: Literal["requests", "input", "output", "tokens", "credits", "nanos", "concurrent"]
    window: Literal["minute", "day", "month", "lifetime", ""] = ""
    scope: Literal["key", "organization", "model"] = "organization"
    model: str = ""
    amount: Money
    is_allotment: bool = False
    is_shadow: bool = False


class TierEntry(Section, frozen=True, kw_only=True):
    """`models` left out: all. `rank` left out: its place in the file, from 1. `monthly_price` left out: not sold.
    `upgrade_rule` as billing/upgrade_rules.py reads it."""

    slug: str
    name: str
    label: str = ""
    payer: Literal["included", "prepaid", "included_then_prepaid"] = "prepaid"
    is_default: bool = False
    is_listed: bool = True
    monthly_price: Money = None
    priority: int = 0
    upgrade_rule: dict[str, Any] | None = None
    models: list[str] | None = None
    rank: int | None = None
    limits: list[LimitEntry] = []


class BrandFile(Section, frozen=True, kw_only=True):
    slug: str
    name: str
    hosts: list[str] = []
    base_paths: list[str] = msgspec.field(default_factory=lambda: ["/v1"])
    dialect: str = "openai"
    key_prefix: str
    schemes: list[Literal["bearer", "api-key", "x-api-key", "query"]] = msgspec.field(
        default_factory=lambda: ["bearer"]
    )
    key_scopes: list[str] = []
    legacy_key_patterns: list[str] = []
    id_prefix: str = "chatcmpl-"
    response_id_prefix: str = "resp_"
    default_model: str = ""
    model_id_pattern: str = ""
    is_catalogue_public: bool = False
    lists_gated_models: bool = False
    is_plain_chat: bool = False
    splits_reasoning: bool = False
    conversation_days: int = 0
    conversation_bytes_max: int = 1_048_576
    currency: str = "USD"
    timezone: str = "UTC"
    month_anchor: int = 1
    money_refusal_status: int = 429
    sign_up: Literal["open", "invite"] = "open"
    sign_up_grant: Money = "0"
    sign_ups_per_address: int = 20
    disposable_mail: Literal["refused", "without_credit"] = "refused"
    cors_origins: list[str] = []
    support_email: str = ""
    support_url: str = ""
    terms_url: str = ""
    terms_version: str = ""
    privacy_url: str = ""
    imprint_url: str = ""
    docs_pages: list[str] = []
    theme: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    engines: dict[str, EngineEntry] = {}
    models: list[ModelEntry] = []
    tiers: list[TierEntry] = []


class BrandFileWrong(Exception):
    """`problems`: lines for people, each with where it is ("line 3", "models[2].rates.input")."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
