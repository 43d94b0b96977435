"""What the lower rooms say, in the proxy's words: their refusals become Problems. Pure."""

from __future__ import annotations

from billing.hold import LimitState, Refusal
from billing.hold import Reason as BillingReason
from keys.credentials import SPELLED, CredentialsRefused
from keys.directory import KeyRefused
from proxy.limits import iso_time
from proxy.refusals import Problem, Quota, Reason, problem

TRANSIENT_MS_MAX = 60_000
_WINDOW_WORDS = {"minute": " per minute", "day": " per day", "month": " per month", "lifetime": " in total"}
_UNIT_WORDS = {"input": "input tokens", "output": "output tokens", "nanos": "spend", "concurrent": "running requests"}


def of_credentials(refused: CredentialsRefused) -> Problem:
    accepted = " or ".join(SPELLED[name] for name in refused.accepted)
    return problem(
        Reason(refused.reason.value), accepted=accepted, scheme=SPELLED.get(refused.scheme or "", "this way")
    )


def of_key(refused: KeyRefused, *, endpoint: str = "", scope: str = "", model: str = "", address: str = "") -> Problem:
    return problem(Reason(refused.reason.value), endpoint=endpoint, scope=scope, model=model, address=address)


def of_refusal(refusal: Refusal, *, model: str, now_ms: int) -> Problem:
    """Billing's refusal. What running calls hold, and minutes, pass by themselves; the rest needs a person or a day."""
    reason = Reason(refusal.reason.value)
    if reason in (Reason.PRICE_MISSING, Reason.HOLD_TOO_LARGE):
        return problem(reason, model=model)
    is_concurrency, running = refusal.reason is BillingReason.CONCURRENCY, refusal.held
    quota = Quota(
        name=refusal.name,
        unit=refusal.unit,
        window=refusal.window,
        scope=refusal.scope,
        limit=refusal.limit,
        used=running if is_concurrency else refusal.used,
        held=0 if is_concurrency else running,
        resets_at_ms=refusal.resets_at_ms,
    )
    wait_ms: int | None = None
    if refusal.resets_at_ms is not None:
        wait_ms = max(1, refusal.resets_at_ms - now_ms)
    if refusal.is_impossible:
        retryable: bool | None = False
    elif refusal.reason in (BillingReason.QUOTA_IN_FLIGHT, BillingReason.CONCURRENCY):
        retryable, wait_ms = True, None
    elif refusal.reason is BillingReason.RATE_LIMITED:
        retryable, wait_ms = True, None if wait_ms is None else min(wait_ms, TRANSIENT_MS_MAX)
    else:
        retryable = None
    return problem(reason, retry_after_ms=wait_ms, retryable=retryable, quota=quota, limit=words(refusal), model=model)


def words(refusal: Refusal) -> str:
    """The limit in words: "1,000 tokens per day per key, 950 used, resets at 2026-11-22T00:00:00Z". Amounts of money
    are not said; nor is a reset where the call fits as soon as others have finished."""
    unit = _UNIT_WORDS.get(refusal.unit, refusal.unit)
    resets = ""
    if refusal.resets_at_ms is not None and refusal.reason is not BillingReason.QUOTA_IN_FLIGHT:
        resets = f", resets at {iso_time(refusal.resets_at_ms)}"
    if refusal.unit == "nanos":
        spend = f"spend{_WINDOW_WORDS.get(refusal.window, '')}{resets}"
        return "prepaid balance" if refusal.name == "balance" else spend
    text = f"{refusal.limit:,} {unit}{_WINDOW_WORDS.get(refusal.window, '')}"
    if refusal.scope != "organization":
        text += f" per {refusal.scope}"
    if refusal.is_impossible and refusal.limit:
        return f"{text}; this request alone could need {refusal.need:,}"
    return text if refusal.unit == "concurrent" else f"{text}, {refusal.used:,} used{resets}"


def state_of(quota: Quota) -> LimitState:
    """The refusing limit as a line for the rate headers."""
    return LimitState(
        quota.name, quota.unit, quota.window, quota.scope, quota.limit, quota.used, quota.held, quota.resets_at_ms
    )
