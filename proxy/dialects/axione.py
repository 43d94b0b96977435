"""Axione: OpenAI's surface over models of many makers ("openai/gpt-4o"), with codes of its own for a used-up day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from billing.snapshot import BrandRecord
from proxy.dialects.openai import SHOWN, OpenAI
from proxy.dialects.protocol import Header, Listed
from proxy.limits import REQUEST_UNITS, TOKEN_UNITS, LimitState, iso_time, shown_of
from proxy.refusals import RATE, Problem, Reason

_DAY_CODES = {
    **dict.fromkeys(REQUEST_UNITS, ("daily_requests_exceeded", "requests")),
    **dict.fromkeys(TOKEN_UNITS, ("daily_tokens_exceeded", "tokens")),
}


class Axione(OpenAI):
    name = "axione"

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        problem = super().worded(problem, brand)
        if problem.reason is Reason.MODEL_NOT_FOUND:
            return replace(problem, message=f"Model '{problem.facts.get('model')}' not found")
        quota = problem.quota
        if problem.reason is Reason.INSUFFICIENT_QUOTA and quota is not None and quota.window == "day":
            code, unit = _DAY_CODES.get(quota.unit, ("", ""))
            if code:
                message = f"Daily {unit} limit exceeded: {quota.used:,} of {quota.limit:,} used."
                if quota.resets_at_ms is not None:
                    message += f" It resets at {iso_time(quota.resets_at_ms)}."
                return replace(problem, type=RATE, code=code, message=message)
        return problem

    def error(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        return {
            "error": {
                "type": problem.type,
                "message": problem.message,
                "code": problem.code,
                "param": problem.param,
            }
        }

    def limit_headers(
        self, states: Sequence[LimitState], now_ms: int, *, refused_by: LimitState | None = None
    ) -> list[Header]:
        """Besides limit, remaining and reset, what is used."""
        headers = super().limit_headers(states, now_ms, refused_by=refused_by)
        for word, units in SHOWN:
            shown = shown_of(states, units, now_ms, refused_by)
            if shown is not None:
                headers.append((b"x-ratelimit-used-" + word, b"%d" % (shown.limit - shown.remaining)))
        return headers

    def model(self, listed: Listed, brand: BrandRecord) -> dict[str, Any]:
        maker, slash, _ = listed.model.slug.partition("/")
        shown = super().model(listed, brand)
        return shown | {"owned_by": maker} if slash else shown
