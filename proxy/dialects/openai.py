"""OpenAI's own surface: what its SDKs and most tools expect. The base of the other dialects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from billing.snapshot import BrandRecord
from billing.usage import Usage
from proxy.dialects.protocol import Header, Listed, Stamp, UsageReport
from proxy.limits import CREDIT_UNITS, REQUEST_UNITS, TOKEN_UNITS, LimitState, go_duration, shown_of
from proxy.refusals import Problem, Reason

SHOWN = ((b"requests", REQUEST_UNITS), (b"tokens", TOKEN_UNITS), (b"credits", CREDIT_UNITS))


class OpenAI:
    name = "openai"
    request_fields: frozenset[str] = frozenset()
    limits_everywhere = False
    rewrites_choices = False

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        """Only running out of money is worded by the brand (402 or 429); other quotas are 429 everywhere."""
        is_money = problem.quota is not None and problem.quota.unit == "nanos"
        if problem.reason is Reason.INSUFFICIENT_QUOTA and is_money and brand is not None:
            return replace(problem, status=brand.money_refusal_status)
        return problem

    def error(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        return {
            "error": {
                "message": problem.message,
                "type": problem.type,
                "param": problem.param,
                "code": problem.code,
            }
        }

    def error_event(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        return self.error(problem, brand)

    def limit_headers(
        self, states: Sequence[LimitState], now_ms: int, *, refused_by: LimitState | None = None
    ) -> list[Header]:
        headers: list[Header] = []
        for word, units in SHOWN:
            shown = shown_of(states, units, now_ms, refused_by)
            if shown is None:
                continue
            headers.append((b"x-ratelimit-limit-" + word, b"%d" % shown.limit))
            headers.append((b"x-ratelimit-remaining-" + word, b"%d" % shown.remaining))
            if shown.reset_ms is not None:
                headers.append((b"x-ratelimit-reset-" + word, go_duration(shown.reset_ms)))
        return headers

    def models(self, listed: Sequence[Listed], brand: BrandRecord) -> dict[str, Any]:
        return {"object": "list", "data": [self.model(item, brand) for item in listed]}

    def model(self, listed: Listed, brand: BrandRecord) -> dict[str, Any]:
        model = listed.model
        return {
            "id": model.slug,
            "object": "model",
            "created": model.created,
            "owned_by": model.owned_by or brand.slug,
            "name": model.name or model.slug,
            "description": model.description,
            "context_length": model.context_length,
            "max_completion_tokens": model.max_completion_tokens,
            "pricing": listed.prices,
            "tier_required": listed.tier_required,
            "available": listed.available,
            "supported_parameters": list(listed.parameters),
        }

    def usage_report(self, report: UsageReport, brand: BrandRecord) -> dict[str, Any]:
        limit = report.tokens_limit
        return {
            "user": report.user,
            "tier": report.tier,
            "tokens_used": report.tokens_used,
            "tokens_limit": limit,
            "tokens_remaining": None if limit is None else max(0, limit - report.tokens_used),
            "daily_stats": [
                {
                    "date": day.date,
                    "requests": day.requests,
                    "prompt_tokens": day.prompt_tokens,
                    "completion_tokens": day.completion_tokens,
                    "total_tokens": day.prompt_tokens + day.completion_tokens,
                }
                for day in report.days
            ],
        }

    def usage(self, usage: Usage) -> dict[str, Any]:
        prompt = usage.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": usage.output,
            "total_tokens": prompt + usage.output,
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read or 0,
                "cache_write_tokens": usage.cache_write or 0,
            },
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        }

    def whole(self, answer: dict[str, Any], stamp: Stamp, usage: dict[str, Any]) -> dict[str, Any]:
        """Only fields of the public schema leave: an engine's build, timings and own ids stay here."""
        if "data" in answer:  # embeddings
            return {"object": "list", "data": answer["data"], "model": stamp.model, "usage": usage}
        return {
            "id": stamp.id,
            "object": answer.get("object") or "chat.completion",
            "created": stamp.created,
            "model": stamp.model,
            "choices": answer.get("choices") or [],
            "usage": usage,
        }

    def chunk(self, chunk: dict[str, Any], stamp: Stamp, usage_null: bool) -> dict[str, Any]:
        rewritten = {
            "id": stamp.id,
            "object": chunk.get("object") or "chat.completion.chunk",
            "created": stamp.created,
            "model": stamp.model,
            "choices": chunk.get("choices") or [],
        }
        if usage_null:
            rewritten["usage"] = None
        return rewritten

    def usage_chunk(self, object_name: str, stamp: Stamp, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": stamp.id,
            "object": object_name,
            "created": stamp.created,
            "model": stamp.model,
            "choices": [],
            "usage": usage,
        }
