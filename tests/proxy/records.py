"""Records to test pure code with."""

from __future__ import annotations

from typing import Any

from billing.snapshot import BrandRecord, Capabilities, EngineRecord, ModelRecord


def brand(**known: Any) -> BrandRecord:
    fields: dict[str, Any] = {"id": 1, "slug": "dialogix", "name": "Dialogix", "schemes": ("bearer",)}
    return BrandRecord(**(fields | known))


def model(**known: Any) -> ModelRecord:
    fields: dict[str, Any] = {
        "id": 7,
        "slug": "aion-v3",
        "context_length": 32_768,
        "max_completion_tokens": 8_192,
        "tokens_per_message": 10,
        "tokens_per_call": 50,
    }
    return ModelRecord(**(fields | known))


def engine(**known: Any) -> EngineRecord:
    fields: dict[str, Any] = {"id": 3, "name": "gpu-1", "kind": "vllm", "base_url": "http://127.0.0.1:9/v1"}
    fields["capabilities"] = Capabilities(**known.pop("capabilities", {}))
    return EngineRecord(**(fields | known))
