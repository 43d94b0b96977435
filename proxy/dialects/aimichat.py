"""AimiChat: one model, plain chat, flat errors, and the credits that are left on every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from billing.snapshot import BrandRecord
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Header, Stamp
from proxy.limits import CREDIT_UNITS, REQUEST_UNITS, TOKEN_UNITS, LimitState, iso_time, shown_of
from proxy.refusals import Problem, Reason

_TITLES = {
    400: "Invalid request",
    401: "Unauthorized",
    402: "Payment required",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Request too large",
    415: "Unsupported media type",
    429: "Rate limit exceeded",
    431: "Headers too large",
    500: "Internal server error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}
_WINDOWS = {"day": "Daily", "month": "Monthly", "lifetime": "Total"}
_UNITS = {
    "credits": "credit",
    "requests": "request",
    **dict.fromkeys(("tokens", "input", "output"), "token"),
    "nanos": "spend",
}


class AimiChat(OpenAI):
    name = "aimichat"
    limits_everywhere = True
    rewrites_choices = True

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        problem = super().worded(problem, brand)
        quota = problem.quota
        if problem.reason is Reason.INSUFFICIENT_QUOTA and quota is not None and quota.window in _WINDOWS:
            unit = _UNITS.get(quota.unit, quota.unit)
            return replace(problem, message=f"{_WINDOWS[quota.window]} {unit} limit reached")
        if problem.reason is Reason.SCOPE_NOT_ALLOWED:
            endpoint = problem.facts.get("endpoint")
            return replace(problem, message=f"API keys of this service support plain text chat only, not {endpoint}.")
        return problem

    def error(self, problem: Problem, brand: BrandRecord | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "error": _TITLES.get(problem.status, "Error"),
            "message": problem.message,
            "code": problem.code,
        }
        quota = problem.quota
        if problem.status == 429 and quota is not None and quota.unit != "nanos":
            body |= {"limit": quota.limit, "used": quota.used}
            body["resetAt"] = None if quota.resets_at_ms is None else iso_time(quota.resets_at_ms)
        return body

    def limit_headers(
        self, states: Sequence[LimitState], now_ms: int, *, refused_by: LimitState | None = None
    ) -> list[Header]:
        """The limit that refused, unless it is one of money; else of credits, else of requests, else of tokens the
        window with the least room left."""
        groups: tuple[tuple[str, ...], ...] = (CREDIT_UNITS, REQUEST_UNITS, TOKEN_UNITS)
        if refused_by is not None and refused_by.unit != "nanos":
            groups = ((refused_by.unit,), *groups)
        for units in groups:
            shown = shown_of(states, units, now_ms, refused_by)
            if shown is not None:
                break
        else:
            return []
        headers = [(b"x-ratelimit-limit", b"%d" % shown.limit), (b"x-ratelimit-remaining", b"%d" % shown.remaining)]
        if shown.resets_at_ms is not None:
            headers.append((b"x-ratelimit-reset", iso_time(shown.resets_at_ms).encode()))
        return headers

    def chunk(self, chunk: dict[str, Any], stamp: Stamp, usage_null: bool) -> dict[str, Any]:
        """Every delta has a content, as its page shows; that of the last one, which says finish_reason, is empty."""
        rewritten = super().chunk(chunk, stamp, usage_null)
        rewritten["choices"] = [_with_content(choice) for choice in rewritten["choices"]]
        return rewritten


def _with_content(choice: Any) -> Any:
    delta = choice.get("delta") if type(choice) is dict else None
    if type(delta) is not dict or type(delta.get("content")) is str:
        return choice
    return {**choice, "delta": {**delta, "content": ""}}
