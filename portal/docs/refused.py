"""How this brand's API says no: the gateway's one table of refusals, worded and wrapped by the brand's own dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from billing.hold import LimitState
from billing.models import Tier, Unit
from billing.windows import resets_at_ms
from portal.docs.surface import Surface
from portal.docs.tables import Cell, Table, amount, code
from portal.remedies import remedy
from proxy import cors
from proxy.refusals import TABLE, Problem, Quota, Reason, problem

_NOT_SHOWN = frozenset({Reason.INVALID_HOST, Reason.TOO_DEEP, Reason.HOLD_TOO_LARGE, Reason.CALL_LAPSED})
"""What a client never or hardly ever meets."""
_DETAILS = {
    Reason.INVALID_VALUE: "Invalid value for 'temperature': 3 is not from 0 to 2.",
    Reason.UNSUPPORTED_PARAMETER: "The model does not support this parameter.",
    Reason.MODEL_MAINTENANCE: "The model is in maintenance. Please try again later.",
    Reason.CONTEXT_LENGTH_EXCEEDED: "The request is longer than the model's context.",
    Reason.ENGINE_REFUSED_REQUEST: "The model refused the request.",
}
_PARAMETERS = {Reason.INVALID_VALUE: "temperature", Reason.MISSING_FIELD: "messages", Reason.MODEL_NOT_FOUND: "model"}


def sample(surface: Surface, reason: Reason) -> Problem:
    """The refusal as a customer of this brand could meet it."""
    path = f"{surface.base_path}/chat/completions"
    quota = quota_of(surface) if reason in (Reason.INSUFFICIENT_QUOTA, Reason.RATE_LIMITED) else None
    found = problem(
        reason,
        param=_PARAMETERS.get(reason),
        quota=quota,
        model="no-such-model" if reason is Reason.MODEL_NOT_FOUND else surface.model,
        limit=_limit_words(quota),
        detail=_DETAILS.get(reason, ""),
        method="POST",
        path=path,
        allowed="POST",
        scheme="this way",
        accepted=" or ".join(str(scheme.label) for scheme in surface.schemes),
        endpoint="chat completions",
        scope="chat",
        address="203.0.113.7",
        tier=_dearest_tier(surface),
    )
    return surface.dialect.worded(found, surface.record)


def _limit_words(quota: Quota | None) -> str:
    return "" if quota is None else f"{quota.limit:,} {quota.unit} per {quota.window}"


def _dearest_tier(surface: Surface) -> str:
    tiers = surface.snapshot.listed_tiers
    return tiers[-1].name if tiers else ""


def quota_of(surface: Surface) -> Quota:
    """The first limit of the tier that everybody starts on, used up."""
    state = next(iter(_states(surface)), None)
    if state is None or state.limit is None:
        return Quota("requests", "requests", "minute", "organization", 60, 60, 0, surface.now_ms + 60_000)
    return Quota(state.name, state.unit, state.window, state.scope, state.limit, state.limit, 0, state.resets_at_ms)


def _states(surface: Surface) -> Iterator[LimitState]:
    """The limits of the default tier as they might stand after one call; longest windows first."""
    tier = Tier.objects.filter(brand=surface.brand).order_by("-is_default", "rank").first()
    if tier is None:
        return
    for limit in tier.limits.exclude(unit=Unit.CONCURRENT).order_by("pk"):
        posted = min(limit.amount, 1 if limit.unit in (Unit.REQUESTS, Unit.CREDITS) else 60)
        resets_at = resets_at_ms(surface.now_ms, limit.window, surface.brand.timezone, surface.brand.month_anchor or 1)
        yield LimitState(limit.unit, limit.unit, limit.window, limit.scope, limit.amount, posted, 0, resets_at)


def limit_headers(surface: Surface) -> str:
    """Headers as the dialect writes them, from the limits of the tier that everybody starts on."""
    states = list(_states(surface))
    found = surface.dialect.limit_headers(states, surface.now_ms)
    return "\n".join(f"{name.decode()}: {value.decode()}" for name, value in found)


def readable_headers() -> str:
    """Headers of answers that pages in browsers may read."""
    return cors.EXPOSED.decode().replace(", ", "\n")


def errors(surface: Surface) -> Table:
    """Every refusal: status, the words of the envelope that programs test, and what to do."""
    found = sorted((sample(surface, reason) for reason in TABLE if _concerns(surface, reason)), key=_place)
    rows = [
        (
            amount(str(each.status)),
            code(*_words(surface, each)),
            Cell(message_of(surface, each), note=advice(each)),
        )
        for each in found
    ]
    return Table(("Status", "Code", "Message, and what to do"), rows)


def _words(surface: Surface, found: Problem) -> tuple[str, str]:
    """What programs test, as far as the envelope has it: the code, and the type beside it."""
    inner = _inner(surface, found)
    told = [str(inner[name]) for name in ("code", "type") if inner.get(name)]
    return (told[0], told[1] if len(told) > 1 else "") if told else ("–", "")


def _place(found: Problem) -> tuple[int, str]:
    return found.status, found.code


def _concerns(surface: Surface, reason: Reason) -> bool:
    if reason in _NOT_SHOWN:
        return False
    plain_only = reason.value == "chat_only"
    if plain_only:
        return surface.brand.is_plain_chat
    if reason.value.startswith(("session", "conversation")):
        return bool(surface.brand.conversation_days)
    return True


def body(surface: Surface, found: Problem) -> dict[str, Any]:
    return surface.dialect.error(found, surface.record)


def _inner(surface: Surface, found: Problem) -> dict[str, Any]:
    whole = body(surface, found)
    inner = whole.get("error")
    return inner if isinstance(inner, dict) else whole


def message_of(surface: Surface, found: Problem) -> str:
    inner = _inner(surface, found)
    said = [str(inner[name]) for name in ("error", "message") if isinstance(inner.get(name), str)]
    return ": ".join(said) or found.message


def advice(found: Problem) -> str:
    """The words that customers read on the portal's pages, too, and the wait that Retry-After says."""
    words = remedy(found.reason.value)
    seconds = -(-found.retry_after_ms // 1000)
    return f"{words} Wait {seconds} s." if found.retryable and seconds > 1 else words


def example_body(surface: Surface, name: str) -> str:
    """The body of the answer, byte for byte but for its line breaks."""
    return json.dumps(body(surface, sample(surface, Reason(name))), indent=2, ensure_ascii=False)


def with_status(surface: Surface, name: str) -> tuple[int, str]:
    found = sample(surface, Reason(name))
    return found.status, example_body(surface, name)
