"""The five surfaces' own words and shapes, from values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing.hold import LimitState
from proxy.dialects import DIALECTS, dialect_named
from proxy.dialects.protocol import Listed, Stamp
from proxy.refusals import Problem, Quota, Reason, problem
from tests.proxy.records import brand, model

PRICES = {"prompt": "0.0000008", "completion": "0.0000016"}
DAY_MS = 1_705_622_400_000  # 2024-01-19T00:00:00Z


def listed(**known: Any) -> Listed:
    fields = {"slug": "openai/gpt-4o", "created": 1_766_275_200, "name": "GPT", "description": "d"} | known
    return Listed(model(**fields), True, "Pro", PRICES, ("stop", "tools"))


def used_up(unit: str, window: str, reason: Reason = Reason.INSUFFICIENT_QUOTA) -> Problem:
    return problem(reason, quota=Quota(f"organization.{unit}.{window}", unit, window, "o", 100, 100, 0, DAY_MS))


def state(unit: str, window: str, limit: int, posted: int, held: int = 0, resets: int | None = DAY_MS) -> LimitState:
    return LimitState(f"organization.{unit}.{window}", unit, window, "organization", limit, posted, held, resets)


def said(name: str, trouble: Problem) -> tuple[int, Any]:
    dialect = dialect_named(name)
    worded = dialect.worded(trouble, brand())
    return worded.status, dialect.error(worded, brand())


# Dialogix -----------------------------------------------------------------------------------------------------------


def test_dialogix_says_where_to_upgrade_and_not_to_retry() -> None:
    gated = replace(
        problem(Reason.TIER_REQUIRED, model="aion-v3-tools", tier="Pro"), portal="http://localhost/dialogix/"
    )
    status, body = said("dialogix", gated)
    assert (status, body["error"]["code"]) == (403, "tier_required")
    assert "Pro tier" in body["error"]["message"]
    assert "http://localhost/dialogix/balance/" in body["error"]["message"]
    status, body = said("dialogix", used_up("tokens", "lifetime"))
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert body["error"]["message"].startswith("You have used up the 100 tokens of your tier. Upgrade")
    trouble = used_up("tokens", "lifetime")
    assert trouble.quota is not None
    nearly = replace(trouble, quota=replace(trouble.quota, used=90))
    assert said("dialogix", nearly)[1]["error"]["message"].startswith(
        "You have used 90 of the 100 tokens of your tier;"
    )
    assert not dialect_named("dialogix").worded(used_up("tokens", "lifetime"), brand()).retryable


def test_dialogix_says_that_its_gpu_is_loading() -> None:
    worded = dialect_named("dialogix").worded(problem(Reason.ENGINE_NOT_READY, model="aion-v3"), brand())
    assert (worded.status, worded.retry_after_ms) == (503, 30_000)
    assert worded.message == "Engine not ready: GPU is loading model, retry in 30s."


def test_dialogix_names_the_tier_of_a_model_as_its_page_does() -> None:
    assert dialect_named("dialogix").model(listed(), brand())["tier_required"] == "Pro+"


# Aion Labs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "status", "kind", "code"),
    [
        (Reason.MODEL_NOT_FOUND, 400, "invalid_request_error", "model_not_found"),
        (Reason.INVALID_JSON, 400, "invalid_request_error", "invalid_json"),
        (Reason.ENGINE_REFUSED_REQUEST, 400, "invalid_request_error", "invalid_request"),
        (Reason.ENGINE_MISCONFIGURED, 400, "configuration_error", "engine_misconfigured"),
        (Reason.INSUFFICIENT_QUOTA, 429, "rate_limit_error", "insufficient_quota"),
        (Reason.RATE_LIMITED, 429, "rate_limit_error", "rate_limit_exceeded"),
        (Reason.ENGINE_ERROR, 502, "provider_error", "engine_error"),
        (Reason.ENGINE_NOT_READY, 503, "provider_error", "engine_not_ready"),
        (Reason.ENGINE_TIMEOUT, 504, "provider_error", "engine_timeout"),
        (Reason.INVALID_KEY, 401, "authentication_error", "invalid_api_key"),
        (Reason.SCOPE_NOT_ALLOWED, 403, "permission_error", "insufficient_scope"),
        (Reason.BODY_TOO_LARGE, 413, "invalid_request_error", "request_too_large"),
    ],
)
def test_aion_labs_has_a_status_and_a_type_for_everything(reason: Reason, status: int, kind: str, code: str) -> None:
    found, body = said("aionlabs", problem(reason, model="x", detail="why"))
    assert (found, body["error"]["type"], body["error"]["code"]) == (status, kind, code)
    assert body["error"]["message"]


def test_the_catalogue_of_aion_labs_is_in_both_shapes() -> None:
    body = dialect_named("aionlabs").models([listed()], brand())
    assert body["object"] == "list"
    (item,), (same,) = body["models"], body["data"]
    assert item == same
    assert item["date"] == "2025-12-21"
    assert item["architecture"] == {"modality": "text->text"}
    assert item["is_moderated"] is False
    assert item["pricing"] == PRICES
    assert {"id", "object", "created", "owned_by", "name", "context_length", "max_completion_tokens"} <= item.keys()


# Axione -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "code"), [("requests", "daily_requests_exceeded"), ("tokens", "daily_tokens_exceeded")]
)
def test_axione_names_the_limit_of_a_day(unit: str, code: str) -> None:
    status, body = said("axione", used_up(unit, "day"))
    assert (status, body["error"]["code"], body["error"]["type"]) == (429, code, "rate_limit_error")
    assert said("axione", used_up(unit, "month"))[1]["error"]["code"] == "insufficient_quota"
    assert said("axione", used_up("nanos", ""))[1]["error"]["code"] == "insufficient_quota"


def test_axione_words_an_unknown_model_as_its_page_does() -> None:
    status, body = said("axione", problem(Reason.MODEL_NOT_FOUND, param="model", model="invalid/model"))
    assert status == 404
    assert body["error"].items() >= {
        ("type", "invalid_request_error"),
        ("message", "Model 'invalid/model' not found"),
        ("code", "model_not_found"),
    }


def test_axione_says_what_is_used_and_who_made_a_model() -> None:
    states = [state("requests", "day", 1000, 400, 1), state("tokens", "day", 250_000, 1_000)]
    headers = dict(dialect_named("axione").limit_headers(states, DAY_MS - 60_000))
    assert headers[b"x-ratelimit-limit-requests"] == b"1000"
    assert headers[b"x-ratelimit-used-requests"] == b"401"
    assert headers[b"x-ratelimit-reset-requests"] == b"1m0s"
    assert headers[b"x-ratelimit-used-tokens"] == b"1000"
    item = dialect_named("axione").model(listed(owned_by="axione"), brand())
    assert (item["owned_by"], item["supported_parameters"]) == ("openai", ["stop", "tools"])
    assert {"context_length", "pricing", "created", "object"} <= item.keys()


# AimiChat -----------------------------------------------------------------------------------------------------------


def test_a_used_up_day_of_aimichat_is_flat_and_says_all_of_it() -> None:
    status, body = said("aimichat", used_up("credits", "day"))
    assert status == 429
    assert body.items() >= {
        ("error", "Rate limit exceeded"),
        ("message", "Daily credit limit reached"),
        ("limit", 100),
        ("used", 100),
        ("resetAt", "2024-01-19T00:00:00Z"),
    }
    assert said("aimichat", used_up("credits", "month"))[1]["message"] == "Monthly credit limit reached"


@pytest.mark.parametrize("reason", [reason for reason in Reason if problem(reason).status != 429])
def test_other_errors_of_aimichat_are_flat_without_quota(reason: Reason) -> None:
    _, body = said("aimichat", problem(reason, detail="why"))
    assert body["error"]
    assert body["error"] != "Error"
    assert body["message"]
    assert not {"limit", "used", "resetAt"} & body.keys()


def test_aimichat_shows_the_tighter_of_day_and_month() -> None:
    dialect = dialect_named("aimichat")
    month = state("credits", "month", 1_000, 950, resets=DAY_MS + 86_400_000)
    day = state("credits", "day", 100, 24, 1)
    tokens = state("tokens", "day", 10, 10)
    headers = dict(dialect.limit_headers([day, tokens, month], 0))
    assert headers == {
        b"x-ratelimit-limit": b"1000",
        b"x-ratelimit-remaining": b"50",
        b"x-ratelimit-reset": b"2024-01-20T00:00:00Z",
    }
    assert dict(dialect.limit_headers([day, tokens], 0))[b"x-ratelimit-remaining"] == b"75"
    assert dialect.limit_headers([], 0) == []


def test_every_delta_of_aimichat_has_a_content() -> None:
    dialect, stamp = dialect_named("aimichat"), Stamp("id", 1, "aimichat-1")
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    chunk = dialect.chunk(last, stamp, False)
    assert chunk["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]
    usual = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
    assert dialect.chunk(usual, stamp, False)["choices"] == usual["choices"]


@pytest.mark.parametrize("name", DIALECTS)
def test_wording_twice_is_wording_once(name: str) -> None:
    dialect = dialect_named(name)
    for reason in Reason:
        for trouble in (problem(reason, model="m"), used_up("tokens", "day", reason)):
            once = dialect.worded(trouble, brand())
            assert dialect.worded(once, brand()) == once
