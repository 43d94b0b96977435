"""The models that are sold, at the account's prices: what keys may be narrowed to."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers

from billing import ladder
from billing.models import Model, Rate
from keys.models import Role
from portal import on_sale
from portal.manage_api.fields import Shape, nanos
from portal.manage_api.operation import Call, Endpoint, operation

PICOS = "Picos (10⁻¹²) of the account's currency unit, per token"
BY_TOKEN = ("input_picos", "cache_read_picos", "cache_write_picos", "output_picos", "reasoning_picos")


class PriceShape(Shape):
    is_free = serializers.BooleanField()
    is_own = serializers.BooleanField(help_text="Agreed with this account, in place of everybody's")
    input_picos = serializers.IntegerField(allow_null=True, help_text=PICOS)
    cache_read_picos = serializers.IntegerField(allow_null=True, help_text=f"{PICOS}; null: as input")
    cache_write_picos = serializers.IntegerField(allow_null=True, help_text=f"{PICOS}; null: as input")
    output_picos = serializers.IntegerField(allow_null=True, help_text=PICOS)
    reasoning_picos = serializers.IntegerField(allow_null=True, help_text=f"{PICOS}; null: as output")
    request_nanos = nanos()
    image_nanos = nanos()


class ModelShape(Shape):
    id = serializers.CharField(help_text="What calls, keys and limits name it by")
    name = serializers.CharField()
    state = serializers.ChoiceField(["live", "maintenance"])
    is_unlocked = serializers.BooleanField(help_text="false: the account's tier leaves it out")
    context_length = serializers.IntegerField()
    max_completion_tokens = serializers.IntegerField()
    features = serializers.ListField(child=serializers.CharField())
    price = PriceShape(allow_null=True, help_text="In force now; null: not on sale yet")
    EXAMPLE: dict[str, Any] = {
        "id": "aion-v3",
        "name": "Aion v3",
        "state": "live",
        "is_unlocked": True,
        "context_length": 32_768,
        "max_completion_tokens": 8_192,
        "features": ["chat", "tools"],
        "price": {
            "is_free": False,
            "is_own": False,
            "input_picos": 200_000,
            "cache_read_picos": 50_000,
            "cache_write_picos": None,
            "output_picos": 600_000,
            "reasoning_picos": None,
            "request_nanos": 0,
            "image_nanos": 0,
        },
    }


class ModelsShape(Shape):
    data = ModelShape(many=True)  # type: ignore[assignment]
    EXAMPLE = {"data": [ModelShape.EXAMPLE]}


class Models(Endpoint):
    @operation("List models and prices", name="list_models", tag="Models", role=Role.VIEWER, gives=ModelsShape)
    def get(self, call: Call) -> dict[str, Any]:
        """All that are sold, in the order of the overview, at what this account pays."""
        tier, _since = ladder.standing_of(call.organization)
        models = on_sale.price_list(call.organization.brand, timezone.now(), call.organization)
        return {"data": [_shown(model, on_sale.is_unlocked(model, tier)) for model in models]}


def _shown(model: Model, is_unlocked: bool) -> dict[str, Any]:
    names = ("name", "state", "context_length", "max_completion_tokens", "features")
    rates: list[Rate] = model.current_rates  # type: ignore[attr-defined]
    return {
        "id": model.slug,
        **{name: getattr(model, name) for name in names},
        "is_unlocked": is_unlocked,
        "price": _price(rates[0]) if rates else None,
    }


def _price(rate: Rate) -> dict[str, Any]:
    names = ("is_free", *BY_TOKEN, "request_nanos", "image_nanos")
    return {**{name: getattr(rate, name) for name in names}, "is_own": rate.organization_id is not None}
