"""What an engine's refusal means to the client, and which of its words may be repeated. Pure.

Its 400, 413 and 422 are about the request; 401, 403, 404 and redirects say that it is set up wrongly; the rest is the
provider's trouble. Engine addresses and the model's name there never leave.
"""

from __future__ import annotations

from typing import Any

import orjson

from billing.snapshot import EngineRecord, ModelRecord, Route
from proxy.refusals import Problem, Reason, problem
from proxy.upstream import ConnectFailed, FirstByteTimeout, IdleTimeout, TotalTimeout, UpstreamFailure

MESSAGE_CHARS_MAX = 500
RETRY_AFTER_S_MAX = 60
_CONTEXT_WORDS = (
    *("maximum context length", "context length", "context size", "context window", "exceed_context_size"),
    *("maximum input length", "input is too long", "prompt is too long", "must have less than"),
)
_TELLTALE = ("http://", "https://", "traceback", 'file "', "/home/", "/root/", "/models/", "/mnt/", "site-packages")
_DEAD_ENDS = frozenset({401, 402, 403, 404, 405, 407, 410})


def of_answer(
    status: int, headers: dict[bytes, bytes], body: bytes, *, model: ModelRecord, engine: EngineRecord, route: Route
) -> Problem:
    """For an answer whose status is not 200."""
    said = message_in(body)
    if status in (400, 413, 422):
        return _clients_fault(said, model, engine, route)
    if status in _DEAD_ENDS or status < 400:
        return problem(Reason.ENGINE_MISCONFIGURED, model=model.slug)
    if status == 503 and is_loading(said):
        return problem(Reason.ENGINE_NOT_READY, model=model.slug)
    if status in (408, 504):
        return problem(Reason.ENGINE_TIMEOUT, model=model.slug)
    if status in (429, 503, 424):
        reason = Reason.ENGINE_UNAVAILABLE if status == 503 else Reason.ENGINE_RATE_LIMITED
        return problem(reason, retry_after_ms=_retry_after_ms(headers), model=model.slug)
    return problem(Reason.ENGINE_ERROR, model=model.slug)


def of_error_event(error: Any, model: ModelRecord, engine: EngineRecord, route: Route) -> Problem:
    """For an error that came under status 200: in a stream, or as the whole body."""
    status = error.get("code") if type(error) is dict else None
    if type(status) is int and status in (400, 413, 422):
        return _clients_fault(_words(error), model, engine, route)
    return problem(Reason.ENGINE_ERROR, model=model.slug)


def of_failure(failure: UpstreamFailure, model: ModelRecord) -> Problem:
    """For an exchange that broke before its answer had begun."""
    if isinstance(failure, ConnectFailed):
        return problem(Reason.ENGINE_UNREACHABLE, model=model.slug)
    if isinstance(failure, FirstByteTimeout | IdleTimeout | TotalTimeout):
        return problem(Reason.ENGINE_TIMEOUT, model=model.slug)
    return problem(Reason.ENGINE_ERROR, model=model.slug)


def message_in(body: bytes) -> str:
    """The engine's words in any of the shapes engines give errors; "" when there are none."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return _words(parsed)


def is_loading(said: str) -> bool:
    lowered = said.lower()
    return "loading" in lowered or "starting" in lowered or "not ready" in lowered


def _words(parsed: Any) -> str:
    if type(parsed) is not dict:
        return parsed if type(parsed) is str else ""
    for name in ("message", "error", "detail"):
        value = parsed.get(name)
        if type(value) is str and value:
            return value
        if type(value) is dict:
            return _words(value)
        if type(value) is list and value and type(value[0]) is dict:  # FastAPI: [{"loc", "msg"}]
            return str(value[0].get("msg", ""))
    return ""


def _clients_fault(said: str, model: ModelRecord, engine: EngineRecord, route: Route) -> Problem:
    lowered = said.lower()
    if any(words in lowered for words in _CONTEXT_WORDS):
        detail = (
            f"This model's maximum context length is {model.context_length} tokens. "
            "Your messages and the requested completion are longer; please shorten them."
        )
        return problem(Reason.CONTEXT_LENGTH_EXCEEDED, param="messages", detail=detail)
    return problem(Reason.ENGINE_REFUSED_REQUEST, detail=_fit_to_repeat(said, model, engine, route))


def _fit_to_repeat(said: str, model: ModelRecord, engine: EngineRecord, route: Route) -> str:
    plain = " ".join(said.replace(route.name_there, model.slug).split())[:MESSAGE_CHARS_MAX]
    lowered = plain.lower()
    place = engine.base_url.partition("://")[2].partition("/")[0].lower()
    secrets = (place, place.partition(":")[0], engine.name.lower())
    if not plain or any(word in lowered for word in (*_TELLTALE, *secrets)):
        return "The model refused the request; check its parameters."
    return plain


def _retry_after_ms(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"retry-after", b"")
    if not value.isdigit() or len(value) > 6:
        return None
    return 1000 * min(max(1, int(value)), RETRY_AFTER_S_MAX)
