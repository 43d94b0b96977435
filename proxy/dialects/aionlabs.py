"""Aion Labs: four types of errors in its envelope, an unknown model is a bad request, and a catalogue of its own shape
beside OpenAI's, so that its page and the SDKs both find what they look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from billing.snapshot import BrandRecord
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Listed
from proxy.refusals import RATE, Problem, Reason

PROVIDER = "provider_error"
CONFIGURATION = "configuration_error"
_PROVIDER_STATUSES = (502, 503, 504)


class AionLabs(OpenAI):
    name = "aionlabs"
    request_fields = frozenset({"reasoning_split"})

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        problem = super().worded(problem, brand)
        if problem.reason is Reason.MODEL_NOT_FOUND:
            return replace(problem, status=400)
        if problem.reason is Reason.ENGINE_MISCONFIGURED:
            return replace(problem, status=400, type=CONFIGURATION)
        if problem.status in _PROVIDER_STATUSES:
            return replace(problem, type=PROVIDER)
        return replace(problem, type=RATE) if problem.status == 429 else problem

    def models(self, listed: Sequence[Listed], brand: BrandRecord) -> dict[str, Any]:
        items = [self.model(item, brand) for item in listed]
        return {"models": items, "object": "list", "data": items}

    def model(self, listed: Listed, brand: BrandRecord) -> dict[str, Any]:
        model = listed.model
        return super().model(listed, brand) | {
            "date": datetime.fromtimestamp(model.created, UTC).date().isoformat(),
            "is_moderated": model.is_moderated,
            "architecture": {"modality": model.modality},
        }
