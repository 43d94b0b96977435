"""Every way the proxy says no: a named reason, and one table of what that means on the wire. Pure.

Dialects word a `Problem`; nobody else makes up statuses, codes or retry rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """The first groups are spelled as keys.credentials, keys.directory and billing.admission name them."""

    MISSING_KEY = "missing_key"
    MALFORMED_AUTHORIZATION = "malformed_authorization"
    DUPLICATE_AUTHORIZATION = "duplicate_authorization"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    SCHEME_NOT_ACCEPTED = "scheme_not_accepted"
    INVALID_KEY = "invalid_key"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    MANAGEMENT_KEY = "management_key"
    SCOPE_NOT_ALLOWED = "scope_not_allowed"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    TIER_REQUIRED = "tier_required"
    CHAT_ONLY = "chat_only"
    ORGANIZATION_SUSPENDED = "organization_suspended"
    BRAND_PAUSED = "brand_paused"

    INSUFFICIENT_QUOTA = "insufficient_quota"
    QUOTA_IN_FLIGHT = "quota_in_flight"
    RATE_LIMITED = "rate_limited"
    CONCURRENCY = "concurrency"
    TOO_MANY_REFUSED = "too_many_refused"
    PRICE_MISSING = "price_missing"
    HOLD_TOO_LARGE = "hold_too_large"
    STORE_UNAVAILABLE = "store_unavailable"
    DRAINING = "draining"
    OVERLOADED = "overloaded"

    INVALID_HOST = "invalid_host"
    UNKNOWN_PATH = "unknown_path"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    HEADERS_TOO_LARGE = "headers_too_large"
    BODY_TOO_LARGE = "body_too_large"
    BODY_TIMEOUT = "body_timeout"
    ENCODING_NOT_ACCEPTED = "encoding_not_accepted"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    INVALID_VALUE = "invalid_value"
    MISSING_FIELD = "missing_field"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_MAINTENANCE = "model_maintenance"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    IDEMPOTENT_CALL_RUNNING = "idempotent_call_running"
    IDEMPOTENT_CALL_SPENT = "idempotent_call_spent"
    SESSION_BUSY = "session_busy"
    SESSION_NOT_FOUND = "session_not_found"
    SESSION_UNREADABLE = "session_unreadable"
    CALL_NOT_FOUND = "call_not_found"

    ENGINE_REFUSED_REQUEST = "engine_refused_request"
    ENGINE_MISCONFIGURED = "engine_misconfigured"
    ENGINE_NOT_READY = "engine_not_ready"
    ENGINE_BUSY = "engine_busy"
    ENGINE_RATE_LIMITED = "engine_rate_limited"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    ENGINE_ERROR = "engine_error"
    ENGINE_UNREACHABLE = "engine_unreachable"
    ENGINE_TIMEOUT = "engine_timeout"
    ENGINE_CUT = "engine_cut"
    CALL_LAPSED = "call_lapsed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Row:
    """`retry_after_ms` is the default wait; a refusal that knows its reset overrides it. `retryable` False tells SDKs
    to stop (`x-should-retry: false`)."""

    status: int
    type: str
    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int = 0


REQUEST = "invalid_request_error"
AUTH = "authentication_error"
PERMISSION = "permission_error"
QUOTA = "insufficient_quota"
RATE = "rate_limit_error"
SERVER = "server_error"

ADMINISTRATIVE_WAIT_MS = 3_600_000
"""Retry-After where only a person can help (top up, upgrade): beyond what any SDK would wait."""

TABLE: dict[Reason, Row] = {
    Reason.MISSING_KEY: Row(
        401,
        AUTH,
        "invalid_api_key",
        "You did not provide an API key. Send it in the Authorization header: Authorization: Bearer YOUR_API_KEY.",
    ),
    Reason.MALFORMED_AUTHORIZATION: Row(
        401,
        AUTH,
        "invalid_api_key",
        "The Authorization header is not of the form 'Authorization: Bearer YOUR_API_KEY'.",
    ),
    Reason.DUPLICATE_AUTHORIZATION: Row(
        400, REQUEST, "duplicate_authorization", "The Authorization header was sent more than once; send it once."
    ),
    Reason.AMBIGUOUS_CREDENTIALS: Row(
        401, AUTH, "ambiguous_credentials", "Two different API keys were sent in one request; send exactly one."
    ),
    Reason.SCHEME_NOT_ACCEPTED: Row(
        401, AUTH, "scheme_not_accepted", "This API does not take keys by {scheme}. Use: {accepted}."
    ),
    Reason.INVALID_KEY: Row(
        401, AUTH, "invalid_api_key", "Incorrect API key provided. Check the key in your account's API keys page."
    ),
    Reason.KEY_REVOKED: Row(
        401, AUTH, "invalid_api_key", "This API key was revoked. Create a new key in your account's API keys page."
    ),
    Reason.KEY_EXPIRED: Row(
        401, AUTH, "invalid_api_key", "This API key has expired. Create a new key in your account's API keys page."
    ),
    Reason.MANAGEMENT_KEY: Row(
        403,
        PERMISSION,
        "management_key",
        "This is a management key: it manages your account and cannot call models. Use an API key instead.",
    ),
    Reason.SCOPE_NOT_ALLOWED: Row(
        403, PERMISSION, "insufficient_scope", "This API key may not use {endpoint}; it lacks the scope '{scope}'."
    ),
    Reason.ADDRESS_NOT_ALLOWED: Row(
        403, PERMISSION, "ip_not_allowed", "This API key may not be used from your address ({address})."
    ),
    Reason.MODEL_NOT_ALLOWED: Row(
        403, PERMISSION, "model_not_allowed", "This API key may not use the model '{model}'."
    ),
    Reason.TIER_REQUIRED: Row(
        403, PERMISSION, "tier_required", "The model '{model}' is not part of your tier. Upgrade to use it."
    ),
    Reason.CHAT_ONLY: Row(
        403, PERMISSION, "chat_only", "API keys of this service support plain text chat only{detail}."
    ),
    Reason.ORGANIZATION_SUSPENDED: Row(
        403, PERMISSION, "organization_suspended", "Your account is suspended. Please contact support."
    ),
    Reason.BRAND_PAUSED: Row(
        503, SERVER, "service_paused", "The service is paused by its operator. Please try again later.", False, 60_000
    ),
    Reason.INSUFFICIENT_QUOTA: Row(
        429,
        QUOTA,
        "insufficient_quota",
        "You exceeded your current quota ({limit}). Check your plan and billing details.",
        False,
        ADMINISTRATIVE_WAIT_MS,
    ),
    Reason.QUOTA_IN_FLIGHT: Row(
        429,
        RATE,
        "quota_in_flight",
        "Your running requests hold the rest of your quota ({limit}). Retry when they have finished.",
        True,
        1_000,
    ),
    Reason.RATE_LIMITED: Row(
        429, RATE, "rate_limit_exceeded", "Rate limit reached ({limit}). Please slow down and retry.", True, 1_000
    ),
    Reason.CONCURRENCY: Row(
        429,
        RATE,
        "concurrency_limit_exceeded",
        "Too many requests at the same time ({limit}). Retry when one has finished.",
        True,
        1_000,
    ),
    Reason.TOO_MANY_REFUSED: Row(
        429,
        RATE,
        "too_many_refused_requests",
        "Too many of your requests were refused ({limit}). Mend what they were refused for, and retry more slowly.",
        True,
        1_000,
    ),
    Reason.PRICE_MISSING: Row(
        503,
        SERVER,
        "price_missing",
        "The model '{model}' has no price yet, so it cannot be used. The operator has to set one.",
        False,
        60_000,
    ),
    Reason.HOLD_TOO_LARGE: Row(
        400, REQUEST, "request_too_large", "The worst case of this request is too large to be priced; ask for less."
    ),
    Reason.STORE_UNAVAILABLE: Row(
        503, SERVER, "service_unavailable", "The service is briefly unavailable. Please retry.", True, 2_000
    ),
    Reason.OVERLOADED: Row(
        503, SERVER, "service_overloaded", "This server has too much to do right now. Please retry.", True, 1_000
    ),
    Reason.DRAINING: Row(503, SERVER, "service_unavailable", "This server is restarting. Please retry.", True, 1_000),
    Reason.INVALID_HOST: Row(400, REQUEST, "invalid_host", "The Host header is missing, repeated or not known here."),
    Reason.UNKNOWN_PATH: Row(404, REQUEST, "unknown_url", "Unknown request URL: {method} {path}."),
    Reason.METHOD_NOT_ALLOWED: Row(
        405, REQUEST, "method_not_allowed", "{method} is not allowed for {path}; use {allowed}."
    ),
    Reason.HEADERS_TOO_LARGE: Row(431, REQUEST, "headers_too_large", "The request has too many or too large headers."),
    Reason.BODY_TOO_LARGE: Row(413, REQUEST, "request_too_large", "The request body is larger than {limit} bytes."),
    Reason.BODY_TIMEOUT: Row(408, REQUEST, "request_timeout", "The request body did not arrive in time.", True, 1_000),
    Reason.ENCODING_NOT_ACCEPTED: Row(
        415, REQUEST, "unsupported_encoding", "Content-Encoding is not supported; send the JSON body as it is."
    ),
    Reason.INVALID_JSON: Row(400, REQUEST, "invalid_json", "The request body is not a valid JSON object{detail}."),
    Reason.TOO_DEEP: Row(400, REQUEST, "invalid_json", "The request body is nested more than {limit} levels deep."),
    Reason.INVALID_VALUE: Row(400, REQUEST, "invalid_value", "{detail}"),
    Reason.MISSING_FIELD: Row(400, REQUEST, "missing_required_parameter", "Missing required parameter: '{param}'."),
    Reason.UNSUPPORTED_PARAMETER: Row(400, REQUEST, "unsupported_parameter", "{detail}"),
    Reason.MODEL_NOT_FOUND: Row(
        404, REQUEST, "model_not_found", "The model '{model}' does not exist or you do not have access to it."
    ),
    Reason.MODEL_MAINTENANCE: Row(503, SERVER, "model_maintenance", "{detail}", False, 60_000),
    Reason.CONTEXT_LENGTH_EXCEEDED: Row(400, REQUEST, "context_length_exceeded", "{detail}"),
    Reason.IDEMPOTENT_CALL_RUNNING: Row(
        409,
        REQUEST,
        "idempotency_key_in_use",
        "A request with this Idempotency-Key is still running. Retry to get its answer.",
        True,
        1_000,
    ),
    Reason.IDEMPOTENT_CALL_SPENT: Row(
        409,
        REQUEST,
        "idempotency_key_used",
        "The request with this Idempotency-Key ran as {call}, and what it delivered is charged, but its answer is not"
        " kept: it was cut short, or is too large. It is not run again; send a new Idempotency-Key to run it anew.",
    ),
    Reason.SESSION_BUSY: Row(
        409,
        REQUEST,
        "session_in_use",
        "Other requests of this session are still running. Retry when they have finished.",
        True,
        1_000,
    ),
    Reason.SESSION_NOT_FOUND: Row(404, REQUEST, "session_not_found", "There is no session of this name, or no more."),
    Reason.SESSION_UNREADABLE: Row(
        500,
        SERVER,
        "session_unreadable",
        "This session cannot be read any more. Delete it, or begin another one; retrying does not help.",
    ),
    Reason.CALL_NOT_FOUND: Row(
        404,
        REQUEST,
        "call_not_found",
        "Your account has no settled request of this id. One that has just ended is here a few seconds later.",
    ),
    Reason.ENGINE_REFUSED_REQUEST: Row(400, REQUEST, "invalid_request", "{detail}"),
    Reason.ENGINE_MISCONFIGURED: Row(
        500,
        SERVER,
        "engine_misconfigured",
        "The model '{model}' is not set up correctly. The operator has to mend it; retrying does not help.",
    ),
    Reason.ENGINE_NOT_READY: Row(
        503,
        SERVER,
        "engine_not_ready",
        "Engine not ready: the model '{model}' is being loaded. Retry in 30 seconds.",
        True,
        30_000,
    ),
    Reason.ENGINE_BUSY: Row(
        503, SERVER, "engine_busy", "The model '{model}' is busy. Please retry shortly.", True, 2_000
    ),
    Reason.ENGINE_RATE_LIMITED: Row(
        503, SERVER, "engine_busy", "The model '{model}' is overloaded. Please retry shortly.", True, 5_000
    ),
    Reason.ENGINE_UNAVAILABLE: Row(
        503, SERVER, "engine_unavailable", "The model '{model}' is unavailable. Please retry shortly.", True, 10_000
    ),
    Reason.ENGINE_ERROR: Row(
        502, SERVER, "engine_error", "The model '{model}' failed to answer. Please retry.", True, 1_000
    ),
    Reason.ENGINE_UNREACHABLE: Row(
        502, SERVER, "engine_unreachable", "The model '{model}' could not be reached. Please retry.", True, 2_000
    ),
    Reason.ENGINE_TIMEOUT: Row(
        504, SERVER, "engine_timeout", "The model '{model}' did not answer in time. Please retry.", True, 1_000
    ),
    Reason.ENGINE_CUT: Row(
        502, SERVER, "engine_error", "The model '{model}' stopped before its answer was complete.", True, 1_000
    ),
    Reason.CALL_LAPSED: Row(
        503, SERVER, "call_lapsed", "The request's reservation ended before its answer did. Please retry.", True, 1_000
    ),
    Reason.INTERNAL: Row(500, SERVER, "internal_error", "The server had an error. Please retry.", True, 1_000),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit that refused, for dialects that show it. Amounts in `unit`; `resets_at_ms` Unix ms or None."""

    name: str
    unit: str
    window: str
    scope: str
    limit: int
    used: int
    held: int
    resets_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal, ready to be worded by a dialect. `facts`: what the message was filled with. `portal`: the address of
    the brand's pages, set where a person may have to do something there."""

    reason: Reason
    status: int
    type: str
    code: str
    message: str
    retryable: bool
    retry_after_ms: int
    param: str | None = None
    quota: Quota | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    portal: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Declined(Exception):
    """Raised anywhere on a call's way; the pipeline turns it into the dialect's answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason, problem.message)
        self.problem = problem


NO_FACTS: dict[str, Any] = {
    "model": "",
    "limit": "",
    "detail": "",
    "param": "",
    "path": "",
    "method": "",
    "allowed": "",
    "scheme": "",
    "accepted": "",
    "endpoint": "",
    "scope": "",
    "address": "",
    "call": "",
}


def problem(
    reason: Reason,
    *,
    param: str | None = None,
    status: int | None = None,
    retry_after_ms: int | None = None,
    retryable: bool | None = None,
    quota: Quota | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    **facts: Any,
) -> Problem:
    """The table's row for `reason`, its message filled with `facts`."""
    row = TABLE[reason]
    values = NO_FACTS | facts
    if param is not None:
        values["param"] = param
    return Problem(
        reason=reason,
        status=row.status if status is None else status,
        type=row.type,
        code=row.code,
        message=row.message.format_map(values),
        retryable=row.retryable if retryable is None else retryable,
        retry_after_ms=row.retry_after_ms if retry_after_ms is None else retry_after_ms,
        param=param,
        quota=quota,
        facts=facts,
        headers=headers,
    )


def decline(reason: Reason, **known: Any) -> Declined:
    """`raise decline(Reason.X, param=…, …)`; the arguments are those of `problem`."""
    return Declined(problem(reason, **known))


def retry_headers(trouble: Problem) -> list[tuple[bytes, bytes]]:
    """Retry-After, retry-after-ms and x-should-retry. SDKs retry 408, 409, 429 and 5xx unless told otherwise."""
    status = trouble.status
    if status < 500 and status not in (402, 408, 409, 429):
        return [(b"x-should-retry", b"false")] if trouble.reason is Reason.TIER_REQUIRED else []
    headers = [(b"x-should-retry", b"true" if trouble.retryable else b"false")]
    if trouble.retry_after_ms:
        wait_ms = max(1, trouble.retry_after_ms)
        headers.append((b"retry-after", b"%d" % -(-wait_ms // 1000)))
        headers.append((b"retry-after-ms", b"%d" % wait_ms))
    return headers
