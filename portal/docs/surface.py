"""One brand's public surface as its rows say it now: what every page is made of."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property

from billing import catalogue
from billing.pricing import complete, rate_for
from billing.snapshot import BrandRecord, ModelRecord, RateRecord, Snapshot
from keys.models import Brand, Scheme
from portal import firstcall
from proxy.dialects import dialect_named
from proxy.endpoints import BY_PATH, CHAT, EMBEDDINGS, Endpoint
from proxy.judging import serves

NOBODY = 0
"""No organization: the rates that everybody pays."""


class Surface:
    """`base_url` is the reader's own: the address on which they read, and the brand's first base path."""

    def __init__(self, brand: Brand, *, base_url: str, now: datetime) -> None:
        self.brand = brand
        self.base_url = base_url
        self.now = now
        self.now_ms = catalogue.milliseconds(now)
        self.dialect = dialect_named(brand.dialect)

    @cached_property
    def snapshot(self) -> Snapshot:
        return catalogue.build(self.brand.pk)

    @property
    def record(self) -> BrandRecord:
        return self.snapshot.brand

    @property
    def origin(self) -> str:
        """The base URL without the brand's base path: where /docs/ lies, too."""
        return self.base_url.removesuffix(self.base_path)

    @property
    def base_path(self) -> str:
        return self.brand.base_paths[0] if self.brand.base_paths else "/v1"

    # models -------------------------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> list[ModelRecord]:
        """On sale or resting, in the catalogue's order."""
        return [model for model in self.snapshot.models if model.state != "retired"]

    @cached_property
    def retired(self) -> list[ModelRecord]:
        return [model for model in self.snapshot.models if model.state == "retired"]

    def rate(self, model: ModelRecord) -> RateRecord | None:
        """The price that everybody pays now; None where calls are refused for want of one."""
        rate = rate_for(model, NOBODY, self.now_ms)
        return rate if complete(rate) else None

    @cached_property
    def model(self) -> str:
        """The model of the examples: the brand's default, else the first that writes text."""
        chats = [model for model in self.models if serves(model, CHAT.feature)]
        return self._first(model for model in chats if not model.images_per_call_max) or self._first(chats) or "MODEL"

    @cached_property
    def tool_model(self) -> str:
        return self._first(model for model in self.models if "tools" in model.features)

    @cached_property
    def embedding_model(self) -> str:
        return self._first(model for model in self.models if serves(model, EMBEDDINGS.feature))

    @cached_property
    def image_model(self) -> str:
        return self._first(model for model in self.models if model.images_per_call_max)

    @cached_property
    def reasoning_model(self) -> str:
        return self._first(model for model in self.models if model.is_reasoning)

    def _first(self, models: Iterable[ModelRecord]) -> str:
        """The brand's default where it is among them, else the first that is live and that an engine serves."""
        found = [model for model in models if model.state == "live"]
        slugs = [model.slug for model in found]
        if self.brand.default_model in slugs:
            return self.brand.default_model
        served = [model.slug for model in found if model.routes and self.rate(model) is not None]
        return (served or slugs or [""])[0]

    # how it is asked ------------------------------------------------------------------------------------------------

    @cached_property
    def endpoints(self) -> list[tuple[str, Endpoint]]:
        """(path, endpoint) below the base path: those that the brand's keys may use and a model of it serves."""
        return [(path, endpoint) for path, endpoint in BY_PATH.items() if self._has(endpoint)]

    def _has(self, endpoint: Endpoint) -> bool:
        scopes = self.brand.key_scopes
        if scopes and endpoint.scope and endpoint.scope not in scopes:
            return False
        return not endpoint.feature or any(serves(model, endpoint.feature) for model in self.models)

    def has(self, name: str) -> bool:
        return any(endpoint.name == name for _, endpoint in self.endpoints)

    @property
    def schemes(self) -> list[Scheme]:
        return [scheme for scheme in Scheme if scheme.value in self.brand.schemes]

    @property
    def scheme(self) -> str:
        """The one that examples use."""
        return self.schemes[0].value if self.schemes else Scheme.BEARER.value

    @property
    def suits_sdks(self) -> bool:
        """Whether the openai SDKs can speak to it: they send Bearer, and expect more than plain chat."""
        return self.scheme == Scheme.BEARER.value and not self.brand.is_plain_chat

    @property
    def key(self) -> str:
        """What stands for the reader's key."""
        return f"{self.brand.key_prefix}your-api-key"

    @property
    def key_header(self) -> str:
        return "" if self.scheme == Scheme.QUERY.value else firstcall.header(self.scheme, self.key)
